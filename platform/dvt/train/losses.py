"""The training loss: a sum over exits of weighted cross-entropies with soft targets, and distillation if asked for.

Source: Wang et al., NeurIPS 2021, equation 2; distilling earlier exits from the last: Phuong and Lampert, ICCV 2019.

Shapes: E exits, B batch, C classes.
"""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from dvt.config import LossConfig


@dataclass(frozen=True)
class Loss:
    """The loss of one batch.

    Attributes:
        total: What is minimised, a scalar.
        per_exit: Each exit's cross-entropy, unweighted and detached, (E,).
    """

    total: Tensor
    per_exit: Tensor


def cascade_loss(logits: Tensor, targets: Tensor, config: LossConfig) -> Loss:
    """The loss of a batch.

    Args:
        logits: Logits of every exit, (E, B, C).
        targets: Soft targets whose rows sum to 1, (B, C).
        config: Weights of exits and of distillation.
    """
    logits = logits.float()
    per_exit = -(targets * logits.log_softmax(dim=-1)).sum(dim=-1).mean(dim=-1)  # (E,)
    weights = per_exit.new_tensor(config.exit_weights or [1.0] * len(logits))
    total = (weights * per_exit).sum()
    if config.distill_weight > 0 and len(logits) > 1:
        total = total + config.distill_weight * distillation(logits, config.distill_temperature)
    return Loss(total, per_exit.detach())


def distillation(logits: Tensor, temperature: float) -> Tensor:
    """How far the earlier exits' probabilities are from the last one's, which gets no gradient.

    Args:
        logits: Logits of every exit, (E, B, C), E at least 2.
        temperature: Divides the logits of both sides; its square keeps the gradient's scale.

    Returns:
        The Kullback-Leibler divergence summed over earlier exits, averaged over the batch; a scalar.
    """
    teacher = (logits[-1].detach() / temperature).log_softmax(dim=-1)  # (B, C)
    student = (logits[:-1] / temperature).log_softmax(dim=-1)  # (E-1, B, C)
    divergence = F.kl_div(student, teacher.expand_as(student), reduction="none", log_target=True)
    return temperature**2 * divergence.sum(dim=-1).mean(dim=-1).sum()


def count_correct(logits: Tensor, labels: Tensor) -> Tensor:
    """How many images each exit gets right, (E,), for logits (E, B, C) and labels (B,)."""
    return (logits.argmax(dim=-1) == labels).sum(dim=-1)
