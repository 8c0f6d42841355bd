"""Every threshold vector of a lattice, counted at once: who leaves where, and how many of them are right.

What the images of a set do depends on their ranks among an exit's levels alone, so one histogram of the ranks at the
first k exits, summed up along every axis, tells for every vector how many images go on beyond exit k:

    reach_k(t_1 .. t_k) = sum of 1 over images with c_j < t_j for all j <= k
    correct(t) = sum of correct_1 + sum over k of the sum of (correct_{k+1} - correct_k) over the images that go on

so that a lattice of a million vectors costs a few sums over a million numbers, whatever the number of images.

Shapes: E exits, N images, L levels of an exit, M threshold vectors.
"""

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

NUM_VECTORS = 1_500_000  # of a lattice, at most; 1,224 x 1,224 thresholds of three exits


class Candidates(NamedTuple):
    """Threshold vectors and what a set of images does with them."""

    thresholds: NDArray[np.float64]  # (M, E), the last -inf
    counts: NDArray[np.int64]  # (M, E), images that leave at each exit
    num_correct: NDArray[np.int64]  # (M,), images that are classified correctly where they leave

    def undominated(self, costs: NDArray[np.float64]) -> Self:
        """Those that no other beats in cost and number correct, sorted by cost."""
        return self.chosen(_undominated(mean_macs(self.counts, costs), self.num_correct))

    def chosen(self, which: NDArray[np.int64] | NDArray[np.bool_]) -> Self:
        """Some of them, by place or by mask."""
        return type(self)(self.thresholds[which], self.counts[which], self.num_correct[which])

    def joined(self, other: Self) -> Self:
        """These and then others."""
        return type(self)(
            np.concatenate([self.thresholds, other.thresholds]),
            np.concatenate([self.counts, other.counts]),
            np.concatenate([self.num_correct, other.num_correct]),
        )


