"""What a request may spend, worked by hand for a cascade of two exits that cost 100 and 300."""

import math

import pytest

from dvt.config import ConfigError
from dvt.exits import ThresholdRow, ThresholdTable
from dvt.inference import Budget, thresholds_within

INF = math.inf
MACS = (100, 300)
SECONDS = (0.001, 0.004)
TABLE = ThresholdTable(
    (
        ThresholdRow(100, (-INF, -INF), (1.0, 0.0)),
        ThresholdRow(150, (0.6, -INF), (0.75, 0.25)),
        ThresholdRow(280, (0.9, -INF), (0.1, 0.9)),
    )
)


@pytest.mark.parametrize(
    ("budget", "first"),
    [
        (Budget(), INF),
        (Budget(budget_macs=100), -INF),
        (Budget(budget_macs=279.9), 0.6),
        (Budget(budget_macs=300), 0.9),
        (Budget(budget_ms=1.0), -INF),
        (Budget(budget_ms=2.0), 0.6),  # 0.75 x 1 ms + 0.25 x 4 ms = 1.75 ms
        (Budget(budget_ms=4.0), 0.9),  # 3.7 ms
        (Budget(thresholds=(0.42,)), 0.42),
    ],
)
def test_the_dearest_row_within_the_budget_counts(budget: Budget, first: float) -> None:
    assert thresholds_within(budget, TABLE, MACS, SECONDS) == (first, -INF)


@pytest.mark.parametrize(
    ("budget", "told"),
    [
        (Budget(budget_macs=99), "budget_macs must be at least 100, the cost of leaving at the first exit, got 99"),
        (Budget(budget_macs=301), "budget_macs must be at most 300, the cost of the last exit, got 301"),
        (
            Budget(budget_ms=0.9),
            "budget_ms must be at least 1, the time of leaving at the first exit on this device, got 0.9",
        ),
        (Budget(budget_ms=4.5), "budget_ms must be at most 4, the time of the last exit, got 4.5"),
        (
            Budget(thresholds=(0.4, 0.5)),
            "thresholds must be 1 numbers, one for each exit but the last, got [0.4, 0.5]",
        ),
        (Budget(thresholds=(math.nan,)), "thresholds must be 1 numbers, one for each exit but the last, got [nan]"),
    ],
)
def test_a_budget_that_cannot_be_kept_is_one_sentence(budget: Budget, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        thresholds_within(budget, TABLE, MACS, SECONDS)
    assert [str(problem) for problem in caught.value.problems] == [told]


def test_one_way_to_say_it_is_enough() -> None:
    with pytest.raises(ConfigError, match="budget_ms must come without budget_macs, got both; leave one out"):
        Budget(budget_macs=200, budget_ms=3)


def test_milliseconds_need_a_measurement() -> None:
    with pytest.raises(ValueError, match="seconds_per_exit must be given for a budget in milliseconds, got None"):
        thresholds_within(Budget(budget_ms=3), TABLE, MACS)
