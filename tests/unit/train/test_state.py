"""What changes while training: schedule, decay, average, and going on after a restart."""

import math
from typing import Any

import pytest
import torch

from dvt.config import CascadeConfig, ConfigError, Recipe
from dvt.train.state import TrainingState
from dvt.train.step import StepSums
from tests.unit.train.tiny import CASCADE, CPU, RECIPE, change, is_equal, make_batch, make_stepper, snapshot

STEPS_PER_EPOCH = 4
OPTIMIZER = {"lr": 1e-3, "warmup_lr": 1e-6, "min_lr": 1e-5, "epochs": 5, "warmup_epochs": 2.0, "cooldown_epochs": 2}


def learning_rates(**optimizer: Any) -> list[float]:
    """The rate of each step from the first, and the one after the last."""
    recipe = change(RECIPE, optimizer=OPTIMIZER | optimizer, train={"ema_decay": None})
    state = TrainingState.create(recipe, STEPS_PER_EPOCH, CPU)
    rates = []
    for _ in range(recipe.optimizer.total_epochs * STEPS_PER_EPOCH + 1):
        [rate] = {group["lr"] for group in state.optimizer.param_groups}
        rates.append(rate)
        state.advance()
    return rates


def cosine(step: int) -> float:
    return 1e-5 + 0.5 * (1e-3 - 1e-5) * (1 + math.cos(math.pi * step / 20))


def test_the_schedule_worked_by_hand() -> None:
    rates = learning_rates()
    assert rates[0] == 1e-6
    assert rates[4] == pytest.approx((1e-6 + 1e-3) / 2)
    assert rates[7] == pytest.approx(1e-6 + (1e-3 - 1e-6) * 7 / 8)
    assert rates[10] == pytest.approx((1e-3 + 1e-5) / 2)
    assert rates[8:20] == pytest.approx([cosine(step) for step in range(8, 20)])
    assert rates[20:] == pytest.approx([1e-5] * 9)
    assert max(rates) <= 1e-3


@pytest.mark.parametrize(
    "optimizer",
    [
        {"warmup_epochs": 0.0},
        {"warmup_epochs": 0.3},
        {"warmup_epochs": 5.0},
        {"warmup_lr": 0.0, "min_lr": 0.0},
        {"epochs": 1, "warmup_epochs": 1.0},
        {"cooldown_epochs": 0},
        {"warmup_lr": 1e-3},
        {"min_lr": 1e-3},
    ],
)
def test_the_rate_stays_between_its_bounds(optimizer: dict[str, float]) -> None:
    rates = learning_rates(**optimizer)
    asked = OPTIMIZER | optimizer
    assert all(min(asked["warmup_lr"], asked["min_lr"]) <= rate <= asked["lr"] for rate in rates)
    assert rates[-1] == asked["min_lr"]


def test_no_warm_up_starts_at_the_peak() -> None:
    assert learning_rates(warmup_epochs=0.0)[0] == 1e-3


def test_a_part_of_an_epoch_warms_up_for_the_next_whole_step() -> None:
    rates = learning_rates(warmup_epochs=0.3)  # 1.2 steps
    assert rates[:3] == pytest.approx([1e-6, (1e-6 + 1e-3) / 2, cosine(2)])


T2T = CascadeConfig(**(vars(CASCADE) | {"family": "t2t_vit"}))


@pytest.mark.parametrize("cascade", [CASCADE, T2T], ids=["vit", "t2t_vit"])
def test_norms_biases_class_tokens_and_positions_are_not_decayed(cascade: CascadeConfig) -> None:
    recipe = change(RECIPE, cascade=vars(cascade), optimizer={"weight_decay": 0.25})
    state = TrainingState.create(recipe, STEPS_PER_EPOCH, CPU)
    names = {parameter: name for name, parameter in state.model.named_parameters() if parameter.requires_grad}
    decay = {
        names[parameter]: group["weight_decay"]
        for group in state.optimizer.param_groups
        for parameter in group["params"]
    }
    assert sorted(decay) == sorted(names.values())  # each parameter in one group
    free = {name for name, value in decay.items() if value == 0}
    assert free | {name for name, value in decay.items() if value == 0.25} == set(decay)
    endings = ("bias", "cls_token", "pos_embed")
    norms = {f"{name}.weight" for name, module in state.model.named_modules() if isinstance(module, torch.nn.LayerNorm)}
    assert norms
    assert free == {name for name in decay if name.endswith(endings)} | norms
    assert {"stages.0.cls_token", "stages.1.blocks.1.attn.proj.bias", "stages.1.norm.weight"} <= free
    assert ("stages.1.pos_embed" in free) == (cascade.family == "vit")  # a fixed table in T2T-ViT


