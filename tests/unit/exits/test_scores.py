"""Scores: confidences and hits of a batch, checked and joined."""

import re

import numpy as np
import pytest
import torch

from dvt.exits import Confidence, ExitScores, max_probability, score_exits
from tests.unit.exits.examples import FOUR_IMAGES, scores


def test_scores_of_a_batch_worked_by_hand() -> None:
    log3, log9 = float(np.log(3)), float(np.log(9))
    logits = torch.tensor([[[log3, 0.0], [0.0, 0.0]], [[log9, 0.0], [0.0, log9]]])  # (2, 2, 2)
    batch = score_exits(logits, torch.tensor([0, 1]))
    np.testing.assert_allclose(batch.confidence, [[0.75, 0.5], [0.9, 0.9]], rtol=1e-6)
    assert batch.correct.tolist() == [[True, False], [True, True]]  # of equal logits the first class is predicted
    assert (batch.num_exits, batch.num_images) == (2, 2)
    assert batch.top1 == (0.5, 1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_confidence_is_stable_and_float32_for_every_type(dtype: torch.dtype) -> None:
    logits = torch.tensor([[[30000.0, 0.0, -30000.0], [-30000.0, -30000.0, -30000.0]]], dtype=dtype)
    batch = score_exits(logits, torch.tensor([0, 0]))
    assert batch.confidence.dtype == np.float32
    np.testing.assert_allclose(batch.confidence, [[1.0, 1 / 3]], rtol=1e-6)


def test_confidence_is_the_largest_softmax_probability() -> None:
    logits = torch.randn(3, 50, 10, generator=torch.Generator().manual_seed(0)) * 5
    expected = logits.double().softmax(dim=-1).amax(dim=-1).float()
    torch.testing.assert_close(max_probability(logits), expected, rtol=1e-6, atol=0)


def test_scores_keep_no_graph() -> None:
    logits = torch.randn(2, 3, 4, requires_grad=True)
    assert score_exits(logits, torch.zeros(3, dtype=torch.int64)).num_images == 3


def test_joining_keeps_the_order() -> None:
    joined = ExitScores.join([FOUR_IMAGES, scores([[0.1], [0.2]], [[0], [1]])])
    assert joined.num_images == 5
    assert joined.confidence[:, 4].tolist() == pytest.approx([0.1, 0.2])
    assert joined.top1 == (0.4, 0.8)


def test_joining_batches_equals_scoring_at_once() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(3, 20, 5, generator=generator)
    labels = torch.randint(0, 5, (20,), generator=generator)
    pieces = zip(logits.split(7, dim=1), labels.split(7), strict=True)
    joined, whole = ExitScores.join(score_exits(*piece) for piece in pieces), score_exits(logits, labels)
    assert np.array_equal(joined.confidence, whole.confidence)
    assert np.array_equal(joined.correct, whole.correct)


def test_scores_say_what_measured_them() -> None:
    logits, labels = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(2)), torch.tensor([0, 1, 2])
    by = Confidence("margin", (1.0, 2.0))
    batch = score_exits(logits, labels, by)
    assert batch.measured_by == ExitScores.join([batch, batch]).measured_by == by
    np.testing.assert_array_equal(batch.confidence[1], by(logits[1], 1))
    assert score_exits(logits, labels).measured_by == Confidence()
    with pytest.raises(
        ValueError, match=r"^parts must all have one measure of confidence, got margin, max_probability"
    ):
        ExitScores.join([score_exits(logits, labels, Confidence("margin")), score_exits(logits, labels)])
    with pytest.raises(ValueError, match=r"^temperatures must be one for each of 2 exits, got 3$"):
        score_exits(logits, labels, Confidence("margin", (1.0, 1.0, 1.0)))


def test_joining_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"^parts must hold the scores of at least one batch, got none$"):
        ExitScores.join([])
    with pytest.raises(ValueError, match=r"^parts must all have one number of exits, got 1, 2$"):
        ExitScores.join([FOUR_IMAGES, scores([[0.5]], [[1]])])


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        ((2, 3), [0, 0], "logits must have shape (exits, batch, classes), got (2, 3)"),
        ((2, 4, 3), [0, 0, 0], "labels must hold one class for each of 4 images, got shape (3,)"),
        ((2, 2, 3), [0, 3], "labels must be from 0 to 2, got 3"),
        ((2, 2, 3), [-1, 0], "labels must be from 0 to 2, got -1"),
        (
            (2, 0, 3),
            [],
            "confidence must have shape (exits, images) with at least one of each, got shape (2, 0)",
        ),
    ],
)
def test_batches_that_do_not_fit(logits: tuple[int, ...], labels: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        score_exits(torch.zeros(logits), torch.tensor(labels, dtype=torch.int64))


def test_logits_of_a_diverged_model() -> None:
    logits = torch.zeros(2, 3, 4)
    logits[1, 2, 0] = torch.nan
    message = "confidence must be finite, got nan at exit 2, image 2 (not finite in 1 of 6 places)"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        score_exits(logits, torch.zeros(3, dtype=torch.int64))


@pytest.mark.parametrize(
    ("confidence", "correct", "message"),
    [
        (np.zeros((2, 3)), np.zeros((2, 3), bool), "confidence must be float32, got float64"),
        (np.zeros((2, 3), np.float32), np.zeros((2, 3)), "correct must be bool, got float64"),
        (
            np.zeros((2, 3), np.float32),
            np.zeros((2, 2), bool),
            "correct must have the shape of confidence (2, 3), got (2, 2)",
        ),
        (
            np.zeros(3, np.float32),
            np.zeros(3, bool),
            "confidence must have shape (exits, images) with at least one of each, got shape (3,)",
        ),
    ],
)
def test_arrays_that_are_no_scores(confidence: np.ndarray, correct: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ExitScores(confidence=confidence, correct=correct)
