"""Which choices mattered, where it is known."""

from dataclasses import replace

import pytest

from dvt.search.importance import features_of, importances, varied_features
from dvt.search.results import TrialResult
from tests.unit.search.made_up import front_of, trials_of


def with_values(values: list[float]) -> tuple[TrialResult, ...]:
    """Trials of different cascades with these hypervolumes."""
    trials = trials_of([front_of((6e5, 0.7))] * len(values))
    pairs = zip(trials, values, strict=True)
    return tuple(replace(trial, epochs=(replace(trial.epochs[0], hypervolume=value),)) for trial, value in pairs)


def test_features_of_the_first_point() -> None:
    (trial,) = trials_of([front_of((6e5, 0.7))])
    told = features_of(trial)
    assert (told["exits"], told["first grid"], told["last grid"]) == (3, 2, 7)
    assert (told["feature reuse depth"], told["relation reuse depth"], told["context width"]) == (3, 3, 16)
    assert (told["optimizer.lr"], told["loss.distill_weight"]) == (4e-3, 0)


def test_the_choice_that_decides_explains_most() -> None:
    trials = trials_of([front_of((6e5, 0.7))] * 40)
    rows = [features_of(trial) for trial in trials]
    decided = tuple(
        replace(trial, epochs=(replace(trial.epochs[0], hypervolume=row["last grid"] / 7 + 0.001 * row["exits"]),))
        for trial, row in zip(trials, rows, strict=True)
    )
    shares = importances(decided)
    assert next(iter(shares)) == "last grid"
    assert shares["last grid"] > 0.7
    assert sum(shares.values()) == pytest.approx(1)
    assert importances(decided) == shares


def test_too_few_trials_say_nothing() -> None:
    assert importances(trials_of([front_of((6e5, 0.7)), front_of((6e5, 0.8)), front_of((6e5, 0.9))])) == {}
    same = trials_of([front_of((6e5, 0.7))] * 6)
    assert importances(same) == {}


def test_only_what_differs_is_told() -> None:
    trials = trials_of([front_of((6e5, 0.7))] * 8)
    varied = varied_features(trials)
    assert "exits" in varied
    assert "width" not in varied  # the space has one
    assert all(len(values) == 8 for values in varied.values())


@pytest.mark.parametrize("spread", [1e-16, 1e-8])
def test_rounding_is_no_difference(spread: float) -> None:
    assert importances(with_values([0.1, 0.1 + spread] * 3)) == {}


def test_a_small_difference_of_many_trials_is_told() -> None:
    shares = importances(with_values([0.1] * 39 + [0.1 + 2e-6]))
    assert sum(shares.values()) == pytest.approx(1)


def test_a_single_exit_reuses_nothing() -> None:
    trials = trials_of([front_of((6e5, 0.7))] * 20)
    single = next(features_of(trial) for trial in trials if trial.recipe.cascade.num_exits == 1)
    assert single["first grid"] == single["last grid"]
    assert single["feature reuse depth"] == single["relation reuse depth"] == single["relation upstream depth"] == 0


def test_reuse_depth_is_the_mean_of_the_later_stages() -> None:
    (trial,) = trials_of([front_of((6e5, 0.7))])
    cascade = trial.recipe.cascade
    first, second, third = cascade.stages
    stages = (first, replace(second, feature_reuse_depth=0), replace(third, feature_reuse_depth=3))
    mixed = replace(trial, recipe=replace(trial.recipe, cascade=replace(cascade, stages=stages)))
    assert features_of(mixed)["feature reuse depth"] == 1.5