def test_the_average_moves_by_its_decay() -> None:
    state = TrainingState.create(change(RECIPE, train={"ema_decay": 0.75}), STEPS_PER_EPOCH, CPU)
    before = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
    with torch.no_grad():
        for parameter in state.model.parameters():
            parameter += 4
    state.advance()
    state.advance()
    averaged = state.evaluated_model.state_dict()
    for name, parameter in state.model.named_parameters():
        # After one step a quarter of the way, after two 1 - 0.75^2 of it.
        torch.testing.assert_close(averaged[name], before[name] + 4 * 0.4375, msg=name)
        assert torch.equal(parameter, before[name] + 4)
    assert state.step == 2


def test_without_an_average_the_model_itself_is_measured() -> None:
    state = TrainingState.create(change(RECIPE, train={"ema_decay": None}), STEPS_PER_EPOCH, CPU)
    assert state.ema is None
    assert state.evaluated_model is state.model


def test_weights_follow_from_the_seed_alone() -> None:
    def weights(recipe: Recipe, disturbance: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(disturbance)
        return TrainingState.create(recipe, STEPS_PER_EPOCH, CPU).model.state_dict()

    assert is_equal(weights(RECIPE, 1), weights(RECIPE, 2))
    assert not is_equal(weights(RECIPE, 1), weights(change(RECIPE, train={"seed": 1}), 1))


def test_the_average_starts_as_the_model() -> None:
    state = TrainingState.create(RECIPE, STEPS_PER_EPOCH, CPU)
    assert is_equal(state.model.state_dict(), state.evaluated_model.state_dict())


def test_a_restored_state_goes_on_as_if_nothing_had_been() -> None:
    one, batches = make_stepper(RECIPE), [make_batch(4, seed) for seed in range(5)]
    sums = StepSums.zeros(2, CPU)
    for batch in batches[:3]:
        one.step([batch], sums)
    kept = snapshot(one.state)

    other = make_stepper(change(RECIPE, train={"seed": 7}))  # other weights, all of which are replaced
    other.state.model.load_state_dict(kept["model"])
    assert other.state.ema is not None
    other.state.ema.module.load_state_dict(kept["ema"])
    other.state.restore(kept["step"], kept["optimizer"])
    assert is_equal(snapshot(other.state), kept)
    for batch in batches[3:]:
        one.step([batch], sums)
        other.step([batch], sums)
    assert one.state.step == other.state.step == 5
    assert is_equal(snapshot(one.state), snapshot(other.state))
    rates = [stepper.state.optimizer.param_groups[0]["lr"] for stepper in (one, other)]
    assert rates[0] == rates[1]


def test_an_optimizer_that_timm_does_not_have() -> None:
    with pytest.raises(ConfigError) as caught:
        TrainingState.create(change(RECIPE, optimizer={"name": "adamww"}), STEPS_PER_EPOCH, CPU)
    assert str(caught.value) == (
        "optimizer.name must be an optimizer of timm that works here, got 'adamww' "
        "(Optimizer adamww not found in registry); did you mean adamw?"
    )
    with pytest.raises(ConfigError, match=r"got 'xyz' \(Optimizer xyz not found in registry\); choose adamw, lamb or "):
        TrainingState.create(change(RECIPE, optimizer={"name": "xyz"}), STEPS_PER_EPOCH, CPU)


@pytest.mark.parametrize("name", ["adamw", "lamb", "sgd", "lion", "AdamW"])
def test_optimizers_by_their_names_in_timm(name: str) -> None:
    stepper = make_stepper(change(RECIPE, optimizer={"name": name}))
    before = snapshot(stepper.state)
    stepper.step([make_batch(4)], StepSums.zeros(2, CPU))
    assert not is_equal(before["model"], snapshot(stepper.state)["model"])
