"""What a search maximises: the hypervolume of a trial's front, the area under accuracy over log cost.

After each epoch a trial has a whole front: thresholds chosen on one half of its calibration images, measured on the
other, the validation images. The test images are not touched before the end.

Shapes: E exits, N images.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

from dvt.exits import ExitScores, Front, FrontPoint, calibrated_front, split_calibration, transfer_front

MOST_POINTS = 64  # of a front, evenly spaced in log cost: more would choose among thresholds by validation accuracy


class PricedPoint(Protocol):
    """A cost and what it buys."""

    @property
    def macs(self) -> float:
        """Mean cost of an image."""
        ...

    @property
    def accuracy(self) -> float:
        """Share of images classified correctly, from 0 to 1."""
        ...


def hypervolume(points: Iterable[PricedPoint], low: float, high: float) -> float:
    """Mean over budgets, even in log cost, of the best accuracy within each budget.

    Args:
        points: In any order; dominated ones do not count.
        low: Least budget, above 0.
        high: Largest budget, above `low`; in the unit of the points' cost, as `low`.

    Returns:
        From 0 to 1; a budget below the cheapest point counts as 0.
    """
    area, best, place = 0.0, 0.0, math.log(low)
    for point in sorted(points, key=lambda point: point.macs):
        if point.macs > high:
            break
        if point.accuracy > best:
            start = max(place, math.log(point.macs))
            area += best * (start - place)
            best, place = point.accuracy, start
    area += best * (math.log(high) - place)
    return area / (math.log(high) - math.log(low))


@dataclass(frozen=True)
class EpochFront:
    """What a trial's cascade is worth after an epoch.

    Attributes:
        epoch: Epochs trained.
        hypervolume: Of `front` within the space's budgets.
        top1: Accuracy of the front's dearest point within the trial's own budget, the largest where it has none; 0 if
            all are dearer.
        macs: Its mean cost; that budget if all are dearer.
        train_s: Seconds trained so far, over all tries of the trial; measuring is part of it.
        front: Points on validation images.
    """

    epoch: int
    hypervolume: float
    top1: float
    macs: float
    train_s: float
    front: Front

    def to_dict(self) -> dict[str, Any]:
        """The same in JSON's own types."""
        names = ("epoch", "hypervolume", "top1", "macs", "train_s")
        return {name: getattr(self, name) for name in names} | {"front": self.front.to_dict()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """What `to_dict` gave `data` from."""
        return cls(**{**data, "front": Front.from_dict(data["front"])})


def validation_front(scores: ExitScores, costs: Sequence[float]) -> Front:
    """The front on validation images of thresholds chosen on the other calibration images.

    Args:
        scores: Of all calibration images, at least two.
        costs: (E,), what an image costs that leaves at each exit, strictly increasing.
    """
    choosing, validating = split_calibration(scores.num_images)
    chosen = calibrated_front(scores.select(choosing), costs).thinned(MOST_POINTS)
    return Front.of(transfer_front(chosen, scores.select(validating), costs))


def point_within(front: Front, budget: float) -> FrontPoint | None:
    """The most accurate point within a budget; None if all are dearer."""
    affordable = [point for point in front.points if point.macs <= budget]
    return affordable[-1] if affordable else None
