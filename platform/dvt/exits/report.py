"""`FrontReport`: everything a run tells about leaving early, as plain data that goes through JSON unchanged.

Tables, pictures and files are made from it alone; it needs neither a model nor the images.

Shapes: E exits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np

from dvt.exits.budgets import points_at_budgets
from dvt.exits.confidence import PLAIN, Confidence
from dvt.exits.front import Front, FrontPoint, checked_macs, measure_point, transfer_front
from dvt.exits.guarantee import Guarantee
from dvt.exits.scores import ExitScores
from dvt.exits.solve import calibrated_front
from dvt.exits.threshold_table import ThresholdTable

NUM_POINTS = 200  # of the curves, besides those of the budgets: enough for a smooth line, and for files of 100 kB


@dataclass(frozen=True, kw_only=True)
class ExitRow:
    """One exit on its own, all images leaving there."""

    exit_index: int  # from 1, as people count exits
    token_grid: int  # tokens a side
    num_tokens: int  # token_grid x token_grid, without the class token
    macs: float  # cumulative multiply-adds of an image that leaves here
    test_top1: float  # accuracy on the test images, from 0 to 1


@dataclass(frozen=True, kw_only=True)
class BudgetPoint:
    """What was chosen for one budget: the same thresholds, measured on both sets of images."""

    budget_macs: float  # mean multiply-adds an image that may be spent
    calibration: FrontPoint  # where the thresholds were chosen; within the budget
    test: FrontPoint  # what is reported; may lie a little over the budget


@dataclass(frozen=True, kw_only=True)
class GuaranteedPoint:
    """Thresholds with a promise about their loss, and what they do on the test images."""

    promise: Guarantee  # made on the calibration images
    test: FrontPoint  # the same thresholds on the test images


@dataclass(frozen=True, kw_only=True)
class StaticReference:
    """A single-stage model trained with the same recipe, to compare the cascade with."""

    token_grid: int  # tokens a side
    macs: float  # multiply-adds an image
    test_top1: float  # accuracy on the test images, from 0 to 1


@dataclass(frozen=True, kw_only=True)
class FrontReport:
    """The exits, the budgets and both curves of one trained cascade."""

    recipe: str  # name of the recipe, as a title
    exits: tuple[ExitRow, ...]  # (E,), coarse to fine
    budgets: tuple[BudgetPoint, ...]  # in the order asked for
    calibration_front: Front  # thresholds chosen and measured on the calibration images, thinned; holds the budgets'
    test_points: tuple[FrontPoint, ...]  # the same thresholds in the same order, measured on the test images
    static_reference: StaticReference | None = None  # None where none was trained
    guarantee: GuaranteedPoint | None = None  # None where none was asked for
    confidence: Confidence = PLAIN  # what all thresholds here are of
    confidence_areas: Mapping[str, float] = field(default_factory=dict)  # calibration areas of those compared, by name

    def __post_init__(self) -> None:
        num_points = len(self.calibration_front.points)
        if len(self.test_points) != num_points:
            raise ValueError(
                f"test_points must hold one point for each of the calibration front's {num_points}, "
                f"got {len(self.test_points)}"
            )
        num_exits = {len(point.thresholds) for point in self.all_points()}
        if num_exits != {len(self.exits)}:
            told = ", ".join(map(str, sorted(num_exits)))
            raise ValueError(f"exits must hold one row for each threshold ({told}), got {len(self.exits)}")

    def all_points(self) -> tuple[FrontPoint, ...]:
        """Every measured threshold vector: both curves, then the budgets' points and the guaranteed one."""
        chosen = (point for budget in self.budgets for point in (budget.calibration, budget.test))
        promised = () if self.guarantee is None else (self.guarantee.test,)
        return (*self.calibration_front.points, *self.test_points, *chosen, *promised)

    def threshold_table(self) -> ThresholdTable:
        """What serving the model needs of it."""
        promise = None if self.guarantee is None else self.guarantee.promise
        return ThresholdTable.of_front(self.calibration_front, self.confidence, promise)

    @property
    def front_optimism(self) -> float:
        """How much more accurate the front looks on the images it was chosen on than on test images.

        The difference of accuracy, calibration less test, of the same thresholds; its mean over the curve, even in log
        cost on the calibration images. What there is beside optimism is how much easier the calibration images are.
        """
        points = self.calibration_front.points
        gaps = np.array(
            [chosen.accuracy - test.accuracy for chosen, test in zip(points, self.test_points, strict=True)]
        )
        if len(points) == 1:
            return float(gaps[0])
        steps = np.diff(np.log([point.macs for point in points]))
        return float(steps @ (gaps[1:] + gaps[:-1]) / (2 * steps.sum()))

    def to_dict(self) -> dict[str, Any]:
        """The report in JSON's own types."""
        return {
            "recipe": self.recipe,
            "exits": [asdict(row) for row in self.exits],
            "budgets": [
                {
                    "budget_macs": budget.budget_macs,
                    "calibration": budget.calibration.to_dict(),
                    "test": budget.test.to_dict(),
                }
                for budget in self.budgets
            ],
            "calibration_front": self.calibration_front.to_dict(),
            "test_points": [point.to_dict() for point in self.test_points],
            "static_reference": asdict(self.static_reference) if self.static_reference else None,
            "guarantee": None
            if self.guarantee is None
            else {"promise": self.guarantee.promise.to_dict(), "test": self.guarantee.test.to_dict()},
            "front_optimism": self.front_optimism,  # follows from the rest, for whoever reads the file
            "confidence": self.confidence.to_dict(),
            "confidence_areas": dict(self.confidence_areas),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The report that `to_dict` gave `data` from.

        Raises:
            ValueError: If a field is missing or is not what it should be.
        """
        try:
            return cls._read(data)
        except KeyError as error:
            raise ValueError(f"a front report must hold {error.args[0]}, got none") from error
        except TypeError as error:
            raise ValueError(f"a front report must hold the fields of FrontReport, got others ({error})") from error

    @classmethod
    def _read(cls, data: Mapping[str, Any]) -> Self:
        static, promised = data["static_reference"], data.get("guarantee")
        return cls(
            recipe=data["recipe"],
            exits=tuple(ExitRow(**row) for row in data["exits"]),
            budgets=tuple(
                BudgetPoint(
                    budget_macs=float(budget["budget_macs"]),
                    calibration=FrontPoint.from_dict(budget["calibration"]),
                    test=FrontPoint.from_dict(budget["test"]),
                )
                for budget in data["budgets"]
            ),
            calibration_front=Front.from_dict(data["calibration_front"]),
            test_points=tuple(FrontPoint.from_dict(point) for point in data["test_points"]),
            static_reference=StaticReference(**static) if static is not None else None,
            # Reports of before there was a choice lack what follows.
            guarantee=None
            if promised is None
            else GuaranteedPoint(
                promise=Guarantee.from_dict(promised["promise"]), test=FrontPoint.from_dict(promised["test"])
            ),
            confidence=Confidence.from_dict(data["confidence"]) if "confidence" in data else PLAIN,
            confidence_areas=dict(data.get("confidence_areas", {})),
        )


def make_report(
    recipe: str,
    token_grids: Sequence[int],
    macs: Sequence[float],
    calibration: ExitScores,
    test: ExitScores,
    budgets: Sequence[float],
    static_reference: StaticReference | None = None,
    guarantee: Guarantee | None = None,
) -> FrontReport:
    """Choose thresholds on calibration images and measure them on test images.

    Args:
        recipe: Name of the recipe.
        token_grids: (E,), tokens a side of each stage.
        macs: (E,), cumulative multiply-adds of leaving at each exit.
        calibration: Scores of the images to choose on.
        test: Scores of other images, to measure on.
        budgets: Mean multiply-adds an image; see `default_budgets`.
        static_reference: A trained single-stage model, if there is one.
        guarantee: Thresholds with a promise, to measure too.

    Raises:
        ConfigError: With one problem for each budget under the first exit's cost, named `exits.budgets_macs.<index>`.
        ValueError: If the numbers of exits or the confidences differ, or `macs` are not strictly increasing.
    """
    if calibration.measured_by != test.measured_by:
        told = f"{calibration.measured_by.name} and {test.measured_by.name}"
        raise ValueError(f"calibration and test must be scored by one confidence, got {told}")
    costs = checked_macs(macs, test.num_exits)
    front = calibrated_front(calibration, macs)
    chosen = points_at_budgets(front, budgets)
    thinned = front.thinned(NUM_POINTS, budgets)
    rows = zip(token_grids, costs, test.top1, strict=True)
    return FrontReport(
        recipe=recipe,
        exits=tuple(
            ExitRow(exit_index=index, token_grid=grid, num_tokens=grid * grid, macs=float(cost), test_top1=top1)
            for index, (grid, cost, top1) in enumerate(rows, start=1)
        ),
        budgets=tuple(
            BudgetPoint(budget_macs=float(budget), calibration=point, test=measure_point(test, macs, point.thresholds))
            for budget, point in zip(budgets, chosen, strict=True)
        ),
        calibration_front=thinned,
        test_points=transfer_front(thinned, test, macs),
        static_reference=static_reference,
        guarantee=None
        if guarantee is None
        else GuaranteedPoint(promise=guarantee, test=measure_point(test, macs, guarantee.thresholds)),
        confidence=test.measured_by,
    )
