"""Thresholds with a promise: the bound is one, the promise holds often enough, and nothing is promised in vain."""

import json
import math
import re

import numpy as np
import pytest

from dvt.exits import ExitScores, Guarantee, guaranteed_thresholds, measure_point, split_calibration
from dvt.exits.guarantee import loss_bounds
from tests.unit.exits.examples import FOUR_IMAGES, cascade_scores, costs

INF = math.inf


def test_bounds_worked_by_hand() -> None:
    # No loss in n images: the bound solves (1 - p)^n = 0.04; only losses: (1 - p)^n = 0.04 is not reached below 1.
    bounds = loss_bounds(np.array([0, 10]), np.array([0, 0]), 10, 0.05)
    assert bounds == pytest.approx([1 - 0.04 ** (1 / 10), 1])
    # All images are gains: at least p with p^n = 0.01 of them are, and no losses bring it back by less.
    (gained,) = loss_bounds(np.array([0]), np.array([10]), 10, 0.05)
    assert gained == pytest.approx(1 - 0.04 ** (1 / 10) - 0.01 ** (1 / 10))


@pytest.mark.parametrize("error", [0.05, 0.3])
def test_bounds_fail_no_more_often_than_they_may(error: float) -> None:
    """Exactly: over all outcomes of 25 images, for many true shares of losses and gains."""
    num_images = 25
    pairs = [(a, b) for a in range(num_images + 1) for b in range(num_images + 1 - a)]
    losses, gains = np.array(pairs).T
    bounds = loss_bounds(losses, gains, num_images, error)
    factorials = np.array([math.lgamma(number + 1) for number in range(num_images + 1)])
    rest = num_images - losses - gains
    ways = factorials[num_images] - factorials[losses] - factorials[gains] - factorials[rest]
    worst = 0.0
    for lost in (0.01, 0.05, 0.113, 0.3, 0.7):
        for gained in (0.0001, 0.02, 0.1, 0.29):
            chances = np.exp(
                ways + losses * math.log(lost) + gains * math.log(gained) + rest * math.log(1 - lost - gained)
            )
            assert chances.sum() == pytest.approx(1)
            worst = max(worst, chances[bounds < lost - gained].sum())
    assert error / 4 < worst <= error


def test_the_promise_is_kept_as_often_as_it_says() -> None:
    """600 times: draw calibration images from a population, choose, and look up the true loss."""
    population, macs = cascade_scores(2, 20_000, seed=0), costs(2)
    tolerated, generator = 0.05, np.random.default_rng(0)
    broken, spent = [], []
    for _ in range(600):
        drawn = generator.integers(0, population.num_images, 600)
        sample = ExitScores(population.confidence[:, drawn], population.correct[:, drawn])
        found = guaranteed_thresholds(sample, macs, tolerated, level=0.95)
        true_loss = population.top1[-1] - measure_point(population, macs, found.thresholds).accuracy
        broken.append(true_loss > tolerated)
        spent.append(found.macs)
    assert 0.01 < np.mean(broken) <= 0.05  # nearly as often as it may be
    assert np.mean(spent) < 0.75 * macs[-1]  # and yet it saves


def test_more_tolerance_is_cheaper_and_more_certainty_dearer() -> None:
    sample, macs = cascade_scores(3, 8000, seed=1), costs(3)
    losses = [guaranteed_thresholds(sample, macs, tolerated).macs for tolerated in (0.005, 0.02, 0.05)]
    levels = [guaranteed_thresholds(sample, macs, 0.02, level).macs for level in (0.5, 0.95, 0.9999)]
    assert macs[-1] > losses[0] > losses[1] > losses[2]
    assert levels == sorted(levels)


def test_what_was_found_is_told() -> None:
    sample, macs = cascade_scores(3, 4000, seed=2), costs(3)
    found = guaranteed_thresholds(sample, macs, tolerated_loss=0.02, level=0.9)
    _, tested = split_calibration(4000)
    half = ExitScores(sample.confidence[:, tested], sample.correct[:, tested])
    measured = measure_point(half, macs, found.thresholds)
    assert (found.tolerated_loss, found.level, found.num_tested) == (0.02, 0.9, 2000)
    assert found.macs == measured.macs
    assert half.top1[-1] - measured.accuracy < found.bound <= 0.02
    assert Guarantee.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False))) == found


@pytest.mark.parametrize("sample", [FOUR_IMAGES, cascade_scores(3, 1, seed=0), cascade_scores(1, 50, seed=0)])
def test_where_nothing_can_be_promised_all_run_to_the_end(sample: ExitScores) -> None:
    macs = costs(sample.num_exits)
    found = guaranteed_thresholds(sample, macs, tolerated_loss=0.0)
    assert found.thresholds == (*[INF] * (sample.num_exits - 1), -INF)
    assert (found.bound, found.macs) == (0, macs[-1])


def test_the_halves_are_disjoint_and_the_same_again() -> None:
    first, second = split_calibration(101)
    assert sorted([*first, *second]) == list(range(101))
    assert len(first) == 50
    assert np.array_equal(first, split_calibration(101)[0])
    assert not np.array_equal(first, split_calibration(101, seed=1)[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tolerated_loss": -0.1}, "tolerated_loss must be from 0 to 1, got -0.1"),
        ({"level": 1.0}, "level must be between 0 and 1, got 1"),
        ({"level": math.nan}, "level must be between 0 and 1, got nan"),
    ],
)
def test_promises_that_make_no_sense(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        guaranteed_thresholds(FOUR_IMAGES, (100, 300), **arguments)


def test_other_json_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^a guarantee must hold the fields of Guarantee, got others"):
        Guarantee.from_dict({"thresholds": [0.5, "-inf"]})
