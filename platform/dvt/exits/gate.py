"""The gate's arithmetic: whether one cascade may take another's place, from what both made of the same test images.

Both keep to the same budgets, each by its own thresholds and its own confidence. At every budget the difference of
accuracy has a paired bootstrap interval; with several budgets the intervals are wider (Bonferroni), so that all of them
together hold the truth with the stated probability. The candidate passes if

1. at every budget it keeps to it: its mean cost is at most 5 % over the budget, or at most the champion's;
2. at every budget it is not worse: the interval's lower end is at most the margin below 0;
3. at one budget at least it is better (the lower end is above 0) or cheaper (its mean cost is lower by at least 1 % of
   the champion's, the whole interval of the difference of cost included).

Without the first, a candidate could buy accuracy with a budget that its thresholds do not keep on the test images.

Shapes: E exits, N images.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dvt.exits.front import checked_macs
from dvt.exits.paired import LEVEL, paired_difference
from dvt.exits.scores import ExitScores
from dvt.exits.thresholds import Thresholds, exit_indices

OVER_BUDGET = 0.05  # share of a budget that the mean cost on the test images may exceed it by
LEAST_SAVING = 0.01  # share of the champion's mean cost that counts as cheaper


@dataclass(frozen=True, eq=False)
class Contestant:
    """What a model made of the test images."""

    scores: ExitScores  # by its own confidence
    macs: Sequence[float]  # (E,), cumulative multiply-adds of leaving at each exit
    thresholds: Sequence[Thresholds]  # one vector a budget, in the order of the budgets


@dataclass(frozen=True, kw_only=True)
class BudgetComparison:
    """Candidate and champion within one budget, on the same test images."""

    budget_macs: float  # mean multiply-adds an image that may be spent
    candidate_top1: float  # accuracy, from 0 to 1
    champion_top1: float
    difference: float  # of accuracy, candidate less champion, from -1 to 1
    low: float  # lower end of the difference's interval
    high: float  # upper end
    candidate_macs: float  # mean multiply-adds an image
    champion_macs: float
    macs_high: float  # upper end of the interval of the difference of cost, candidate less champion
    candidate_alone: int  # images that only the candidate is right about
    champion_alone: int  # images that only the champion is right about

    @property
    def keeps_budget(self) -> bool:
        """Whether the candidate's mean cost is about the budget's, or not above the champion's."""
        return self.candidate_macs <= max((1 + OVER_BUDGET) * self.budget_macs, self.champion_macs)

    @property
    def is_better(self) -> bool:
        """Whether the candidate is surely more accurate."""
        return self.low > 0

    @property
    def is_cheaper(self) -> bool:
        """Whether the candidate surely costs less, by enough to matter."""
        return self.macs_high <= -LEAST_SAVING * self.champion_macs

    def is_not_worse(self, margin: float) -> bool:
        """Whether the candidate surely loses no more accuracy than `margin`, from 0 to 1."""
        return self.low >= -margin

    def to_dict(self) -> dict[str, Any]:
        """The numbers in JSON's own types."""
        return asdict(self)


@dataclass(frozen=True)
class Judgement:
    """What the gate says, and why."""

    is_passed: bool
    failures: tuple[BudgetComparison, ...]  # budgets that speak against the candidate; empty too if none speaks for it
    gains: tuple[BudgetComparison, ...]  # budgets at which it is better or cheaper


def compare_at_budgets(
    candidate: Contestant, champion: Contestant, budgets: Sequence[float], *, level: float = LEVEL, seed: int = 0
) -> tuple[BudgetComparison, ...]:
    """Compare two models within the same budgets on the same images.

    Args:
        candidate: The one that is to take the other's place.
        champion: The other one; its scores are of the same images in the same order.
        budgets: Mean multiply-adds an image, at least one.
        level: Probability that the intervals of all budgets hold together, between 0 and 1.
        seed: Seed of the resamples.

    Returns:
        One comparison a budget, in the order of the budgets.

    Raises:
        ValueError: If the models were not asked the same number of images, or have not one vector of thresholds a
            budget.
    """
    each_level = 1 - (1 - level) / max(1, len(budgets))
    pairs = zip(_at_budgets(candidate, budgets), _at_budgets(champion, budgets), strict=True)
    return tuple(
        _compare(budget, first, second, level=each_level, seed=seed)
        for budget, (first, second) in zip(budgets, pairs, strict=True)
    )


def judge(comparisons: Sequence[BudgetComparison], margin: float) -> Judgement:
    """Whether the candidate may take the champion's place, by the rule above.

    Args:
        comparisons: Of all budgets.
        margin: Accuracy that the candidate may lose where it is cheaper, from 0 to 1.

    Raises:
        ValueError: If there are no comparisons, or the margin is not from 0 to 1.
    """
    if not comparisons:
        raise ValueError("comparisons must hold at least one budget, got none")
    if not 0 <= margin <= 1:
        raise ValueError(f"margin must be from 0 to 1, got {margin:g}")
    failures = tuple(each for each in comparisons if not (each.keeps_budget and each.is_not_worse(margin)))
    gains = tuple(each for each in comparisons if each.is_better or each.is_cheaper)
    return Judgement(is_passed=not failures and bool(gains), failures=failures, gains=gains)


def outcomes(
    scores: ExitScores, macs: Sequence[float], thresholds: Thresholds
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """(N,) twice: whether each image is right where it leaves, and what it costs.

    Raises:
        ValueError: If `macs` or `thresholds` are not one for each exit.
    """
    costs = checked_macs(macs, scores.num_exits)
    exits = exit_indices(scores.confidence, thresholds)  # (N,)
    return scores.correct[exits, np.arange(scores.num_images)], costs[exits]


_Outcomes = tuple[NDArray[np.bool_], NDArray[np.float64]]


def _at_budgets(model: Contestant, budgets: Sequence[float]) -> list[_Outcomes]:
    if len(model.thresholds) != len(budgets):
        raise ValueError(f"thresholds must hold one vector for each of {len(budgets)}, got {len(model.thresholds)}")
    return [outcomes(model.scores, model.macs, thresholds) for thresholds in model.thresholds]


def _compare(budget: float, candidate: _Outcomes, champion: _Outcomes, level: float, seed: int) -> BudgetComparison:
    (right, spent), (other_right, other_spent) = candidate, champion
    accuracy = paired_difference(right, other_right, level=level, seed=seed)
    cost = paired_difference(spent, other_spent, level=level, seed=seed)
    return BudgetComparison(
        budget_macs=float(budget),
        candidate_top1=float(right.mean()),
        champion_top1=float(other_right.mean()),
        difference=accuracy.mean,
        low=accuracy.low,
        high=accuracy.high,
        candidate_macs=float(spent.mean()),
        champion_macs=float(other_spent.mean()),
        macs_high=cost.high,
        candidate_alone=int(np.count_nonzero(right & ~other_right)),
        champion_alone=int(np.count_nonzero(other_right & ~right)),
    )
