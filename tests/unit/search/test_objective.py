"""Hypervolumes worked by hand, and the front on validation images."""

import math
from dataclasses import dataclass

import numpy as np
import pytest

from dvt.exits import ExitScores, Front, FrontPoint, measure_point, split_calibration
from dvt.search.objective import EpochFront, hypervolume, point_within, validation_front


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


def some_scores(num_images: int) -> ExitScores:
    generator = np.random.default_rng(0)
    confidence = generator.random((2, num_images), dtype=np.float32)
    return ExitScores(confidence, generator.random((2, num_images)) < confidence)


def test_the_front_is_measured_on_other_images_than_it_is_chosen_on() -> None:
    scores, costs = some_scores(400), (1.0, 3.0)
    _, validating = split_calibration(400)
    front = validation_front(scores, costs)
    for point in front.points:
        assert measure_point(scores.select(validating), costs, point.thresholds) == point
    # What is chosen does not depend on the images it is measured on: all wrong there, all points are worth nothing.
    wrong = scores.correct.copy()
    wrong[:, validating] = False
    worthless = validation_front(ExitScores(scores.confidence, wrong), costs)
    assert [point.accuracy for point in worthless.points] == [0.0]


def test_the_dearest_point_within_a_budget() -> None:
    points = tuple(FrontPoint(macs, macs / 10, (-math.inf,), (1.0,)) for macs in (1.0, 2.0, 3.0))
    front = Front(points)
    assert point_within(front, 2.5) == points[1]
    assert point_within(front, 0.5) is None


def test_an_epoch_survives_json() -> None:
    front = Front((FrontPoint(1.0, 0.5, (0.25, -math.inf), (0.5, 0.5)),))
    epoch = EpochFront(epoch=3, hypervolume=0.4, top1=0.5, macs=1.0, train_s=12.5, front=front)
    assert EpochFront.from_dict(epoch.to_dict()) == epoch
