"""Thresholds for budgets: the most accurate way to leave early whose mean cost an image stays within a budget.

"Budgeted batch" classification of Wang et al., "Not All Images are Worth 16x16 Words", NeurIPS 2021: thresholds are
chosen on calibration images so that their mean multiply-adds stay within the budget. On other images the mean cost is
near it, not under it for certain.

Shapes: E exits.
"""

from collections.abc import Sequence

import numpy as np

from dvt.config import ConfigError
from dvt.exits.front import Front, FrontPoint, checked_macs, under_cheapest
from dvt.exits.scores import ExitScores
from dvt.exits.solve import calibrated_front


def default_budgets(macs: Sequence[float], count: int = 3) -> tuple[float, ...]:
    """Budgets to report where a recipe names none.

    Args:
        macs: (E,), cumulative multiply-adds of leaving at each exit.
        count: How many budgets, at least 1.

    Returns:
        Mean multiply-adds an image, evenly spaced in log cost strictly between the first and the last exit; of a
        single exit, its own cost alone.

    Raises:
        ValueError: If `macs` or `count` are not as stated.
    """
    costs = checked_macs(macs)
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    if len(costs) == 1:
        return (float(costs[0]),)
    return tuple(float(budget) for budget in np.geomspace(costs[0], costs[-1], count + 2)[1:-1])


def checked_budgets(macs: Sequence[float], budgets: Sequence[float]) -> tuple[float, ...]:
    """The budgets asked for, or default ones where none were; to be called before anything is trained.

    Args:
        macs: (E,), cumulative multiply-adds of leaving at each exit.
        budgets: Mean multiply-adds an image, in any order; may be empty.

    Raises:
        ConfigError: With one problem for each budget under the first exit's cost, named `exits.budgets_macs.<index>`.
        ValueError: If `macs` are not as stated.
    """
    if not budgets:
        return default_budgets(macs)
    _require_payable(float(checked_macs(macs)[0]), budgets)
    return tuple(budgets)


def points_at_budgets(front: Front, budgets: Sequence[float]) -> tuple[FrontPoint, ...]:
    """The most accurate point of a front within each budget.

    Args:
        front: Of calibration images.
        budgets: Mean multiply-adds an image, in any order.

    Returns:
        One point a budget, in the order of the budgets.

    Raises:
        ConfigError: With one problem for each budget under the cheapest point, named `exits.budgets_macs.<index>`.
    """
    _require_payable(front.points[0].macs, budgets)
    return tuple(front.at_budget(budget) for budget in budgets)


def thresholds_for_budgets(
    calibration: ExitScores, macs: Sequence[float], budgets: Sequence[float]
) -> tuple[FrontPoint, ...]:
    """The thresholds of the highest calibration accuracy within each budget.

    Args:
        calibration: Scores of calibration images.
        macs: (E,), cumulative multiply-adds of leaving at each exit.
        budgets: Mean multiply-adds an image, in any order.

    Returns:
        One point a budget, in the order of the budgets, measured on the calibration images.

    Raises:
        ConfigError: With one problem for each budget under the first exit's cost, named `exits.budgets_macs.<index>`.
        ValueError: If `macs` are not as stated.
    """
    return points_at_budgets(calibrated_front(calibration, macs), budgets)


def _require_payable(cheapest: float, budgets: Sequence[float]) -> None:
    """Raise one problem for each budget that not even the first exit keeps to."""
    problems = [
        under_cheapest(f"exits.budgets_macs.{index}", budget, cheapest)
        for index, budget in enumerate(budgets)
        if not budget >= cheapest  # also refuses NaN
    ]
    if problems:
        raise ConfigError(problems)
