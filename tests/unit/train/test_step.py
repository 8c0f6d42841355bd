"""One optimizer step: accumulation, clipping, sums, and randomness that does not depend on what was drawn before."""

from contextlib import nullcontext

import pytest
import torch

from dvt.config import AugmentConfig, Recipe
from dvt.data import Batch, Skipped, derive_seed
from dvt.train.losses import cascade_loss, count_correct
from dvt.train.step import Stepper, StepSums, autocast
from tests.unit.train.tiny import CASCADE, CPU, RECIPE, change, is_equal, make_batch, make_stepper, snapshot

# Adam divides by the gradient's size, and so tells nothing of it.
SGD = change(RECIPE, optimizer={"name": "sgd", "lr": 0.1, "warmup_epochs": 0})


def gradients(stepper: Stepper) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in stepper.state.model.parameters()])


def test_micro_batches_add_up_to_one_large_batch() -> None:
    whole, parts = make_stepper(SGD), make_stepper(SGD)
    batch, sums_whole, sums_parts = make_batch(12), StepSums.zeros(2, CPU), StepSums.zeros(2, CPU)
    pieces = zip(batch.images.split(4), batch.labels.split(4), strict=True)
    whole.step([batch], sums_whole)
    parts.step([Batch(*piece) for piece in pieces], sums_parts)
    torch.testing.assert_close(gradients(parts), gradients(whole), rtol=1e-5, atol=1e-6)
    for one, other in zip(parts.state.model.parameters(), whole.state.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert parts.state.step == whole.state.step == 1
    assert sums_parts.loss.item() / 3 == pytest.approx(sums_whole.loss.item(), rel=1e-6)
    assert (sums_parts.counted.tolist(), sums_whole.counted.tolist()) == ([12, 3], [12, 1])
    assert sums_parts.images == sums_whole.images == 12
    assert torch.equal(sums_parts.correct, sums_whole.correct)


def test_gradients_of_the_step_before_are_forgotten() -> None:
    frozen = change(SGD, optimizer={"lr": 1e-30, "min_lr": 0, "warmup_lr": 0})
    stepper = make_stepper(frozen)
    stepper.step([make_batch(4)], StepSums.zeros(2, CPU))
    once = gradients(stepper)
    stepper.step([make_batch(4)], StepSums.zeros(2, CPU))
    assert torch.equal(gradients(stepper), once)


def test_clipping_bounds_the_norm_and_keeps_the_direction() -> None:
    free, clipped, loose = (make_stepper(change(SGD, optimizer={"clip_grad": clip})) for clip in (None, 0.01, 1e6))
    for stepper in (free, clipped, loose):
        stepper.step([make_batch(4)], StepSums.zeros(2, CPU))
    norm = gradients(free).norm().item()
    assert norm > 0.1
    assert gradients(clipped).norm().item() == pytest.approx(0.01, rel=1e-3)
    torch.testing.assert_close(gradients(clipped), gradients(free) * (0.01 / norm), rtol=1e-3, atol=1e-9)
    assert torch.equal(gradients(loose), gradients(free))


def test_sums_add_up_over_steps() -> None:
    stepper, sums = make_stepper(RECIPE), StepSums.zeros(2, CPU)
    expected = StepSums.zeros(2, CPU)
    first, second = Skipped("a.jpg", "empty"), Skipped("b.jpg", "corrupt")
    for seed, skipped in enumerate([(first,), (), (second, first)]):
        batch = make_batch(4, seed)
        with torch.no_grad():
            logits = stepper.state.model(batch.images)
        _, targets = stepper.on_device(batch.images, batch.labels, 0)
        loss = cascade_loss(logits, targets, RECIPE.loss)
        expected.loss += loss.total
        expected.per_exit += loss.per_exit
        expected.correct += count_correct(logits, batch.labels)
        stepper.step([Batch(batch.images, batch.labels, skipped)], sums)
    torch.testing.assert_close(sums.loss, expected.loss)
    torch.testing.assert_close(sums.per_exit, expected.per_exit)
    assert torch.equal(sums.correct, expected.correct)
    assert (sums.images, sums.counted.tolist()) == (12, [12, 3])
    assert sums.skipped == [first, second, first]
    assert not sums.loss.requires_grad


def test_backbone_steps_train_each_stage_as_if_alone() -> None:
    recipe = change(SGD, train={"backbone_epochs": 1})  # of four steps
    both, first = make_stepper(recipe), make_stepper(change(recipe, cascade={"stages": CASCADE.stages[:1]}))
    for step in range(4):
        for stepper, num_exits in ((both, 2), (first, 1)):
            stepper.step([make_batch(4, step)], StepSums.zeros(num_exits, CPU))
    one, other = (stepper.state.model.stages[0].state_dict() for stepper in (both, first))
    for name, weight in one.items():  # torch attends in another way where nothing is handed on
        torch.testing.assert_close(weight, other[name], rtol=1e-5, atol=1e-7)


def test_joint_steps_follow_backbone_steps() -> None:
    stepper, told = make_stepper(change(RECIPE, train={"backbone_epochs": 1})), []
    stepper.state.model.register_forward_pre_hook(lambda _, given: told.append(given[1]))
    for step in range(6):
        stepper.step([make_batch(4, step)], StepSums.zeros(2, CPU))
    assert told == [False] * 4 + [True] * 2


def test_weights_that_wait_for_joint_training_stay_finite() -> None:
    stepper = make_stepper(change(RECIPE, optimizer={"name": "muon"}, train={"backbone_epochs": 1}))
    stepper.step([make_batch(4)], StepSums.zeros(2, CPU))
    assert all(weight.isfinite().all() for weight in stepper.state.model.parameters())


RANDOM = change(
    RECIPE, cascade={"drop_path": 0.5}, data={"augment": AugmentConfig(mixup=0.8, cutmix=1.0, mix_prob=1.0)}
)


def run_steps(stepper: Stepper, first: int, last: int) -> StepSums:
    sums = StepSums.zeros(2, CPU)
    for step in range(first, last):
        stepper.step([make_batch(4, 2 * step), make_batch(4, 2 * step + 1)], sums)
    return sums


@pytest.mark.parametrize("cascade", [{"drop_path": 0.5}, {"family": "t2t_vit"}], ids=["drop_path", "dropout"])
def test_a_restart_in_the_middle_draws_the_same(cascade: dict[str, object]) -> None:
    recipe = change(RANDOM, cascade=cascade)
    whole = make_stepper(recipe)
    torch.manual_seed(1)
    run_steps(whole, 0, 4)

    first = make_stepper(recipe)
    torch.manual_seed(2)
    run_steps(first, 0, 2)
    kept = snapshot(first.state)
    torch.rand(17)  # whatever else draws from the global generator
    second = make_stepper(recipe)
    second.state.model.load_state_dict(kept["model"])
    assert second.state.ema is not None
    second.state.ema.module.load_state_dict(kept["ema"])
    second.state.restore(kept["step"], kept["optimizer"])
    torch.rand(5)
    run_steps(second, 2, 4)
    assert is_equal(snapshot(second.state), snapshot(whole.state))


def loss_of_first_step(recipe: Recipe, rank: int = 0) -> float:
    stepper, sums = make_stepper(recipe, rank), StepSums.zeros(2, CPU)
    stepper.step([make_batch(4)], sums)
    return sums.loss.item()


def test_every_micro_batch_rank_and_seed_draws_anew() -> None:
    recipe = change(RANDOM, data={"augment": AugmentConfig(mixup=0, cutmix=0)})
    stepper, sums = make_stepper(recipe), StepSums.zeros(2, CPU)
    stepper.step([make_batch(4)] * 2, sums)
    first = loss_of_first_step(recipe)
    assert sums.loss.item() != pytest.approx(2 * first, rel=1e-5)
    assert loss_of_first_step(recipe, rank=1) != first
    assert loss_of_first_step(recipe) == first
    # The weights of another seed are other ones too, so the seed of dropout is told apart by the steps taken.
    later = make_stepper(recipe)
    later.state.step = 1
    sums = StepSums.zeros(2, CPU)
    later.step([make_batch(4)], sums)
    assert sums.loss.item() != first


def test_mixed_images_count_as_what_they_show_more_of() -> None:
    stepper, sums = make_stepper(change(RANDOM, cascade={"drop_path": 0})), StepSums.zeros(2, CPU)
    batch = make_batch(8)
    images, targets = stepper.on_device(batch.images, batch.labels, derive_seed(0, 0, 0, 0))
    assert not torch.equal(images, batch.images)
    assert (targets.amax(dim=-1) < 0.9).any()
    with torch.no_grad():
        logits = stepper.state.model(images)
    stepper.step([batch], sums)
    assert torch.equal(sums.correct, count_correct(logits, targets.argmax(dim=-1)).float())
    torch.testing.assert_close(sums.loss, cascade_loss(logits, targets, RANDOM.loss).total)


def test_no_mixed_precision_without_a_gpu() -> None:
    for amp in ("auto", "off"):
        assert isinstance(autocast(change(RECIPE, train={"amp": amp}), CPU), nullcontext)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_mixed_precision_on_a_gpu() -> None:
    device = torch.device("cuda")
    with autocast(RECIPE, device):
        product = torch.ones(2, 2, device=device) @ torch.ones(2, 2, device=device)
    assert product.dtype == (torch.bfloat16 if torch.cuda.is_bf16_supported(False) else torch.float32)
    assert isinstance(autocast(change(RECIPE, train={"amp": "off"}), device), nullcontext)
