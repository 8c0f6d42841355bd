"""Steps whose loss or gradients are no numbers: passed over by all workers alike, counted, and never waited for.

A loss that is no number makes all gradients of its worker NaN, and the exchange of gradients makes those of all workers
so. The norm of what was exchanged then tells each worker the same, without a message of its own. On a GPU nothing waits
for that norm where the optimizer is fused, as Adam and AdamW are there. Which steps were passed over is read with
the metrics, every `train.log_every_steps`.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


@dataclass
class PassedOver:
    """Steps since the last log that did not count; stays on the device.

    Attributes:
        steps: How many, a scalar.
        in_a_row: How many the last ones in a row were, also over earlier logs, a scalar.
        is_own: Whether in the last step this worker's own loss was no number, a scalar.
    """

    steps: Tensor
    in_a_row: Tensor
    is_own: Tensor

    @classmethod
    def none(cls, device: torch.device, in_a_row: int = 0) -> "PassedOver":
        """None so far, but for those that were last before."""
        steps, row = (torch.full((), value, dtype=torch.float64, device=device) for value in (0.0, in_a_row))
        return cls(steps, row, torch.zeros((), dtype=torch.bool, device=device))

    def note(self, is_finite: Tensor, is_own_finite: Tensor) -> None:
        """Note whether a step counted, and whether this worker's loss was a number."""
        self.steps = self.steps + ~is_finite
        self.in_a_row = (self.in_a_row + 1) * ~is_finite
        self.is_own = ~is_own_finite


def spread(loss: Tensor) -> Tensor:
    """The same loss with the same gradients; of one that is no number all gradients are NaN."""
    return loss * (loss.detach() * 0 + 1)


def gradient_norm(parameters: Iterable[nn.Parameter], clip: float | None) -> Tensor:
    """The norm of all gradients together, a scalar on their device; they are clipped to `clip` if it is given."""
    weights = list(parameters)
    if clip is not None:
        return nn.utils.clip_grad_norm_(weights, clip)
    return nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])


def step_if(optimizer: Optimizer, is_finite: Tensor) -> None:
    """Let an optimizer step where `is_finite`, a scalar on the device of the weights; else change nothing.

    A fused optimizer is given the flag where it is. With any other a GPU is waited for: to put back on the device what
    it changed took a third of a step's time, and waiting 2 % (H100, 504 tensors of 62 M weights).
    """
    if takes_flag(optimizer):
        # As `torch.amp.GradScaler` hands over that a gradient is no number (torch 2.15).
        optimizer.found_inf = (~is_finite).float()  # type: ignore[attr-defined]  # optimizers that scale read it
        optimizer.step()
    elif is_finite:
        optimizer.step()


def takes_flag(optimizer: Optimizer) -> bool:
    """Whether an optimizer passes over a step by itself; one that goes on from a checkpoint may not be fused again."""
    return all(group.get("fused") for group in optimizer.param_groups)
