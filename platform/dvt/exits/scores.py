"""Cached scores of a labelled set: how sure every exit was of every image, and whether it was right.

Thresholds, fronts and budgets are computed from these two arrays; no model is in sight. What confidence is, the scores
say themselves (`confidence.py`): thresholds chosen by one measure mean nothing by another.

Shapes: E exits, B images of a batch, C classes, N images of the whole set.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dvt.exits.confidence import PLAIN, Confidence


@dataclass(frozen=True, eq=False)
class ExitScores:
    """What every exit says about every image of a labelled set.

    Raises:
        ValueError: If a shape or type is not the stated one, there are no images, or a confidence is not finite.
    """

    confidence: NDArray[np.float32]  # (E, N); how sure, a larger number is surer; any finite measure will do
    correct: NDArray[np.bool_]  # (E, N); whether the exit's most probable class is the label
    measured_by: Confidence = PLAIN  # what `confidence` is

    def __post_init__(self) -> None:
        check_confidence(self.confidence)
        if self.confidence.dtype != np.float32:
            raise ValueError(f"confidence must be float32, got {self.confidence.dtype}")
        if self.correct.dtype != np.bool_:
            raise ValueError(f"correct must be bool, got {self.correct.dtype}")
        if self.correct.shape != self.confidence.shape:
            raise ValueError(
                f"correct must have the shape of confidence {self.confidence.shape}, got {self.correct.shape}"
            )

    @property
    def num_exits(self) -> int:
        """Number of exits, E."""
        return int(self.confidence.shape[0])

    @property
    def num_images(self) -> int:
        """Number of images, N."""
        return int(self.confidence.shape[1])

    @property
    def top1(self) -> tuple[float, ...]:
        """Accuracy of each exit on its own, all images leaving there; from 0 to 1."""
        return tuple(float(share) for share in self.correct.mean(axis=1))

    def select(self, index: NDArray[Any]) -> Self:
        """The scores of the images at `index`, positions or a boolean mask, alone."""
        return type(self)(self.confidence[:, index], self.correct[:, index], self.measured_by)

    @classmethod
    def join(cls, parts: Iterable[Self]) -> Self:
        """The scores of several batches or ranks as those of one set, in the order given.

        Raises:
            ValueError: If there are no parts, or they differ in number of exits or measure of confidence.
        """
        parts = list(parts)
        if not parts:
            raise ValueError("parts must hold the scores of at least one batch, got none")
        num_exits = sorted({part.num_exits for part in parts})
        if len(num_exits) > 1:
            raise ValueError(f"parts must all have one number of exits, got {', '.join(map(str, num_exits))}")
        measures = list(dict.fromkeys(part.measured_by for part in parts))
        if len(measures) > 1:
            told = ", ".join(measure.name for measure in measures)
            raise ValueError(f"parts must all have one measure of confidence, got {told}")
        return cls(
            confidence=np.concatenate([part.confidence for part in parts], axis=1),
            correct=np.concatenate([part.correct for part in parts], axis=1),
            measured_by=measures[0],
        )


def score_exits(logits: Tensor, labels: Tensor, confidence: Confidence = PLAIN) -> ExitScores:
    """Score one batch.

    Args:
        logits: Output of `Cascade.forward`, (E, B, C), of any floating type and on any device.
        labels: Class indices, (B,), from 0 to C - 1.
        confidence: How to measure how sure an exit is.

    Returns:
        The scores on the CPU. Of classes with equal logits, the first is the one predicted.

    Raises:
        ValueError: If shapes do not fit, a label is no class, the batch is empty, a logit is not a number, or there are
            temperatures of another number of exits.
    """
    if logits.dim() != 3:
        raise ValueError(f"logits must have shape (exits, batch, classes), got {tuple(logits.shape)}")
    _, num_images, num_classes = logits.shape
    if labels.shape != (num_images,):
        raise ValueError(f"labels must hold one class for each of {num_images} images, got shape {tuple(labels.shape)}")
    labels = labels.to(logits.device)
    is_class = (labels >= 0) & (labels < num_classes)
    if not bool(is_class.all()):
        wrong = labels[~is_class][0].item()
        raise ValueError(f"labels must be from 0 to {num_classes - 1}, got {wrong}")
    confidence.check(len(logits))
    sure = torch.stack([confidence(rows, exit_index) for exit_index, rows in enumerate(logits)])  # (E, B)
    correct = logits.argmax(dim=-1) == labels  # (E, B)
    return ExitScores(confidence=_to_numpy(sure), correct=_to_numpy(correct), measured_by=confidence)


def check_confidence(confidence: NDArray[np.floating[Any]]) -> None:
    """Refuse confidences that thresholds cannot be chosen from.

    Raises:
        ValueError: If they are not (exits, images) with at least one of each, or one of them is not finite.
    """
    if confidence.ndim != 2 or 0 in confidence.shape:
        raise ValueError(
            f"confidence must have shape (exits, images) with at least one of each, got shape {confidence.shape}"
        )
    finite = np.isfinite(confidence)
    if not finite.all():
        exit_index, image = np.argwhere(~finite)[0]
        raise ValueError(
            f"confidence must be finite, got {confidence[exit_index, image]} at exit {exit_index + 1}, image {image} "
            f"(not finite in {np.count_nonzero(~finite)} of {finite.size} places)"
        )


def _to_numpy(values: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = values.to(torch.device("cpu")).numpy()
    return array
