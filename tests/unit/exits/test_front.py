"""The front: measured points, domination, budgets and the way from calibration to test images."""

import json
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvt.config import ConfigError
from dvt.exits import (
    ExitScores,
    Front,
    FrontPoint,
    calibrated_front,
    candidate_thresholds,
    exit_indices,
    measure_point,
    transfer_front,
)
from tests.unit.exits.examples import FOUR_IMAGES, cascade_scores, costs, random_scores, scores

INF = math.inf


def point(macs: float, accuracy: float) -> FrontPoint:
    return FrontPoint(macs=macs, accuracy=accuracy, thresholds=(0.5, -INF), exit_shares=(0.25, 0.75))


def test_a_point_worked_by_hand() -> None:
    # Image 0 (0.9) and image 1 (0.8) leave at exit 1, both right; images 2 and 3 go on, both right there.
    measured = measure_point(FOUR_IMAGES, (100, 300), (0.75, -INF))
    assert measured == FrontPoint(macs=200.0, accuracy=1.0, thresholds=(0.75, -INF), exit_shares=(0.5, 0.5))


def test_leaving_all_at_one_exit_costs_exactly_that_exit() -> None:
    sample, macs = cascade_scores(3, 7, seed=0), (0.1, 0.7, 1.9)
    for index in range(3):
        thresholds = [INF] * index + [-INF] * (3 - index)
        measured = measure_point(sample, macs, thresholds)
        assert measured.macs == macs[index]
        assert measured.accuracy == pytest.approx(sample.top1[index])


@settings(deadline=None)  # other work on the machine must not fail a test
@given(sample=random_scores(), data=st.data())
def test_a_point_is_what_a_plain_loop_measures(sample: ExitScores, data: st.DataObject) -> None:
    macs = costs(sample.num_exits)
    thresholds = data.draw(st.sampled_from(candidate_thresholds(sample.confidence)))
    exits = exit_indices(sample.confidence, thresholds).tolist()
    measured = measure_point(sample, macs, thresholds)
    assert measured.macs == pytest.approx(sum(macs[index] for index in exits) / len(exits))
    hits = sum(bool(sample.correct[index, image]) for image, index in enumerate(exits))
    assert measured.accuracy == pytest.approx(hits / len(exits))
    assert sum(measured.exit_shares) == pytest.approx(1)


def test_dominated_points_go() -> None:
    best = [point(1, 0.5), point(2, 0.7), point(4, 0.9)]
    worse = [point(1, 0.4), point(3, 0.7), point(3, 0.6), point(4, 0.8), point(5, 0.9)]
    assert Front.of([*worse, *best]).points == tuple(best)


