"""Hypervolumes worked by hand."""

from dataclasses import dataclass

import pytest

from dvt.exits import hypervolume


@dataclass(frozen=True)
class Priced:
    macs: float
    accuracy: float


def test_one_point_counts_from_its_cost_on() -> None:
    # From 1 to 100, even in log cost, half of the budgets reach 10.
    assert hypervolume([Priced(10, 0.8)], 1, 100) == pytest.approx(0.4)


def test_the_best_within_each_budget_counts() -> None:
    points = [Priced(1, 0.5), Priced(10, 0.9)]
    assert hypervolume(points, 1, 100) == pytest.approx((0.5 + 0.9) / 2)
    assert hypervolume(reversed(points), 1, 100) == pytest.approx(0.7)


def test_dominated_and_dearer_points_change_nothing() -> None:
    points = [Priced(1, 0.5), Priced(10, 0.9)]
    more = [*points, Priced(5, 0.4), Priced(10, 0.6), Priced(101, 1.0)]
    assert hypervolume(more, 1, 100) == hypervolume(points, 1, 100)


def test_a_point_below_the_least_budget_counts_from_there() -> None:
    assert hypervolume([Priced(0.1, 0.6)], 1, 100) == pytest.approx(0.6)


def test_nothing_within_the_budgets_is_worth_nothing() -> None:
    assert hypervolume([], 1, 100) == 0
    assert hypervolume([Priced(200, 1.0)], 1, 100) == 0
    assert hypervolume([Priced(100, 1.0)], 1, 100) == pytest.approx(0)
