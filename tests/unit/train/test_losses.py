"""The loss: values worked by hand, and distillation against a loop."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dvt.config import AugmentConfig, LossConfig
from dvt.data.mixing import Mixer
from dvt.train.losses import cascade_loss, count_correct, distillation

LN3, LN9 = math.log(3), math.log(9)

# Two exits, two images, two classes. Softmax of (ln 3, 0) is (3/4, 1/4), of (ln 9, 0) it is (9/10, 1/10).
LOGITS = torch.tensor([[[LN3, 0.0], [0.0, 0.0]], [[LN9, 0.0], [0.0, LN9]]])
FIRST_THEN_SECOND = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
EXIT_1 = (math.log(4 / 3) + math.log(2)) / 2
EXIT_2 = math.log(10 / 9)


def random_logits(num_exits: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(num_exits, 4, 5, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 3


def test_the_loss_is_the_sum_of_the_exits_cross_entropies() -> None:
    loss = cascade_loss(LOGITS, FIRST_THEN_SECOND, LossConfig())
    assert loss.per_exit.tolist() == pytest.approx([EXIT_1, EXIT_2])
    assert loss.total.item() == pytest.approx(EXIT_1 + EXIT_2)


def test_weights_weigh_exits_and_leave_their_own_losses_alone() -> None:
    loss = cascade_loss(LOGITS, FIRST_THEN_SECOND, LossConfig(exit_weights=(0.5, 2.0)))
    assert loss.total.item() == pytest.approx(0.5 * EXIT_1 + 2 * EXIT_2)
    assert loss.per_exit.tolist() == pytest.approx([EXIT_1, EXIT_2])


def test_soft_targets() -> None:
    loss = cascade_loss(LOGITS[:1, :1], torch.tensor([[0.8, 0.2]]), LossConfig())
    assert loss.total.item() == pytest.approx(-0.8 * math.log(0.75) - 0.2 * math.log(0.25))


def test_label_smoothing_comes_through_the_targets() -> None:
    config = LossConfig(label_smoothing=0.1)
    labels = torch.tensor([0, 1])
    mixer = Mixer(AugmentConfig(mixup=0, cutmix=0), config, num_classes=2)
    _, targets = mixer(torch.zeros(2, 1, 4, 4), labels, seed=0)
    loss = cascade_loss(LOGITS, targets, config)
    expected = -(0.95 * math.log(0.75) + 0.05 * math.log(0.25) + math.log(0.5)) / 2
    assert loss.per_exit[0].item() == pytest.approx(expected)
    assert loss.per_exit[1].item() == pytest.approx(F.cross_entropy(LOGITS[1], labels, label_smoothing=0.1).item())


def test_the_parts_are_detached_and_the_total_is_not() -> None:
    logits = LOGITS.clone().requires_grad_()
    loss = cascade_loss(logits, FIRST_THEN_SECOND, LossConfig())
    assert not loss.per_exit.requires_grad
    loss.total.backward()
    expected = (LOGITS.softmax(-1) - FIRST_THEN_SECOND) / 2  # of the mean over two images
    torch.testing.assert_close(logits.grad, expected)


def test_bfloat16_logits_are_summed_in_float32() -> None:
    logits, targets = random_logits(3).bfloat16(), torch.full((4, 5), 0.2)
    half = cascade_loss(logits, targets, LossConfig(distill_weight=1.0)).total
    assert half.dtype == torch.float32
    assert half == cascade_loss(logits.float(), targets, LossConfig(distill_weight=1.0)).total


def naive_distillation(logits: Tensor, temperature: float) -> float:
    """T^2 times the mean over images of the sum over earlier exits and classes of p ln(p / q)."""
    exits = [[[value / temperature for value in image] for image in at_exit] for at_exit in logits.tolist()]
    probs = [[[math.exp(v) / sum(map(math.exp, image)) for v in image] for image in at_exit] for at_exit in exits]
    *earlier, last = probs
    total = 0.0
    for at_exit in earlier:
        for image, wanted in zip(at_exit, last, strict=True):
            total += sum(p * math.log(p / q) for p, q in zip(wanted, image, strict=True))
    return temperature**2 * total / len(last)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("num_exits", [2, 3, 4])
def test_distillation_is_what_a_loop_gives(num_exits: int, temperature: float) -> None:
    logits = random_logits(num_exits, dtype=torch.float64)
    found = distillation(logits, temperature)
    assert found.item() == pytest.approx(naive_distillation(logits, temperature), rel=1e-12)


def test_distillation_is_added_with_its_weight() -> None:
    config = LossConfig(distill_weight=0.25, distill_temperature=2.0)
    loss = cascade_loss(LOGITS, FIRST_THEN_SECOND, config)
    assert loss.total.item() == pytest.approx(EXIT_1 + EXIT_2 + 0.25 * naive_distillation(LOGITS, 2.0))
    assert loss.per_exit.tolist() == pytest.approx([EXIT_1, EXIT_2])


def test_exits_that_agree_have_nothing_to_learn_from_each_other() -> None:
    logits = random_logits(1).expand(3, -1, -1)
    assert distillation(logits, 2.0).item() == pytest.approx(0, abs=1e-6)


def test_the_last_exit_learns_nothing_from_distillation() -> None:
    logits = random_logits(3).requires_grad_()
    distillation(logits, 2.0).backward()
    assert logits.grad is not None
    assert not logits.grad[-1].any()
    assert all(logits.grad[index].any() for index in range(2))


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_gradient_of_distillation_has_the_size_of_cross_entropys(temperature: float) -> None:
    logits = random_logits(2).requires_grad_()
    distillation(logits, temperature).backward()
    student, teacher = (logits.detach() / temperature).softmax(-1)
    torch.testing.assert_close(logits.grad[0], temperature * (student - teacher) / 4)  # four images


def test_one_exit_has_nobody_to_distil_from() -> None:
    loss = cascade_loss(LOGITS[1:], FIRST_THEN_SECOND, LossConfig(distill_weight=5.0))
    assert loss.total.item() == pytest.approx(EXIT_2)
    assert loss.per_exit.shape == (1,)


def test_correct_images_are_counted_at_each_exit() -> None:
    assert count_correct(LOGITS, torch.tensor([0, 1])).tolist() == [1, 2]
    assert count_correct(LOGITS, torch.tensor([0, 0])).tolist() == [2, 1]  # of equal logits the first is taken
    assert count_correct(LOGITS, torch.tensor([1, 0])).tolist() == [1, 0]
