"""How sure a measured front is: bootstrap bands of accuracy and mean cost over the test images.

Thresholds stay as they were chosen; only the images are drawn anew, with replacement, after Efron, "Bootstrap Methods:
Another Look at the Jackknife", 1979 (percentile intervals). One draw serves all points, so bands are smooth along a
curve. A band tells what other test images would have given, not what other calibration images would have chosen.

Shapes: E exits, N images, P threshold vectors, R resamples, r resamples that are held at a time.
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
_HELD = 4_000_000  # drawn images that are held at a time; bounds memory, whatever the test set


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
    exits = np.array([exit_indices(test.confidence, vector) for vector in thresholds])  # (P, N)
    correct = np.array([test.correct[row, np.arange(test.num_images)] for row in exits], dtype=np.float32)  # (P, N)
    means = _resampled_means(np.concatenate([correct, _shares_of_cost(exits, costs)]), num_resamples, seed)  # (R, 2P)
    tail = (1 - level) / 2
    low, high = np.quantile(means, (tail, 1 - tail), axis=0)  # both (2P,)
    count = len(thresholds)
    span = costs[-1] - costs[0]
    return tuple(
        Band(
            accuracy_low=float(low[index]),
            accuracy_high=float(high[index]),
            macs_low=float(costs[0] + span * low[count + index]),
            macs_high=float(costs[0] + span * high[count + index]),
        )
        for index in range(count)
    )


def _shares_of_cost(exits: NDArray[np.int64], costs: NDArray[np.float64]) -> NDArray[np.float32]:
    """(P, N): what each image costs, from 0 at the first exit to 1 at the last, which float32 can add up."""
    span = costs[-1] - costs[0]
    shares: NDArray[np.float32] = ((costs - costs[0]) / (span or 1.0)).astype(np.float32)[exits]
    return shares


def _resampled_means(values: NDArray[np.float32], num_resamples: int, seed: int) -> NDArray[np.float64]:
    """(R, Q): means of each row of `values`, (Q, N), over images drawn with replacement."""
    num_images = values.shape[1]
    generator = np.random.default_rng(seed)
    held = max(1, min(num_resamples, _HELD // num_images))
    parts = []
    for start in range(0, num_resamples, held):
        count = min(held, num_resamples - start)
        drawn = generator.integers(num_images, size=(count, num_images))  # (r, N)
        drawn += np.arange(count)[:, None] * num_images
        times = np.bincount(drawn.ravel(), minlength=count * num_images).reshape(count, num_images)
        parts.append(times.astype(np.float32) @ values.T / num_images)  # (r, Q)
    return np.concatenate(parts).astype(np.float64)
