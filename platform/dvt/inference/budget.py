"""What a request may spend, and the thresholds that keep to it.

Shapes: E exits.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dvt.config import ConfigError, Problem
from dvt.exits import Thresholds, ThresholdTable, single_exit_thresholds


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a request may spend; at most one field is given, and none of them runs all stages on every image.

    Raises:
        ConfigError: If more than one is given, named after the second.
    """

    budget_macs: float | None = None  # mean multiply-adds an image
    budget_ms: float | None = None  # mean milliseconds an image, on the device that runs it
    thresholds: tuple[float, ...] | None = None  # (E - 1,), for each exit but the last, which takes what is left

    def __post_init__(self) -> None:
        given = [name for name, value in vars(self).items() if value is not None]
        if len(given) > 1:
            raise ConfigError([Problem(given[1], f"must come without {given[0]}, got both; leave one out")])


def thresholds_within(
    budget: Budget, table: ThresholdTable, macs: Sequence[float], seconds_per_exit: Sequence[float] | None = None
) -> Thresholds:
    """The thresholds to leave early with, so that the mean cost an image is expected to be within a budget.

    Args:
        budget: What may be spent.
        table: The thresholds that were chosen for the model.
        macs: (E,), cumulative multiply-adds of leaving at each exit.
        seconds_per_exit: (E,), cumulative seconds of an image that leaves at each exit, on the device that runs it;
            needed for a budget in milliseconds alone.

    Returns:
        (E,), the last of them -inf.

    Raises:
        ConfigError: If the budget is below what leaving at the first exit costs or above what the last exit does, or
            there is not one threshold for each exit but the last; named after the field.
        ValueError: If a budget in milliseconds comes without seconds.
    """
    num_exits = len(macs)
    if budget.thresholds is not None:
        return _checked_thresholds(budget.thresholds, num_exits)
    if budget.budget_ms is not None:
        return _within_ms(budget.budget_ms, table, seconds_per_exit)
    if budget.budget_macs is None:
        return single_exit_thresholds(num_exits, num_exits - 1)
    row = table.at_budget(budget.budget_macs)
    if budget.budget_macs > macs[-1]:
        raise ConfigError([_above_dearest("budget_macs", f"{macs[-1]:.12g}", "cost", budget.budget_macs)])
    return row.thresholds


def _checked_thresholds(thresholds: Sequence[float], num_exits: int) -> Thresholds:
    if len(thresholds) != num_exits - 1 or any(map(math.isnan, thresholds)):
        told = ", ".join(f"{value:g}" for value in thresholds)
        rule = f"must be {num_exits - 1} numbers, one for each exit but the last, got [{told}]"
        raise ConfigError([Problem("thresholds", rule)])
    return (*map(float, thresholds), -math.inf)


def _within_ms(milliseconds: float, table: ThresholdTable, seconds_per_exit: Sequence[float] | None) -> Thresholds:
    if seconds_per_exit is None:
        raise ValueError("seconds_per_exit must be given for a budget in milliseconds, got None")
    row = table.within_seconds(milliseconds / 1000, seconds_per_exit)
    if row is None:
        least = f"{1000 * seconds_per_exit[0]:.3g}, the time of leaving at the first exit on this device"
        raise ConfigError([Problem("budget_ms", f"must be at least {least}, got {milliseconds:g}")])
    if milliseconds > 1000 * seconds_per_exit[-1]:
        most = f"{1000 * seconds_per_exit[-1]:.3g}"
        raise ConfigError([_above_dearest("budget_ms", most, "time", milliseconds)])
    return row.thresholds


def _above_dearest(field: str, most: str, what: str, got: float) -> Problem:
    return Problem(field, f"must be at most {most}, the {what} of the last exit, got {got:.12g}")