def mean_macs(counts: NDArray[np.int64], costs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean cost of vectors that send these numbers of images to each exit: (M, E) to (M,).

    The one order of operations that every cost here is computed in, so that equal is equal to the last bit.
    """
    shares = counts / counts.sum(axis=-1, keepdims=True)
    total: NDArray[np.float64] = shares[..., 0] * costs[0]
    for index in range(1, len(costs)):
        total = total + shares[..., index] * costs[index]
    return total


def lattice_levels(confidence: NDArray[np.float32], correct: NDArray[np.bool_]) -> tuple[NDArray[np.float32], ...]:
    """The finite thresholds of each exit but the last, rising: all there are if they are few enough, else quantiles.

    Quantiles lie where they matter: nine tenths of their mass are on the images that leaving here would lose, being
    wrong here and right at a later exit, and one tenth on all images. A level follows right behind a quantile.

    Args:
        confidence: (E, N), finite.
        correct: (E, N).

    Returns:
        E - 1 arrays of (L,), each number the confidence of an image. An exit's smallest confidence is left out: it
        lets all leave, as -inf does.
    """
    num_exits, num_images = confidence.shape
    if num_exits == 1:
        return ()
    most = int(NUM_VECTORS ** (1 / (num_exits - 1))) - 2 if num_exits > 2 else num_images  # -inf and +inf come to them
    levels = []
    for row, is_lost in zip(confidence[:-1], _lost(correct), strict=True):
        distinct = np.unique(row)[1:]
        if len(distinct) > most:
            order = np.argsort(row, kind="stable")
            num_lost = max(1, int(np.count_nonzero(is_lost)))
            mass = np.cumsum(0.1 / num_images + is_lost[order] * (0.9 / num_lost))  # (N,)
            ends = np.searchsorted(mass, mass[-1] * np.arange(1, most + 1) / (most + 1))  # last image of each cell
            distinct = np.intersect1d(row[order[np.minimum(ends + 1, num_images - 1)]], distinct)
        levels.append(distinct)
    return tuple(levels)


def lattice_candidates(
    confidence: NDArray[np.float32], correct: NDArray[np.bool_], costs: NDArray[np.float64]
) -> Candidates:
    """The vectors of the lattice that no other vector of it beats, sorted by cost.

    Args:
        confidence: (E, N), finite; E at least 2.
        correct: (E, N).
        costs: (E,), cumulative multiply-adds of leaving at each exit.
    """
    num_exits, num_images = confidence.shape
    levels = lattice_levels(confidence, correct)
    ranks = [np.searchsorted(level, row, side="right") for level, row in zip(levels, confidence, strict=False)]
    sizes = [len(level) + 1 for level in levels]
    reach = [np.array(num_images)]  # reach[k]: of (L_1 + 2, .. L_k + 2), images that go on beyond k exits
    macs, num_correct = np.zeros(()), np.array(np.count_nonzero(correct[0]))
    for index in range(num_exits - 1):
        cells = np.ravel_multi_index(ranks[: index + 1], sizes[: index + 1])  # (N,)
        reach.append(_going_on(cells, np.ones(num_images), sizes[: index + 1]))
        gained = correct[index + 1].astype(np.float64) - correct[index]
        num_correct = num_correct[..., None] + _going_on(cells, gained, sizes[: index + 1])
        macs = macs[..., None] + (reach[index][..., None] - reach[index + 1]) / num_images * costs[index]
    macs = macs + reach[-1] / num_images * costs[-1]
    places = np.unravel_index(_best_of_rows(macs, num_correct), macs.shape)  # E - 1 arrays of (M,)
    going_on = np.stack([counts[places[:index]] + np.zeros_like(places[0]) for index, counts in enumerate(reach)])
    bounds = [np.concatenate([[-np.inf], level, [np.inf]]) for level in levels]
    chosen = [bound[place] for bound, place in zip(bounds, places, strict=True)]
    return Candidates(
        thresholds=np.stack([*chosen, np.full(len(places[0]), -np.inf)], axis=1),
        counts=-np.diff(going_on, axis=0, append=0).T,
        num_correct=num_correct[places],
    )


def shared_candidates(
    confidence: NDArray[np.float32], correct: NDArray[np.bool_], costs: NDArray[np.float64]
) -> Candidates:
    """One threshold for all exits but the last, swept over every confidence: those that no other of them beats.

    An image has left by exit k if its largest confidence up to there reaches the threshold.

    Args:
        confidence: (E, N), finite; E at least 2.
        correct: (E, N).
        costs: (E,), cumulative multiply-adds of leaving at each exit.
    """
    num_exits, num_images = confidence.shape
    surest = np.maximum.accumulate(confidence[:-1], axis=0)  # (E - 1, N)
    shared = np.unique(confidence[:-1])  # (M,)
    left = [np.zeros(len(shared), dtype=np.int64)]
    num_correct = np.zeros(len(shared), dtype=np.int64)
    for index in range(num_exits):
        is_right = correct[index]
        if index > 0:
            num_correct -= _count_from(surest[index - 1][is_right], shared)
        if index < num_exits - 1:
            left.append(_count_from(surest[index], shared))
            num_correct += _count_from(surest[index][is_right], shared)
        else:
            left.append(np.full_like(shared, num_images, dtype=np.int64))
            num_correct += np.count_nonzero(is_right)
    thresholds = np.repeat(shared.astype(np.float64)[:, None], num_exits, axis=1)
    thresholds[:, -1] = -np.inf
    counts = np.stack([left[index + 1] - left[index] for index in range(num_exits)], axis=1)
    return Candidates(thresholds, counts, num_correct).undominated(costs)


def lattice_gap(confidence: NDArray[np.float32], correct: NDArray[np.bool_]) -> float:
    """How much more accurate than the lattice any thresholds at all can be, at most, at any mean cost.

    Rounding thresholds down to levels lets some images leave earlier, so it costs nothing more. It loses only those
    that are wrong there, right at a later exit, and between two neighbouring levels; at each exit they are counted
    where they are most.

    Args:
        confidence: (E, N), finite.
        correct: (E, N).

    Returns:
        A difference of accuracies, from 0 to 1; 0 where every confidence is a level.
    """
    num_lost = 0
    for levels, row, is_lost in zip(lattice_levels(confidence, correct), confidence, _lost(correct), strict=False):
        cells = np.searchsorted(levels, row, side="right")
        top = np.full(len(levels) + 1, -np.inf)
        np.maximum.at(top, cells, row)  # a threshold between the levels is at most the largest confidence there
        num_lost += int(np.bincount(cells[is_lost & (row < top[cells])], minlength=1).max())
    return float(num_lost / confidence.shape[1])


def _lost(correct: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Images that are wrong at each exit but the last and right at some later one: (E, N) to (E - 1, N)."""
    is_right_on = np.logical_or.accumulate(correct[::-1], axis=0)[::-1]  # (E, N), here or later
    return ~correct[:-1] & is_right_on[1:]


def _going_on(cells: NDArray[np.int64], weights: NDArray[np.float64], sizes: Sequence[int]) -> NDArray[np.int64]:
    """The sum of weights over images that all these exits let go on, for all thresholds: (N,) to (L_1 + 2, ..)."""
    histogram = np.bincount(cells, weights, minlength=int(np.prod(sizes))).reshape(sizes)
    sums = np.zeros([size + 1 for size in sizes], dtype=np.int64)  # at -inf, the first, none goes on
    sums[tuple(slice(1, None) for _ in sizes)] = histogram  # whole numbers, which float64 holds exactly
    for axis in range(len(sizes)):
        np.cumsum(sums, axis=axis, out=sums)
    return sums


def _best_of_rows(macs: NDArray[np.float64], num_correct: NDArray[np.int64]) -> NDArray[np.int64]:
    """Flat positions that no other place of the lattice beats; along its last axis cost never falls."""
    is_best = np.ones(macs.shape, dtype=np.bool_)  # of its row; few are, which saves the sort below most of its work
    is_best[..., 1:] = num_correct[..., 1:] > np.maximum.accumulate(num_correct, axis=-1)[..., :-1]
    positions = np.flatnonzero(is_best)
    kept: NDArray[np.int64] = positions[_undominated(macs.ravel()[positions], num_correct.ravel()[positions])]
    return kept


def _undominated(macs: NDArray[np.float64], num_correct: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions of what no other beats, sorted by cost; of those alike the first."""
    order = np.lexsort((-num_correct, macs))
    sofar = np.maximum.accumulate(num_correct[order])
    is_better = np.diff(sofar, prepend=-1) > 0  # the first is always kept
    kept: NDArray[np.int64] = order[is_better]
    return kept


def _count_from(values: NDArray[np.float32], bounds: NDArray[np.float32]) -> NDArray[np.int64]:
    """How many values are at least each bound: (n,) and (M,) to (M,)."""
    return len(values) - np.searchsorted(np.sort(values), bounds, side="left").astype(np.int64)
