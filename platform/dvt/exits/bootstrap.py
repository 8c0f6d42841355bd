"""How sure a measured front is: bootstrap bands of accuracy and mean cost over the test images.

Thresholds stay as they were chosen; only the images are drawn anew, with replacement, after Efron, "Bootstrap Methods:
Another Look at the Jackknife", 1979 (percentile intervals). One draw serves all points, so bands are smooth along a
curve. A band tells what other test images would have given, not what other calibration images would have chosen.

Shapes: E exits, N images, P threshold vectors, R resamples; p and r of those that are worked on at a time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dvt.exits.front import checked_macs
from dvt.exits.report import FrontReport
from dvt.exits.scores import ExitScores
from dvt.exits.thresholds import exit_indices, single_exit_thresholds

NUM_RESAMPLES = 2000
LEVEL = 0.95
_HELD = 16_000_000  # numbers that are worked on at a time; besides them, each image takes a byte a resample


@dataclass(frozen=True, kw_only=True)
class Band:
    """Where a point lies with the stated probability; lower and upper ends are each exceeded equally often."""

    accuracy_low: float  # from 0 to 1
    accuracy_high: float  # from 0 to 1
    macs_low: float  # mean multiply-adds an image
    macs_high: float  # mean multiply-adds an image


@dataclass(frozen=True, kw_only=True)
class FrontBands:
    """The bands of a report, in the order of its points."""

    level: float  # probability that a band holds the point, each point on its own
    num_resamples: int
    exits: tuple[Band, ...]  # (E,), all images leave there
    budgets: tuple[Band, ...]  # of the budgets' test points
    test_points: tuple[Band, ...]  # of the curve on the test images

    def to_dict(self) -> dict[str, Any]:
        """The bands in JSON's own types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The bands that `to_dict` gave `data` from.

        Raises:
            ValueError: If a field is missing or is not what it should be.
        """
        try:
            series = {name: tuple(Band(**band) for band in data[name]) for name in ("exits", "budgets", "test_points")}
            return cls(level=float(data["level"]), num_resamples=int(data["num_resamples"]), **series)
        except (KeyError, TypeError) as error:
            raise ValueError(f"bands must hold the fields of FrontBands, got others ({error})") from error


def bootstrap_report(
    report: FrontReport, test: ExitScores, *, num_resamples: int = NUM_RESAMPLES, level: float = LEVEL, seed: int = 0
) -> FrontBands:
    """The bands of all points that a report measured on test images.

    Args:
        report: Made of these scores.
        test: Scores of the test images.
        num_resamples: Resamples to draw, at least 1,000.
        level: Probability that a band holds the point, between 0 and 1.
        seed: Seed of the resamples; the same one gives the same bands.

    Raises:
        ValueError: If an argument is not as stated, or the report has another number of exits.
    """
    num_exits = len(report.exits)
    macs = [row.macs for row in report.exits]
    alone = [single_exit_thresholds(num_exits, index) for index in range(num_exits)]
    chosen = [budget.test.thresholds for budget in report.budgets]
    curve = [point.thresholds for point in report.test_points]
    bands = bootstrap_bands(test, macs, [*alone, *chosen, *curve], num_resamples=num_resamples, level=level, seed=seed)
    ends = (num_exits, num_exits + len(chosen))
    return FrontBands(
        level=level,
        num_resamples=num_resamples,
        exits=bands[: ends[0]],
        budgets=bands[ends[0] : ends[1]],
        test_points=bands[ends[1] :],
    )


def bootstrap_bands(
    test: ExitScores,
    macs: Sequence[float],
    thresholds: Sequence[Sequence[float]],
    *,
    num_resamples: int = NUM_RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> tuple[Band, ...]:
    """Bands of accuracy and mean cost of fixed threshold vectors.

    Args:
        test: Scores of the test images.
        macs: (E,), cumulative multiply-adds of leaving at each exit.
        thresholds: (P, E), each ending with -inf.
        num_resamples: Resamples to draw, at least 1,000.
        level: Probability that a band holds the point, between 0 and 1.
        seed: Seed of the resamples.

    Returns:
        One band a threshold vector, in their order.

    Raises:
        ValueError: If an argument is not as stated.
    """
    if num_resamples < 1000:
        raise ValueError(f"num_resamples must be at least 1000, got {num_resamples}")
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level:g}")
    costs = checked_macs(macs, test.num_exits)
    times = _draw_images(test.num_images, num_resamples, seed)
    held = max(1, _HELD // test.num_images)
    parts = [
        _resampled_means(times, _values(test, costs, thresholds[start : start + held]), held)
        for start in range(0, len(thresholds), held)
    ]
    accuracies, spent = (np.concatenate(part, axis=1) for part in zip(*parts, strict=True))  # both (R, P)
    tail = (1 - level) / 2
    low, high = np.quantile(accuracies, (tail, 1 - tail), axis=0)  # both (P,)
    least, most = costs[0] + (costs[-1] - costs[0]) * np.quantile(spent, (tail, 1 - tail), axis=0)  # both (P,)
    ends = zip(low.tolist(), high.tolist(), least.tolist(), most.tolist(), strict=True)
    return tuple(Band(accuracy_low=a, accuracy_high=b, macs_low=c, macs_high=d) for a, b, c, d in ends)


def _draw_images(num_images: int, num_resamples: int, seed: int) -> NDArray[np.uint8]:
    """(R, N): how often each image is in each resample; N are drawn with replacement, so hardly ever 10 times."""
    generator = np.random.default_rng(seed)
    held = max(1, min(num_resamples, _HELD // num_images))
    parts = []
    for start in range(0, num_resamples, held):
        count = min(held, num_resamples - start)
        drawn = generator.integers(num_images, size=(count, num_images))  # (r, N)
        drawn += np.arange(count)[:, None] * num_images
        times = np.bincount(drawn.ravel(), minlength=count * num_images).reshape(count, num_images)
        parts.append(times.astype(np.uint8))
    return np.concatenate(parts)


def _values(
    test: ExitScores, costs: NDArray[np.float64], thresholds: Sequence[Sequence[float]]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(p, N) twice: whether an image is right where it leaves, and its cost from 0 at the first exit to 1 at the last.

    Shares of the cost, unlike costs, add up in float32.
    """
    exits = np.array([exit_indices(test.confidence, vector) for vector in thresholds])  # (p, N)
    correct = np.array([test.correct[row, np.arange(test.num_images)] for row in exits], dtype=np.float32)
    shares = ((costs - costs[0]) / ((costs[-1] - costs[0]) or 1.0)).astype(np.float32)  # (E,)
    return correct, shares[exits]


def _resampled_means(
    times: NDArray[np.uint8], values: tuple[NDArray[np.float32], NDArray[np.float32]], held: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(R, p) of each of the values: their means over the images of each resample."""
    num_images = times.shape[1]
    both = np.concatenate(values).T  # (N, 2p)
    parts = [times[start : start + held].astype(np.float32) @ both for start in range(0, len(times), held)]
    means = np.concatenate(parts).astype(np.float64) / num_images  # (R, 2p)
    return means[:, : len(values[0])], means[:, len(values[0]) :]
