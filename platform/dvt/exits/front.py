"""The accuracy-budget front: mean cost and accuracy of threshold vectors, measured by leaving early on cached scores.

Thresholds are chosen on calibration images and reported on test images, never on the same ones. Cost is multiply-adds,
`macs`: an array of shape (E,), cumulative and strictly increasing, what an image costs that leaves at each exit.

Shapes: E exits, N images.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dvt.config import ConfigError, Problem
from dvt.exits.lattice import mean_macs
from dvt.exits.scores import ExitScores
from dvt.exits.thresholds import Thresholds, exit_indices, thresholds_as_json


@dataclass(frozen=True)
class FrontPoint:
    """What one threshold vector costs and reaches on one set of images."""

    macs: float  # mean multiply-adds an image
    accuracy: float  # share of images classified correctly where they leave, from 0 to 1
    thresholds: Thresholds  # (E,); an image leaves at the first exit with confidence >= threshold; the last is -inf
    exit_shares: tuple[float, ...]  # (E,); share of images that leaves at each exit, summing to 1

    def to_dict(self) -> dict[str, Any]:
        """The point in JSON's own types."""
        return {
            "macs": self.macs,
            "accuracy": self.accuracy,
            "thresholds": thresholds_as_json(self.thresholds),
            "exit_shares": list(self.exit_shares),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The point that `to_dict` gave `data` from."""
        return cls(
            macs=float(data["macs"]),
            accuracy=float(data["accuracy"]),
            thresholds=tuple(float(t) for t in data["thresholds"]),
            exit_shares=tuple(float(share) for share in data["exit_shares"]),
        )


@dataclass(frozen=True)
class Front:
    """Points sorted by cost, none dominated: each dearer one is more accurate on the images they were measured on.

    Raises:
        ValueError: If there are no points, or they are not sorted or dominate each other.
    """

    points: tuple[FrontPoint, ...]

    def __post_init__(self) -> None:
        if not self.points:
            raise ValueError("points must hold at least one point, got none")
        for cheap, dear in pairwise(self.points):
            if not (cheap.macs < dear.macs and cheap.accuracy < dear.accuracy):
                raise ValueError(
                    "points must rise strictly in macs and accuracy, "
                    f"got {_told(cheap.macs)}, {cheap.accuracy:g} before {_told(dear.macs)}, {dear.accuracy:g}"
                )

    @classmethod
    def of(cls, points: Iterable[FrontPoint]) -> Self:
        """The front of any points: those that no other point beats in one of cost and accuracy and equals in the other.

        Of points alike in both, the first is kept.
        """
        kept: list[FrontPoint] = []
        for point in sorted(points, key=lambda point: (point.macs, -point.accuracy)):
            if not kept or point.accuracy > kept[-1].accuracy:
                kept.append(point)
        return cls(tuple(kept))

    def at_budget(self, macs: float) -> FrontPoint:
        """The most accurate point that is not dearer than a budget.

        Args:
            macs: Mean multiply-adds an image that may be spent.

        Raises:
            ConfigError: If even the cheapest point is dearer.
        """
        count = bisect_right([point.macs for point in self.points], macs)
        if count == 0 or math.isnan(macs):
            raise ConfigError([under_cheapest("budget_macs", macs, self.points[0].macs)])
        return self.points[count - 1]

    def thinned(self, num_points: int, budgets: Sequence[float] = ()) -> Self:
        """The front with few points: the best within each of `num_points` budgets, even in log cost, and of others.

        Args:
            num_points: Evenly spaced budgets from the cheapest point to the dearest, at least 2. Points of a front that
                has no more than that all stay.
            budgets: Mean multiply-adds an image whose best points must stay; those under the cheapest are passed over.

        Returns:
            A front of at most `num_points` and one point a budget, the first and the last of this one among them.

        Raises:
            ValueError: If `num_points` is less than 2.
        """
        if num_points < 2:
            raise ValueError(f"num_points must be at least 2, got {num_points}")
        if len(self.points) <= num_points:
            return self
        macs = [point.macs for point in self.points]
        even = np.geomspace(macs[0], macs[-1], num_points)[1:-1].tolist()
        places = {0, len(macs) - 1} | {bisect_right(macs, budget) - 1 for budget in (*even, *budgets)}
        return type(self)(tuple(self.points[place] for place in sorted(places - {-1})))

    def to_dict(self) -> dict[str, Any]:
        """The front in JSON's own types."""
        return {"points": [point.to_dict() for point in self.points]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The front that `to_dict` gave `data` from."""
        return cls(tuple(FrontPoint.from_dict(point) for point in data["points"]))


def measure_point(scores: ExitScores, macs: Sequence[float], thresholds: Sequence[float]) -> FrontPoint:
    """Mean cost and accuracy of leaving early with these thresholds, on cached scores.

    Args:
        scores: Of the images to measure on.
        macs: (E,), cumulative multiply-adds of leaving at each exit.
        thresholds: (E,), the last -inf.

    Raises:
        ValueError: If `macs` or `thresholds` are not as stated.
    """
    costs = checked_macs(macs, scores.num_exits)
    exits = exit_indices(scores.confidence, thresholds)  # (N,)
    counts = np.bincount(exits, minlength=scores.num_exits)  # (E,)
    num_correct = int(np.count_nonzero(scores.correct[exits, np.arange(scores.num_images)]))
    return point_of_counts(thresholds, counts, num_correct, costs)


def point_of_counts(
    thresholds: Sequence[float], counts: NDArray[np.int64], num_correct: int, costs: NDArray[np.float64]
) -> FrontPoint:
    """The point of thresholds that are known to send so many images to each exit.

    Args:
        thresholds: (E,), the last -inf.
        counts: (E,), images that leave at each exit; at least one in all.
        num_correct: Images that are classified correctly where they leave.
        costs: (E,), as `checked_macs` gives them.
    """
    num_images = int(counts.sum())
    return FrontPoint(
        macs=float(mean_macs(counts, costs)),  # all images at one exit cost exactly that exit: a budget can equal it
        accuracy=float(num_correct / num_images),
        thresholds=tuple(float(threshold) for threshold in thresholds),
        exit_shares=tuple((counts / num_images).tolist()),
    )


def transfer_front(front: Front, test: ExitScores, macs: Sequence[float]) -> tuple[FrontPoint, ...]:
    """The points of a calibrated front measured on test images, with the same thresholds, in the same order.

    Points that turn out dominated on the test images stay: dropping them would choose thresholds by test accuracy, and
    the number reported would be better than what a user gets. Hence this is no `Front`.

    Args:
        front: Thresholds chosen on calibration images.
        test: Scores of images that no threshold was chosen on.
        macs: (E,), cumulative multiply-adds of leaving at each exit.

    Raises:
        ValueError: If the front and `macs` are not of as many exits as `test`.
    """
    return tuple(measure_point(test, macs, point.thresholds) for point in front.points)


def checked_macs(macs: Sequence[float], num_exits: int | None = None) -> NDArray[np.float64]:
    """The costs as an array.

    Raises:
        ValueError: If they are not one positive number an exit, strictly increasing.
    """
    costs = np.asarray(macs, dtype=np.float64)
    told = ", ".join(map(_told, costs.ravel())) or "none"
    if costs.ndim != 1 or len(costs) == 0 or (num_exits is not None and len(costs) != num_exits):
        number = "at least one exit" if num_exits is None else f"each of {num_exits} exits"
        raise ValueError(f"macs must hold one number for {number}, got {told}")
    if not (np.isfinite(costs).all() and costs[0] > 0 and (np.diff(costs) > 0).all()):
        raise ValueError(f"macs must be positive and strictly increasing from exit to exit, got {told}")
    return costs


def under_cheapest(path: str, budget: float, cheapest: float) -> Problem:
    """What is wrong with a budget that not even the first exit keeps to."""
    rule = f"must be at least {_told(cheapest)}, the cost of leaving at the first exit, got {_told(budget)}"
    return Problem(path, rule)


def _told(macs: float) -> str:
    """Multiply-adds as a person types them: digits, no exponent below a million million."""
    return f"{macs:.12g}"
