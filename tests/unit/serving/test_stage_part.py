"""Stages at work on groups of several requests: the same answers as the engine gives, each with its own thresholds."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dvt.exits import PLAIN, Confidence, max_probability
from dvt.inference import EarlyExit
from dvt.models import Cascade
from dvt.serving.stage_part import ImageGroup, Leavers, PartResult, StagePart
from tests.unit.models.tiny import build, tiny

INF = float("inf")
SIZES = (4, 1, 7)  # of the groups
ALL = (-INF, -INF, -INF)
NONE = (INF, INF, -INF)


@pytest.fixture(scope="module")
def cascade() -> Cascade:
    return build(tiny())


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(sum(SIZES), 3, 32, 32, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def middle(cascade: Cascade, images: Tensor) -> tuple[float, ...]:
    """Thresholds that let about half of the images leave at each exit."""
    with torch.inference_mode():
        confidence = max_probability(cascade(images))
    return (*confidence[:-1].median(dim=1).values.double().add(1e-6).tolist(), -INF)


def groups_of(images: Tensor, thresholds: list[tuple[float, ...]]) -> list[ImageGroup]:
    parts = images.split(list(SIZES))
    return [
        ImageGroup(part.numpy(), np.tile(np.array(each), (len(part), 1)))
        for part, each in zip(parts, thresholds, strict=True)
    ]


def through(parts: list[StagePart], groups: list[ImageGroup]) -> list[dict[int, tuple[Any, ...]]]:
    """Row -> (label, prob, confidence, exit_index) of each group, all groups going through the parts together."""
    answers: list[dict[int, tuple[Any, ...]]] = [{} for _ in groups]
    travelling = [(number, np.arange(len(group)), group) for number, group in enumerate(groups)]
    for part in parts:
        results: list[PartResult] = part([group for _, _, group in travelling])
        next_ones = []
        for (number, rows, _), result in zip(travelling, results, strict=True):
            left: Leavers = result.left
            columns = (rows[left.rows], left.label, left.prob, left.confidence, left.exit_index)
            for row, *values in zip(*(column.tolist() for column in columns), strict=True):
                answers[number][row] = tuple(values)
            if result.survivors is not None:
                next_ones.append((number, rows[result.staying], result.survivors))
        travelling = next_ones
    assert not travelling
    return answers


@pytest.mark.parametrize("is_split", [True, False])
@pytest.mark.parametrize("measure", ["max_probability", "margin"])
def test_groups_get_what_the_engine_says_under_their_own_thresholds(
    cascade: Cascade, images: Tensor, middle: tuple[float, ...], is_split: bool, measure: Any
) -> None:
    confidence = Confidence(measure)
    thresholds = [middle, ALL, NONE]
    stages = [range(k, k + 1) for k in range(3)] if is_split else [range(3)]
    answers = through([StagePart(cascade, confidence, each) for each in stages], groups_of(images, thresholds))
    for part, each, got in zip(images.split(list(SIZES)), thresholds, answers, strict=True):
        wanted = EarlyExit(cascade, each, confidence=confidence)(part)
        assert sorted(got) == list(range(len(part)))
        told = [got[row] for row in range(len(part))]
        assert [label for label, *_ in told] == wanted.label.tolist()
        assert [exit_index for *_, exit_index in told] == wanted.exit_index.tolist()
        assert [value for _, _, value, _ in told] == pytest.approx(wanted.confidence.tolist(), rel=1e-4)
        assert [prob for _, prob, _, _ in told] == pytest.approx(wanted.probs.amax(dim=1).tolist(), rel=1e-4)
    assert {exit_index for *_, exit_index in answers[0].values()} != {0}, "the first group must leave at several exits"


def test_what_left_is_not_handed_on(cascade: Cascade, images: Tensor, middle: tuple[float, ...]) -> None:
    (result,) = StagePart(cascade, PLAIN, range(1))(groups_of(images, [middle] * 3)[2:])
    assert result.survivors is not None
    assert 0 < len(result.survivors) == len(result.staying) < SIZES[2]
    assert {len(each) for each in result.survivors.upstream} == {len(result.staying)}
    np.testing.assert_array_equal(result.survivors.images, images[-SIZES[2] :].numpy()[result.staying])


def test_a_confidence_that_is_no_number_leaves_at_the_last_exit(cascade: Cascade) -> None:
    broken = ImageGroup(np.full((1, 3, 32, 32), np.nan, dtype=np.float32), np.array([[0.0, 0.0, -INF]]))
    (result,) = StagePart(cascade, PLAIN, range(3))([broken])
    assert result.left.exit_index.tolist() == [2]
    assert result.survivors is None


def test_arrays_that_cannot_be_written_are_read(cascade: Cascade, images: Tensor) -> None:
    group = groups_of(images.clone(), [ALL] * 3)[0]
    group.images.flags.writeable = False  # as what lies in shared memory; torch warns, and warnings are errors here
    (result,) = StagePart(cascade, PLAIN, range(1))([group])
    assert len(result.left.rows) == SIZES[0]
