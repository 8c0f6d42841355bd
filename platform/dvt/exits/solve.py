"""The best thresholds there are for the data: the accuracy-budget front over all vectors of a lattice.

The published implementation takes 59 vectors of fixed geometric shares of images (`thresholds.py`). Here every vector
of a lattice of the exits' confidences competes (`lattice.py`), together with that family, with one threshold shared by
all exits, and with all images leaving at one exit, so that none of these is better at any budget.

Shapes: E exits, N images.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dvt.exits.front import Front, FrontPoint, checked_macs, measure_point, point_of_counts
from dvt.exits.lattice import Candidates, lattice_candidates, shared_candidates
from dvt.exits.polish import polished
from dvt.exits.scores import ExitScores
from dvt.exits.thresholds import candidate_thresholds, single_exit_thresholds


def solve_front(confidence: NDArray[np.float32], correct: NDArray[np.bool_], macs: Sequence[float]) -> Front:
    """The exact front over a lattice of threshold vectors, measured on the images it is chosen on.

    Two exits: over all thresholds there are. Three: over 1,224 quantiles of each exit's confidences, or all of them if
    they are fewer. More: over as many quantiles as give a million and a half vectors, 114 an exit of four, 35 of five,
    17 of six. At no budget are any thresholds at all more accurate than the front by more than `lattice_gap` tells. Of
    three exits and more, what lies near the lattice's best is searched at full resolution and added (`polish.py`).

    Args:
        confidence: (E, N), finite float32; how sure each exit is of each calibration image.
        correct: (E, N); whether it is right.
        macs: (E,), cumulative multiply-adds of leaving at each exit.

    Returns:
        All points that no vector of the lattice, of the published family, of one shared threshold and of single exits
        dominates; often thousands, see `Front.thinned`. Each is what `measure_point` measures of its thresholds, to the
        last bit. Finite thresholds are confidences of images; an exit where none leaves has +inf, one where all leave
        that reach it -inf.

    Raises:
        ValueError: If shapes or types do not fit, a confidence is not finite, or `macs` are not strictly increasing.
    """
    scores = ExitScores(confidence, correct)
    return calibrated_front(scores, macs)


def calibrated_front(calibration: ExitScores, macs: Sequence[float]) -> Front:
    """`solve_front` of cached scores.

    Args:
        calibration: Scores of calibration images; thresholds are chosen and points are measured on them, so their
            accuracy is optimistic. `transfer_front` tells what they are worth.
        macs: (E,), cumulative multiply-adds of leaving at each exit.

    Raises:
        ValueError: If `macs` are not as stated.
    """
    costs = checked_macs(macs, calibration.num_exits)
    num_exits, arrays = calibration.num_exits, (calibration.confidence, calibration.correct, costs)
    alone = [single_exit_thresholds(num_exits, index) for index in range(num_exits)]
    # Exits alone come first: where a candidate does the same, theirs are the thresholds that do so on every image.
    candidates = dict.fromkeys([*alone, *candidate_thresholds(calibration.confidence)])
    points = [measure_point(calibration, macs, thresholds) for thresholds in candidates]
    if num_exits > 1:
        best = lattice_candidates(*arrays).joined(shared_candidates(*arrays)).undominated(costs)
        points += front_points(polished(best, *arrays) if num_exits > 2 else best, costs)
    return Front.of(points)


def front_points(candidates: Candidates, costs: NDArray[np.float64]) -> list[FrontPoint]:
    """What candidates cost and reach, as points."""
    rows = zip(candidates.thresholds.tolist(), candidates.counts, candidates.num_correct.tolist(), strict=True)
    return [point_of_counts(_plain(row, counts), counts, right, costs) for row, counts, right in rows]


def _plain(thresholds: Sequence[float], counts: NDArray[np.int64]) -> tuple[float, ...]:
    """The same thresholds, infinite where an exit takes none or all of the images that reach it."""
    after = np.cumsum(counts[::-1])[::-1].tolist()  # (E,), images that reach each exit
    told = [*after[1:], 0]
    plain = [
        math.inf if reached == rest else -math.inf if rest == 0 else threshold
        for threshold, reached, rest in zip(thresholds, after, told, strict=True)
    ]
    return (*plain[:-1], -math.inf)
