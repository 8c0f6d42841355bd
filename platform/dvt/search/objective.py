"""What a search maximises: the hypervolume of a trial's front, the area under accuracy over log cost.

After each epoch a trial has a whole front: thresholds chosen on one half of its calibration images, measured on the
other, the validation images. The test images are not touched before the end.

Shapes: E exits, N images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from dvt.exits import (
    ExitScores,
    Front,
    FrontPoint,
    calibrated_front,
    hypervolume,
    split_calibration,
    transfer_front,
)
from dvt.search.choices import BudgetRange

MOST_POINTS = 64  # of a front, evenly spaced in log cost: more would choose among thresholds by validation accuracy


@dataclass(frozen=True)
class EpochFront:
    """What a trial's cascade is worth after an epoch.

    Attributes:
        epoch: Epochs trained.
        hypervolume: Of `front` within the space's budgets.
        top1: Accuracy of the front's dearest point within the trial's own budget, the largest where it has none; 0 if
            all are dearer.
        cost: Its mean cost, in the budgets' unit; that budget if all are dearer.
        train_s: Seconds trained so far, over all tries of the trial; measuring is part of it.
        front: Points on validation images.
    """

    epoch: int
    hypervolume: float
    top1: float
    cost: float
    train_s: float
    front: Front

    @classmethod
    def of(cls, front: Front, budgets: BudgetRange, *, epoch: int, train_s: float, budget: float | None = None) -> Self:
        """What a front is worth within the budgets; `budget` is the trial's own, if it has one."""
        own = budgets.high if budget is None else budget
        best = point_within(front, own)
        return cls(
            epoch=epoch,
            hypervolume=hypervolume(front.points, budgets.low, budgets.high),
            top1=best.accuracy if best else 0.0,
            cost=best.macs if best else own,
            train_s=train_s,
            front=front,
        )

    def to_dict(self) -> dict[str, Any]:
        """The same in JSON's own types."""
        names = ("epoch", "hypervolume", "top1", "cost", "train_s")
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