@settings(deadline=None)  # other work on the machine must not fail a test
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1))
def test_what_stays_is_sorted_and_beaten_by_none(places: list[tuple[int, int]]) -> None:
    front = Front.of(point(macs, accuracy / 9) for macs, accuracy in places)
    kept = {(p.macs, p.accuracy) for p in front.points}
    for macs, accuracy in places:
        beaten = any(m <= macs and a >= accuracy / 9 and (m, a) != (macs, accuracy / 9) for m, a in kept)
        assert ((macs, accuracy / 9) in kept) != beaten


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ((), "points must hold at least one point, got none"),
        (
            (point(4.5e9, 0.5), point(1e9, 0.7)),
            "points must rise strictly in macs and accuracy, got 4500000000, 0.5 before 1000000000, 0.7",
        ),
        ((point(1, 0.5), point(2, 0.5)), "points must rise strictly in macs and accuracy, got 1, 0.5 before 2, 0.5"),
    ],
)
def test_points_that_are_no_front(points: tuple[FrontPoint, ...], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Front(points)


def test_the_best_point_within_a_budget() -> None:
    front = Front((point(100, 0.5), point(200, 0.7), point(400, 0.9)))
    assert [front.at_budget(budget).macs for budget in (100, 199.9, 200, 399, 400, 1e12)] == [
        100,
        100,
        200,
        200,
        400,
        400,
    ]


@pytest.mark.parametrize(("budget", "told"), [(467_699_999, "467699999"), (0, "0"), (math.nan, "nan"), (-INF, "-inf")])
def test_a_budget_under_the_cheapest_point(budget: float, told: str) -> None:
    front = Front((point(467_700_000, 0.5),))
    message = f"budget_macs must be at least 467700000, the cost of leaving at the first exit, got {told}"
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        front.at_budget(budget)


@settings(deadline=None)  # other work on the machine must not fail a test
@given(sample=random_scores())
def test_the_calibrated_front_holds_the_best_of_all_candidates(sample: ExitScores) -> None:
    macs = costs(sample.num_exits)
    front = calibrated_front(sample, macs)
    assert front.points[0].macs == macs[0]
    assert front.points[0].exit_shares[0] == 1
    assert front.points[-1].accuracy >= max(sample.top1) - 1e-9
    for thresholds in candidate_thresholds(sample.confidence):
        candidate = measure_point(sample, macs, thresholds)
        assert front.at_budget(candidate.macs).accuracy >= candidate.accuracy
    assert all(measure_point(sample, macs, p.thresholds) == p for p in front.points)


def test_the_front_lies_above_the_exits_alone() -> None:
    sample, macs = cascade_scores(3, 5000, seed=1), (1e6, 4e6, 9e6)
    front = calibrated_front(sample, macs)
    assert front.at_budget(macs[1]).accuracy > sample.top1[1] + 0.02


def test_points_keep_their_thresholds_on_test_images_though_dominated() -> None:
    calibration = FOUR_IMAGES
    test = scores([[0.9, 0.55], [0.5, 0.6]], [[1, 1], [0, 0]])  # here the second exit is always wrong
    macs = (100, 300)
    front = calibrated_front(calibration, macs)
    moved = transfer_front(front, test, macs)
    assert [p.thresholds for p in moved] == [p.thresholds for p in front.points]
    assert [(p.macs, p.accuracy) for p in front.points] == [(100, 0.5), (150, 0.75), (200, 1.0)]
    assert [(p.macs, p.accuracy) for p in moved] == [(100, 1.0), (200, 0.5), (200, 0.5)]
    assert moved == tuple(measure_point(test, macs, p.thresholds) for p in front.points)


@pytest.mark.parametrize(
    ("macs", "message"),
    [
        ((100,), "macs must hold one number for each of 2 exits, got 100"),
        ((), "macs must hold one number for each of 2 exits, got none"),
        ((300, 100), "macs must be positive and strictly increasing from exit to exit, got 300, 100"),
        ((100, 100), "macs must be positive and strictly increasing from exit to exit, got 100, 100"),
        ((0, 100), "macs must be positive and strictly increasing from exit to exit, got 0, 100"),
        ((1, math.nan), "macs must be positive and strictly increasing from exit to exit, got 1, nan"),
        ((1, INF), "macs must be positive and strictly increasing from exit to exit, got 1, inf"),
    ],
)
def test_bad_costs(macs: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        calibrated_front(FOUR_IMAGES, macs)


@settings(deadline=None)  # other work on the machine must not fail a test
@given(sample=random_scores())
def test_fronts_go_through_json(sample: ExitScores) -> None:
    front = calibrated_front(sample, costs(sample.num_exits))
    assert Front.from_dict(json.loads(json.dumps(front.to_dict(), allow_nan=False))) == front


def test_points_hold_python_numbers_only() -> None:
    measured = measure_point(FOUR_IMAGES, np.array([100, 300]), np.array([0.75, -INF]))
    numbers = [measured.macs, measured.accuracy, *measured.thresholds, *measured.exit_shares]
    assert {type(number) for number in numbers} == {float}


def test_a_front_of_six_exits_and_twenty_thousand_images() -> None:
    front = calibrated_front(cascade_scores(6, 20_000, seed=2), costs(6))
    assert len(front.points) > 6
