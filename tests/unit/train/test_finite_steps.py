"""Steps whose loss or gradients are no numbers: what they change, which is nothing, and what is counted."""

import copy
import math

import pytest
import torch
from torch import nn

from dvt.data import Batch
from dvt.train.finite_steps import PassedOver, gradient_norm, spread, step_if, takes_flag
from dvt.train.step import StepSums
from tests.unit.train.tiny import CPU, RECIPE, is_equal, make_batch, make_stepper, snapshot

TRUE, FALSE = torch.tensor(True), torch.tensor(False)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_spreads_to_all_gradients(value: float) -> None:
    weight = torch.tensor([2.0, 3.0], requires_grad=True)
    # The loss is no number, though its own gradients would be finite.
    spread((weight * torch.tensor([1.0, 0.0])).sum() + value).backward()
    assert weight.grad is not None
    assert weight.grad.isnan().all()


def test_a_loss_that_is_a_number_keeps_its_gradients_bit_for_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(50, generator=generator, requires_grad=True)
    (weight.sin().sum() / 3).backward()
    expected, weight.grad = weight.grad, None
    (spread(weight.sin().sum()) / 3).backward()
    torch.testing.assert_close(weight.grad, expected, rtol=0, atol=1e-7)
    assert torch.equal(spread(weight.sum()), weight.sum())


@pytest.mark.parametrize(("clip", "left"), [(None, [3.0, 4.0]), (10.0, [3.0, 4.0]), (1.0, [0.6, 0.8])])
def test_the_norm_of_gradients_and_clipping(clip: float | None, left: list[float]) -> None:
    one, other, unused = (nn.Parameter(torch.zeros(1)) for _ in range(3))
    one.grad, other.grad = torch.tensor([3.0]), torch.tensor([4.0])
    assert gradient_norm([one, other, unused], clip).item() == pytest.approx(5)
    assert [one.grad.item(), other.grad.item()] == pytest.approx(left, rel=1e-5)


FUSED = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize("is_first", [True, False])
def test_a_fused_optimizer_passes_over_a_step_by_itself(name: str, is_first: bool) -> None:
    """As on a GPU, where the host does not know whether a step counts."""
    weight, other = (nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer, plain = (FUSED[name]([each], fused=True) for each in (weight, other))
    assert takes_flag(optimizer)
    for one in [] if is_first else [optimizer]:
        weight.grad = torch.full((3,), 0.5)
        step_if(one, TRUE)
        other.grad = torch.full((3,), 0.5)
        plain.step()
        assert torch.equal(weight, other)
    before = copy.deepcopy(optimizer.state_dict()["state"])
    weight.grad = torch.full((3,), math.nan)
    step_if(optimizer, FALSE)
    assert torch.equal(weight, other)
    if not is_first:
        assert is_equal(optimizer.state_dict()["state"], before)
    weight.grad = other.grad = torch.full((3,), 0.25)
    step_if(optimizer, TRUE)
    plain.step()
    assert torch.equal(weight, other)


def test_an_optimizer_that_is_not_fused_is_waited_for() -> None:
    optimizer = make_stepper(RECIPE).state.optimizer
    assert not takes_flag(optimizer)
    restored = torch.optim.AdamW([nn.Parameter(torch.ones(1))], fused=True)
    restored.load_state_dict(torch.optim.AdamW([nn.Parameter(torch.ones(1))]).state_dict())
    assert not takes_flag(restored)  # a checkpoint of one that was not fused


@pytest.mark.parametrize("is_finite", [TRUE, FALSE])
def test_on_a_cpu_a_step_that_does_not_count_is_not_taken(is_finite: torch.Tensor) -> None:
    weight = nn.Parameter(torch.ones(1))
    weight.grad = torch.ones(1)
    step_if(torch.optim.SGD([weight], lr=0.25), is_finite)
    assert weight.item() == (0.75 if is_finite else 1)


def test_steps_in_a_row_are_counted_over_logs() -> None:
    passed = PassedOver.none(CPU, in_a_row=2)
    rows = []
    for is_finite, is_own in ((FALSE, TRUE), (FALSE, FALSE), (TRUE, TRUE), (FALSE, FALSE)):
        passed.note(is_finite, is_own)
        rows.append((passed.steps.item(), passed.in_a_row.item(), passed.is_own.item()))
    assert rows == [(1, 3, False), (2, 4, True), (2, 0, False), (3, 1, True)]


def test_a_step_that_does_not_count_changes_nothing_but_the_count() -> None:
    stepper, sums = make_stepper(RECIPE), StepSums.zeros(2, CPU)
    good, bad = make_batch(4, 1), make_batch(4, 2)
    stepper.step([good], sums)
    before = snapshot(stepper.state)
    told = [sums.loss.item(), sums.per_exit.tolist(), sums.correct.tolist(), sums.counted.tolist()]
    bad.images[2] = math.nan
    stepper.step([Batch(bad.images, bad.labels)], sums)
    after = snapshot(stepper.state)
    assert is_equal(after["model"], before["model"])
    assert is_equal(after["optimizer"]["state"], before["optimizer"]["state"])
    assert (before["step"], after["step"]) == (1, 2)
    assert [sums.loss.item(), sums.per_exit.tolist(), sums.correct.tolist(), sums.counted.tolist()] == told
    assert sums.counted.tolist() == [4, 1]
    assert (sums.images, sums.passed_over.steps.item(), sums.passed_over.in_a_row.item()) == (8, 1, 1)
    assert sums.passed_over.is_own
    stepper.step([good], sums)
    assert sums.passed_over.in_a_row.item() == 0
    assert not is_equal(snapshot(stepper.state)["model"], before["model"])


def test_a_step_with_one_bad_micro_batch_does_not_count() -> None:
    stepper, sums = make_stepper(RECIPE), StepSums.zeros(2, CPU)
    before, bad = snapshot(stepper.state), make_batch(4, 2)
    bad.images[0] = math.nan
    stepper.step([bad, make_batch(4, 3)], sums)
    assert is_equal(snapshot(stepper.state)["model"], before["model"])
    assert sums.counted.tolist() == [0, 0]
