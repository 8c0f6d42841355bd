"""Thresholds for budgets, and the budgets taken where none are given."""

import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvt.config import ConfigError
from dvt.exits import ExitScores, calibrated_front, checked_budgets, default_budgets, thresholds_for_budgets
from tests.unit.exits.examples import FOUR_IMAGES, costs, random_scores


def test_default_budgets_are_even_in_log_cost() -> None:
    assert default_budgets((1e6, 3e6, 16e6)) == pytest.approx((2e6, 4e6, 8e6))
    assert default_budgets((1e9, 9e9), count=1) == pytest.approx((3e9,))


def test_a_single_exit_has_one_budget() -> None:
    assert default_budgets((5e8,)) == (5e8,)


@settings(deadline=None)  # other work on the machine must not fail a test
@given(first=st.integers(1, 10**12), more=st.integers(1, 10**12), count=st.integers(1, 9))
def test_default_budgets_lie_between_first_and_last_exit(first: int, more: int, count: int) -> None:
    budgets = default_budgets((first, first + more), count)
    assert len(budgets) == count
    assert list(budgets) == sorted(budgets)
    assert first < budgets[0] or more < 1e-6 * first
    assert budgets[-1] < first + more or more < 1e-6 * first


def test_bad_default_budgets() -> None:
    with pytest.raises(ValueError, match=r"^count must be at least 1, got 0$"):
        default_budgets((1, 2), count=0)
    with pytest.raises(ValueError, match=r"^macs must hold one number for at least one exit, got none$"):
        default_budgets(())


def test_budgets_worked_by_hand() -> None:
    cheap, middle, dear = thresholds_for_budgets(FOUR_IMAGES, (100, 300), (100, 200, 1000))
    assert (cheap.macs, cheap.accuracy, cheap.exit_shares) == (100, 0.5, (1.0, 0.0))
    # At 200 half of the images may go on: the two that exit 1 is unsure and wrong of, and all four are right.
    assert (middle.macs, middle.accuracy, middle.exit_shares) == (200, 1.0, (0.5, 0.5))
    assert dear == middle  # spending more would not be more accurate


@settings(deadline=None)  # other work on the machine must not fail a test
@given(sample=random_scores(), spends=st.lists(st.floats(0, 1.5), min_size=1, max_size=6))
def test_every_budget_is_kept_and_more_money_is_never_worse(sample: ExitScores, spends: list[float]) -> None:
    macs = costs(sample.num_exits)
    budgets = sorted(macs[0] + spend * (macs[-1] - macs[0]) for spend in spends)
    points = thresholds_for_budgets(sample, macs, budgets)
    assert all(point.macs <= budget for point, budget in zip(points, budgets, strict=True))
    accuracies = [point.accuracy for point in points]
    assert accuracies == sorted(accuracies)
    front = calibrated_front(sample, macs)
    for point, budget in zip(points, budgets, strict=True):
        assert point.accuracy == max(other.accuracy for other in front.points if other.macs <= budget)


def test_the_order_of_budgets_is_kept() -> None:
    points = thresholds_for_budgets(FOUR_IMAGES, (100, 300), (250, 100, 250))
    assert [point.macs for point in points] == [200, 100, 200]


def test_the_first_exits_own_cost_is_a_budget() -> None:
    (point,) = thresholds_for_budgets(FOUR_IMAGES, (0.1, 0.3), (0.1,))
    assert point.macs == 0.1


def test_budgets_under_the_first_exit_are_told_all_at_once() -> None:
    message = (
        "exits.budgets_macs.0 must be at least 100, the cost of leaving at the first exit, got 99.5\n"
        "exits.budgets_macs.2 must be at least 100, the cost of leaving at the first exit, got nan"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$") as caught:
        thresholds_for_budgets(FOUR_IMAGES, (100, 300), (99.5, 200, math.nan))
    assert [problem.path for problem in caught.value.problems] == ["exits.budgets_macs.0", "exits.budgets_macs.2"]


def test_budgets_are_checked_before_there_are_scores() -> None:
    macs = (1e6, 3e6, 16e6)
    assert checked_budgets(macs, ()) == default_budgets(macs)
    assert checked_budgets(macs, (9e6, 1e6)) == (9e6, 1e6)
    message = "exits.budgets_macs.1 must be at least 1000000, the cost of leaving at the first exit, got 999999"
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        checked_budgets(macs, (2e6, 999_999))
