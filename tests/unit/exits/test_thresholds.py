"""Thresholds: which exit images leave at, and thresholds for shares."""

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvt.exits import (
    ExitScores,
    candidate_thresholds,
    exit_indices,
    geometric_shares,
    single_exit_thresholds,
    thresholds_for_shares,
)
from tests.unit.exits.examples import FOUR_IMAGES, cascade_scores, random_scores

INF = math.inf


def test_images_leave_at_the_first_exit_that_is_sure_enough() -> None:
    confidence = np.array([[0.9, 0.2, 0.2, 0.5], [0.9, 0.8, 0.3, 0.9], [0.1, 0.9, 0.1, 0.9]], dtype=np.float32)
    exits = exit_indices(confidence, (0.5, 0.75, -INF))
    assert exits.tolist() == [0, 1, 2, 0]  # 0.5 reaches the threshold 0.5
    assert exits.dtype == np.int64


@settings(deadline=None)  # other work on the machine must not fail a test
@given(scores=random_scores(), data=st.data())
def test_exits_are_those_of_a_plain_loop(scores: ExitScores, data: st.DataObject) -> None:
    level = st.one_of(
        st.floats(0, 1, width=32), st.sampled_from([INF, -INF]), st.sampled_from(scores.confidence.ravel().tolist())
    )
    thresholds = [*data.draw(st.lists(level, min_size=scores.num_exits - 1, max_size=scores.num_exits - 1)), -INF]
    expected = []
    for image in range(scores.num_images):
        index = 0
        while float(scores.confidence[index, image]) < thresholds[index]:
            index += 1
        expected.append(index)
    assert exit_indices(scores.confidence, thresholds).tolist() == expected


def test_shares_worked_by_hand() -> None:
    confidence = FOUR_IMAGES.confidence
    half = thresholds_for_shares(confidence, (0.5, 0.5))
    assert half == (float(np.float32(0.8)), -INF)
    assert thresholds_for_shares(confidence, (0, 1)) == (INF, -INF)
    assert thresholds_for_shares(confidence, (1, 0)) == (-INF, -INF)


def test_each_exit_takes_the_surest_of_those_that_reached_it() -> None:
    # Exit 2 is surest of image 0, but that has left: image 2 is the surest of the rest.
    confidence = np.array([[0.9, 0.1, 0.2, 0.3], [0.99, 0.4, 0.8, 0.6], [0.5, 0.5, 0.5, 0.5]], dtype=np.float32)
    thresholds = thresholds_for_shares(confidence, (0.25, 0.25, 0.5))
    assert thresholds == (float(np.float32(0.9)), float(np.float32(0.8)), -INF)
    assert exit_indices(confidence, thresholds).tolist() == [0, 2, 1, 2]


def test_an_exit_after_which_none_is_left_takes_all_and_later_ones_none() -> None:
    confidence = cascade_scores(4, 10, seed=0).confidence
    thresholds = thresholds_for_shares(confidence, (0.4, 0.6, 0, 0))
    assert thresholds[1:] == (-INF, INF, -INF)


def test_equal_confidences_leave_together() -> None:
    confidence = np.array([[1, 1, 1, 0.5], [0.9, 0.8, 0.7, 0.6], [0.5] * 4], dtype=np.float32)
    thresholds = thresholds_for_shares(confidence, (0.25, 0.25, 0.5))
    # Three tie where one was asked for; two were to have left by exit 2, so it takes none.
    assert thresholds == (1.0, INF, -INF)


@settings(deadline=None)  # other work on the machine must not fail a test
@given(scores=random_scores(max_levels=0), weights=st.lists(st.floats(0, 1), min_size=6, max_size=6))
def test_shares_are_those_asked_for_up_to_rounding(scores: ExitScores, weights: list[float]) -> None:
    asked = _normalised(weights[: scores.num_exits])
    thresholds = thresholds_for_shares(scores.confidence, asked)
    counts = np.bincount(exit_indices(scores.confidence, thresholds), minlength=scores.num_exits)
    by_rounding = np.diff(np.rint(np.cumsum(asked) * scores.num_images), prepend=0)
    assert counts.tolist() == by_rounding.tolist()
    assert np.abs(counts - asked * scores.num_images).max() <= 1 + 1e-9


