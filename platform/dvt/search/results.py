"""What a search found: its trials, and the front of all their fronts, every point naming its trial."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from dvt.config import Recipe
from dvt.exits import FrontPoint
from dvt.search.choices import BudgetRange
from dvt.search.objective import EpochFront
from dvt.search.suggester import Scalar

TrialState = Literal["running", "finished", "stopped", "failed"]


@dataclass(frozen=True)
class TrialResult:
    """One candidate that was trained, or is being trained.

    Attributes:
        number: In the order of suggestion, from 0; illegal candidates have numbers too, so some are missing.
        state: `finished` after all epochs, `stopped` early by the scheduler, `failed` with an error.
        recipe: What was trained.
        params: What the searcher chose, by name.
        epochs: What it was worth after each epoch; empty before the first.
        why: Why it failed; empty if it did not.
    """

    number: int
    state: TrialState
    recipe: Recipe
    params: Mapping[str, Scalar]
    epochs: tuple[EpochFront, ...]
    why: str = ""

    @property
    def last(self) -> EpochFront | None:
        """What it was worth after its last epoch."""
        return self.epochs[-1] if self.epochs else None

    @property
    def train_s(self) -> float:
        """Seconds that it trained, on all its workers together."""
        return self.epochs[-1].train_s if self.epochs else 0.0


@dataclass(frozen=True)
class UnionPoint:
    """A point of the search's front."""

    trial: int
    point: FrontPoint

    @property
    def macs(self) -> float:
        """Mean cost of an image, in the unit of the budgets."""
        return self.point.macs

    @property
    def accuracy(self) -> float:
        """Share of validation images classified correctly, from 0 to 1."""
        return self.point.accuracy


@dataclass(frozen=True)
class SharedResult:
    """What a search has found so far with shared weights, before its trials.

    Attributes:
        base: Trains a cascade in full.
        inherited: Cascades as measured with inherited weights, after epoch 0.
        train_s: Seconds that the shared weights were trained, on all workers together.
    """

    base: Recipe
    inherited: tuple[TrialResult, ...] = ()
    train_s: float = 0.0

    @property
    def spent_s(self) -> float:
        """Seconds of training and measuring, on all workers together."""
        return self.train_s + sum(trial.train_s for trial in self.inherited)

    def in_full(self, recipe: Recipe) -> Recipe:
        """The recipe of a short trial for a training of its own, from the start."""
        return replace(recipe, optimizer=self.base.optimizer, train=self.base.train)


@dataclass(frozen=True)
class SearchResult:
    """What a search has found so far.

    Attributes:
        name: Of the search.
        budgets: The budgets that count.
        trials: By number; those that were trained, whatever became of them.
        reference: Number of the trial of the space's first point, the base or the paper's cascade; None if none ended.
        refused: By number, why an illegal candidate was not trained.
        shared: What was found before the trials; None where each trains its own weights.
    """

    name: str
    budgets: BudgetRange
    trials: tuple[TrialResult, ...]
    reference: int | None = None
    refused: Mapping[int, str] = field(default_factory=dict)
    shared: SharedResult | None = None

    @property
    def finished(self) -> tuple[TrialResult, ...]:
        """The trials that were trained to the end; only these count for the front."""
        return tuple(trial for trial in self.trials if trial.state == "finished" and trial.epochs)

    @property
    def spent_s(self) -> float:
        """Seconds spent so far, on all workers together."""
        return sum(trial.train_s for trial in self.trials) + (self.shared.spent_s if self.shared else 0.0)

    @property
    def front(self) -> tuple[UnionPoint, ...]:
        """The points within the largest budget that no finished trial's point beats, cheapest first."""
        return union_front(self.finished, self.budgets.high)

    @property
    def best(self) -> TrialResult | None:
        """The finished trial of the largest hypervolume; of equal ones the first."""
        return max(self.finished, key=lambda trial: trial.epochs[-1].hypervolume, default=None)


def union_front(trials: Iterable[TrialResult], largest_budget: float) -> tuple[UnionPoint, ...]:
    """The points of the trials' last fronts that none other beats, cheapest first.

    Args:
        trials: Each with at least one epoch.
        largest_budget: Dearer points are left out.
    """
    points = [UnionPoint(trial.number, point) for trial in trials for point in trial.epochs[-1].front.points]
    return undominated([point for point in points if point.macs <= largest_budget])


def undominated(points: Sequence[UnionPoint]) -> tuple[UnionPoint, ...]:
    """Those that no other point equals in cost or accuracy and beats in the other; of equal ones the first trial's."""
    kept: list[UnionPoint] = []
    for point in sorted(points, key=lambda point: (point.macs, -point.accuracy, point.trial)):
        if not kept or point.accuracy > kept[-1].accuracy:
            kept.append(point)
    return tuple(kept)
