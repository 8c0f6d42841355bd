"""Between the levels of a lattice: every threshold near a good one, at the full resolution of the images.

Moving one threshold past an image of an exit changes what that image does, if it gets there, and nothing else. So all
places of one threshold in a window are known from one running sum over the images in it, for many vectors at once. That
is done exit by exit, a few rounds, and only what beats the front so far is kept: a search, not a proof, which finds the
last images in fifty thousand that the lattice's steps leave.

Shapes: E exits, N images, M threshold vectors, W half the window, Q = 2 W + 1 places in it.
"""

import numpy as np
from numpy.typing import NDArray

from dvt.exits.lattice import Candidates, lattice_levels, mean_macs

NUM_ROUNDS = 3
NUM_PLACES = 600_000  # of all windows of an exit together; bounds memory and time
FEWEST_VECTORS = 64


def polished(
    candidates: Candidates, confidence: NDArray[np.float32], correct: NDArray[np.bool_], costs: NDArray[np.float64]
) -> Candidates:
    """The candidates and what lies near them, without what any of these beats; sorted by cost.

    Args:
        candidates: Sorted by cost, none dominated.
        confidence: (E, N), finite.
        correct: (E, N).
        costs: (E,), cumulative multiply-adds of leaving at each exit.
    """
    order = np.argsort(confidence[:-1], axis=1, kind="stable")  # (E - 1, N)
    num_images = confidence.shape[1]
    widths = [min(num_images, 2 * num_images // (len(levels) + 1)) for levels in lattice_levels(confidence, correct)]
    for _ in range(NUM_ROUNDS):
        for index, width in enumerate(widths):
            near = _near(_some_of(candidates, NUM_PLACES // (2 * width + 1)), confidence, correct, order, index, width)
            better = near.chosen(_above(candidates, near, costs)).undominated(costs)
            candidates = candidates.joined(better).undominated(costs)
    return candidates


def _some_of(candidates: Candidates, num_vectors: int) -> Candidates:
    """About so many of them, evenly over the front."""
    num_vectors = max(FEWEST_VECTORS, num_vectors)
    if len(candidates.num_correct) <= num_vectors:
        return candidates
    return candidates.chosen(np.linspace(0, len(candidates.num_correct) - 1, num_vectors).astype(np.int64))


def _above(front: Candidates, near: Candidates, costs: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which are more accurate than the front's best that costs no more."""
    place = np.searchsorted(mean_macs(front.counts, costs), mean_macs(near.counts, costs), side="right") - 1
    return (place < 0) | (near.num_correct > front.num_correct[place])


def _near(
    candidates: Candidates,
    confidence: NDArray[np.float32],
    correct: NDArray[np.bool_],
    order: NDArray[np.int64],
    index: int,
    width: int,
) -> Candidates:
    """All places of exit `index`'s threshold up to `width` images from where each candidate has it."""
    num_exits, num_images = confidence.shape
    row = confidence[index][order[index]]  # (N,), rising
    start = np.searchsorted(row, candidates.thresholds[:, index], side="left")  # (M,), from here on images leave
    places = start[:, None] + np.arange(-width, width + 1)  # (M, Q)
    images = order[index][np.clip(places[:, :-1], 0, num_images - 1)]  # (M, Q - 1), each between two places
    is_here = (places[:, :-1] >= 0) & (places[:, :-1] < num_images)
    for before in range(index):
        is_here &= confidence[before][images] < candidates.thresholds[:, before, None]
    later = np.full(images.shape, num_exits - 1)  # the exit that takes an image which this one lets go on
    for after in range(num_exits - 2, index, -1):
        later = np.where(confidence[after][images] >= candidates.thresholds[:, after, None], after, later)
    gained = (correct[later, images].astype(np.int64) - correct[index][images]) * is_here
    num_correct = candidates.num_correct[:, None] + _from_centre(gained, width)
    counts = np.repeat(candidates.counts[:, None], places.shape[1], axis=1)  # (M, Q, E)
    counts[..., index] -= _from_centre(is_here.astype(np.int64), width)
    for after in range(index + 1, num_exits):
        counts[..., after] += _from_centre((is_here & (later == after)).astype(np.int64), width)
    thresholds = np.repeat(candidates.thresholds[:, None], places.shape[1], axis=1)
    levels = np.concatenate([row, [np.inf]])
    thresholds[..., index] = levels[np.clip(places, 0, num_images)]
    # Images of equal confidence leave together, so that not every place is one.
    is_step = np.concatenate([[True], levels[1:] > levels[:-1]])
    is_place = (places >= 0) & (places <= num_images) & is_step[np.clip(places, 0, num_images)]
    return Candidates(thresholds[is_place], counts[is_place], num_correct[is_place])


def _from_centre(steps: NDArray[np.int64], width: int) -> NDArray[np.int64]:
    """Sums of steps from the centre to each place, negative before it: (M, Q - 1) to (M, Q)."""
    sums = np.zeros((steps.shape[0], steps.shape[1] + 1), dtype=np.int64)
    np.cumsum(steps, axis=1, out=sums[:, 1:])
    difference: NDArray[np.int64] = sums - sums[:, width, None]
    return difference
