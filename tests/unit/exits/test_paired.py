"""The paired bootstrap: as wide as theory says, as resampling images gives, and right as often as it says."""

import math
import re

import numpy as np
import pytest
from numpy.typing import NDArray

from dvt.exits.paired import PairedDifference, paired_difference


def right(shares: dict[tuple[int, int], int]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Two models' answers: so many images of each (first is right, second is right)."""
    pairs = np.concatenate([np.tile(pair, (count, 1)) for pair, count in shares.items()]).astype(bool)
    return pairs[:, 0], pairs[:, 1]


def test_where_all_images_agree_there_is_nothing_to_vary() -> None:
    first, second = right({(1, 1): 30, (0, 0): 10})
    assert paired_difference(first, second) == PairedDifference(0.0, 0.0, 0.0)
    assert paired_difference(first.astype(float) + 2, second.astype(float)) == PairedDifference(2.0, 2.0, 2.0)


def test_the_interval_is_as_wide_as_the_normal_one_of_paired_shares() -> None:
    first, second = right({(1, 1): 1500, (1, 0): 200, (0, 1): 100, (0, 0): 200})
    found = paired_difference(first, second, num_resamples=20_000)
    error = 1.96 * math.sqrt((0.15 - 0.05**2) / 2000)  # 15 % of the images differ, by 5 % on balance
    assert found.mean == pytest.approx(0.05)
    np.testing.assert_allclose([found.low, found.high], [0.05 - error, 0.05 + error], atol=6e-4)
    # Two samples that are not of the same images would be 1.4 times as wide.
    apart = 1.96 * math.sqrt((0.85 * 0.15 + 0.80 * 0.20) / 2000)
    assert apart / error == pytest.approx(1.39, abs=0.01)


def test_three_images_of_a_hundred_prove_nothing_and_four_do() -> None:
    # A resample without any of k images of 100 has probability (1 - k / 100) ^ 100: 4.8 % of three, 1.7 % of four.
    three = paired_difference(*right({(1, 0): 3, (1, 1): 97}))
    four = paired_difference(*right({(1, 0): 4, (1, 1): 96}))
    assert (three.low, four.low) == (0.0, 0.01)


def test_it_is_what_resampling_the_images_gives() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.choice([1e6, 2e6, 5e6], 60), generator.choice([1e6, 3e6], 60)
    found = paired_difference(first, second, num_resamples=40_000, level=0.9)
    drawn = (first - second)[generator.integers(60, size=(40_000, 60))].mean(axis=1)
    np.testing.assert_allclose([found.low, found.high], np.quantile(drawn, (0.05, 0.95)), atol=1e4)
    assert found.mean == pytest.approx((first - second).mean())


@pytest.mark.parametrize(("level", "least", "most"), [(0.95, 0.93, 0.97), (0.8, 0.76, 0.84)])
def test_the_interval_holds_the_truth_as_often_as_it_says(level: float, least: float, most: float) -> None:
    generator = np.random.default_rng(1)
    truth, held = 0.06 - 0.04, 0
    for seed in range(1000):
        kinds = generator.choice(4, size=500, p=[0.70, 0.06, 0.04, 0.20])
        found = paired_difference(kinds <= 1, (kinds == 0) | (kinds == 2), num_resamples=1000, level=level, seed=seed)
        held += found.low <= truth <= found.high
    assert least <= held / 1000 <= most


def test_the_seed_decides() -> None:
    first, second = np.random.default_rng(2).random((2, 300)) < 0.6
    assert paired_difference(first, second) == paired_difference(first, second)
    assert paired_difference(first, second) != paired_difference(first, second, seed=1)


@pytest.mark.parametrize(
    ("shapes", "changes", "message"),
    [
        ((3, 4), {}, "both must hold one number an image, got shapes (3,) and (4,)"),
        ((0, 0), {}, "both must hold one number an image, got shapes (0,) and (0,)"),
        ((3, 3), {"num_resamples": 999}, "num_resamples must be at least 1000, got 999"),
        ((3, 3), {"level": 1.0}, "level must be between 0 and 1, got 1"),
    ],
)
def test_what_is_asked_wrong(shapes: tuple[int, int], changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        paired_difference(np.zeros(shapes[0]), np.zeros(shapes[1]), **changes)  # type: ignore[arg-type]
