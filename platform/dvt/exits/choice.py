"""Which confidence to leave by: the one whose calibration front has the largest area.

What matters is that the images which an exit lets go are those it is right about, at every budget; how well calibrated
its probabilities are does not. So six candidates (three measures, each with and without fitted temperatures) are
compared by the accuracy that their best thresholds reach, averaged over budgets even in log cost.

Shapes: E exits, N images, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from dvt.exits.confidence import MEASURES, PLAIN, Confidence, Measure, fit_temperatures
from dvt.exits.front import Front, checked_macs
from dvt.exits.hypervolume import hypervolume
from dvt.exits.scores import ExitScores, score_exits
from dvt.exits.solve import calibrated_front

_CHUNK = 4096  # images scored at once, which bounds what softmax needs beside the logits


@dataclass(frozen=True)
class ConfidenceChoice:
    """The confidence chosen, and what spoke for it."""

    confidence: Confidence
    areas: Mapping[str, float]  # mean accuracy over budgets, from 0 to 1, by name; the largest was taken


def choose_confidence(
    logits: Tensor, labels: Tensor, macs: Sequence[float], measure: Measure | Literal["auto"] = "auto"
) -> ConfidenceChoice:
    """Choose among all six by the area under their calibration fronts; of equal ones the plainest.

    The logits of 50,000 images, 1,000 classes and 3 exits are 600 MB (E x N x C x 4 bytes); beside them this needs
    about a tenth.

    Args:
        logits: Of calibration images, (E, N, C).
        labels: Class indices, (N,).
        macs: (E,), cumulative multiply-adds of leaving at each exit.
        measure: `auto`, or the one measure to take, without temperatures.

    Raises:
        ValueError: As `score_exits`; or if `macs` are not strictly increasing.
    """
    if measure != "auto":
        candidates = [Confidence(measure)]
    elif len(logits) == 1:
        candidates = [PLAIN]  # a single exit lets all leave
    else:
        candidates = [Confidence(each) for each in MEASURES]
        temperatures = fit_temperatures(logits, labels)
        candidates += [Confidence(each, temperatures) for each in MEASURES]
    areas: dict[str, float] = {}
    for confidence in candidates:
        scores = score_in_chunks(logits, labels, confidence)
        areas[confidence.name] = front_area(calibrated_front(scores, macs), macs)
    return ConfidenceChoice(
        max(candidates, key=lambda confidence: areas[confidence.name]), areas
    )  # the first of equals


def front_area(front: Front, macs: Sequence[float]) -> float:
    """Mean accuracy over budgets from the first to the last exit's cost, even in log cost.

    Args:
        front: Whose best point within each budget counts; its first costs what the first exit does.
        macs: (E,), cumulative multiply-adds of leaving at each exit.

    Returns:
        From 0 to 1; of a single exit, its accuracy.
    """
    costs = checked_macs(macs)
    if len(costs) == 1:
        return front.points[-1].accuracy
    return hypervolume(front.points, costs[0], costs[-1])


def score_in_chunks(logits: Tensor, labels: Tensor, confidence: Confidence) -> ExitScores:
    """`score_exits` of many images, some at a time: (E, N, C) and (N,)."""
    chunks = zip(logits.split(_CHUNK, dim=1), labels.split(_CHUNK), strict=True)
    return ExitScores.join(score_exits(rows, classes, confidence) for rows, classes in chunks)