@settings(deadline=None)  # other work on the machine must not fail a test
@given(scores=random_scores(), weights=st.lists(st.floats(0, 1), min_size=6, max_size=6))
def test_ties_only_let_images_leave_earlier(scores: ExitScores, weights: list[float]) -> None:
    asked = _normalised(weights[: scores.num_exits])
    thresholds = thresholds_for_shares(scores.confidence, asked)
    counts = np.bincount(exit_indices(scores.confidence, thresholds), minlength=scores.num_exits)
    assert (np.cumsum(counts) >= np.rint(np.cumsum(asked) * scores.num_images)).all()
    assert thresholds[-1] == -INF
    for count, threshold in zip(counts[:-1], thresholds[:-1], strict=True):
        assert (threshold == INF) <= (count == 0)


def test_finite_thresholds_are_float32_numbers() -> None:
    for thresholds in candidate_thresholds(cascade_scores(3, 500, seed=3).confidence):
        assert all(float(np.float32(threshold)) == threshold for threshold in thresholds)


def test_geometric_shares() -> None:
    assert geometric_shares(3, 1.0) == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    assert geometric_shares(3, 2.0) == pytest.approx((1 / 7, 2 / 7, 4 / 7))
    assert geometric_shares(1, 0.05) == (1.0,)


def test_candidates_are_the_published_family() -> None:
    confidence = cascade_scores(3, 50_000, seed=4).confidence
    candidates = candidate_thresholds(confidence)
    assert len(candidates) == 59
    counts = np.bincount(exit_indices(confidence, candidates[19]), minlength=3)  # q = 1
    assert counts.tolist() == [16667, 16666, 16667]
    first, last = (np.mean(exit_indices(confidence, thresholds) == 0) for thresholds in (candidates[0], candidates[-1]))
    assert first == pytest.approx(0.05 / (0.05 + 0.05**2 + 0.05**3), abs=1e-4)
    assert last == pytest.approx(2.95 / (2.95 + 2.95**2 + 2.95**3), abs=1e-4)


def test_candidates_come_once() -> None:
    assert candidate_thresholds(cascade_scores(1, 5, seed=0).confidence) == ((-INF,),)


def test_leaving_all_at_one_exit() -> None:
    assert single_exit_thresholds(3, 0) == (-INF, INF, -INF)
    assert single_exit_thresholds(3, 1) == (INF, -INF, -INF)
    assert single_exit_thresholds(3, 2) == (INF, INF, -INF)
    confidence = cascade_scores(3, 20, seed=5).confidence
    for index in range(3):
        assert set(exit_indices(confidence, single_exit_thresholds(3, index))) == {index}


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [
        ((-INF,), "thresholds must hold one number for each of 2 exits, got shape (1,)"),
        ((math.nan, -INF), "thresholds must be numbers or infinite, got nan, -inf"),
        ((0.5, 0.5), "thresholds must end with -inf, because the last exit takes what is left, got 0.5"),
    ],
)
def test_bad_thresholds(thresholds: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        exit_indices(FOUR_IMAGES.confidence, thresholds)


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ((1,), "shares must hold one number for each of 2 exits, got 1"),
        ((), "shares must hold one number for each of 2 exits, got none"),
        ((0.5, 0.6), "shares must be at least 0 and sum to 1, got 0.5, 0.6"),
        ((1.5, -0.5), "shares must be at least 0 and sum to 1, got 1.5, -0.5"),
        ((math.nan, 1), "shares must be at least 0 and sum to 1, got nan, 1"),
    ],
)
def test_bad_shares(shares: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        thresholds_for_shares(FOUR_IMAGES.confidence, shares)


def test_bad_confidences() -> None:
    message = "confidence must have shape (exits, images) with at least one of each, got shape (2, 0)"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        thresholds_for_shares(np.zeros((2, 0)), (0.5, 0.5))
    message = "confidence must be finite, got nan at exit 1, image 1 (not finite in 1 of 4 places)"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        exit_indices(np.array([[0.5, math.nan], [0.5, 0.5]]), (0.5, -INF))


def _normalised(weights: list[float]) -> np.ndarray:
    total = sum(weights)
    return np.array(weights) / total if total > 1e-3 else np.eye(len(weights))[-1]
