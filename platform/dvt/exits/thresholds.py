"""Threshold vectors: which exit an image leaves at, and which thresholds send given shares of images to each exit.

An image leaves at the first exit whose confidence reaches that exit's threshold. The last threshold is minus infinity,
so that the last exit takes what is left; plus infinity closes an exit, minus infinity lets all leave. The published
family of candidates fixes the shares of images that leave at each exit (`method.md`, "Budgeted inference of the
paper"). Exit indices in arrays start at 0.

Every finite threshold made here is the confidence of an image, a float32 number exactly, so that comparing in float32
and in float64 gives the same exits.

Shapes: E exits, N images.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dvt.exits.scores import check_confidence

Thresholds = tuple[float, ...]  # (E,); the last is -inf

PUBLISHED_RATIOS = tuple(p / 20 for p in range(1, 60))  # q of the published code: 0.05 to 2.95


def exit_indices(confidence: NDArray[np.floating[Any]], thresholds: Sequence[float]) -> NDArray[np.int64]:
    """The exit that each image leaves at: the first whose confidence is at least its threshold.

    Args:
        confidence: (E, N), finite.
        thresholds: (E,), the last -inf.

    Returns:
        Indices from 0 to E - 1, (N,).

    Raises:
        ValueError: If shapes do not fit, a confidence is not finite, a threshold is NaN or the last is not -inf.
    """
    check_confidence(confidence)
    bounds = _checked_thresholds(thresholds, num_exits=confidence.shape[0])
    leaves = confidence >= bounds[:, None]  # (E, N), compared in float64
    first: NDArray[np.int64] = leaves.argmax(axis=0)  # the first True; the last row is True everywhere
    return first


def thresholds_for_shares(confidence: NDArray[np.floating[Any]], shares: Sequence[float]) -> Thresholds:
    """Thresholds with which given shares of all images leave at each exit.

    Each exit takes the most confident of those images that reached it. The numbers of images that have left by each
    exit are the cumulative shares of N, rounded, so each exit's own number is off by less than one image. Images of
    equal confidence cannot be told apart and leave together: then more leave than asked, never fewer, and later exits
    take that many fewer, so that the mean cost is at most the one asked for.

    Args:
        confidence: (E, N), finite.
        shares: (E,), from 0 to 1, summing to 1.

    Returns:
        (E,): the confidence of the least confident image that leaves there, +inf where none leaves, -inf where all
        that are left leave; the last is -inf.

    Raises:
        ValueError: If shapes do not fit, a confidence is not finite, or shares are negative or do not sum to 1.
    """
    check_confidence(confidence)
    num_exits, num_images = confidence.shape
    targets = np.rint(np.cumsum(_checked_shares(shares, num_exits)) * num_images).astype(np.int64)  # left by each exit
    remaining = np.arange(num_images)
    thresholds = []
    for row, target in zip(confidence[:-1], targets[:-1], strict=True):
        here = row[remaining]
        threshold = _least_of_top(here, count=int(target) - (num_images - len(here)))
        thresholds.append(threshold)
        remaining = remaining[here < threshold]
    return (*thresholds, -math.inf)


def geometric_shares(num_exits: int, ratio: float) -> tuple[float, ...]:
    """Shares q, q^2, .. q^E, normalised: small ratios send most images to the first exit, large ones to the last.

    Args:
        num_exits: E, at least 1.
        ratio: q, above 0.
    """
    powers = ratio ** np.arange(1, num_exits + 1)
    return tuple(float(share) for share in powers / powers.sum())


def single_exit_thresholds(num_exits: int, index: int) -> Thresholds:
    """Thresholds with which every image leaves at exit `index`, counted from 0."""
    thresholds = [math.inf] * (num_exits - 1) + [-math.inf]
    thresholds[index] = -math.inf
    return tuple(thresholds)


def thresholds_as_json(thresholds: Sequence[float]) -> list[float | str]:
    """Thresholds in JSON's own types: infinite ones, which it has no number for, are texts, inf and -inf."""
    return [t if math.isfinite(t) else str(t) for t in thresholds]


def candidate_thresholds(
    confidence: NDArray[np.floating[Any]], ratios: Sequence[float] = PUBLISHED_RATIOS
) -> tuple[Thresholds, ...]:
    """The published family: thresholds for geometric shares, one vector for each ratio q = p/20, p = 1..59.

    Args:
        confidence: (E, N), finite, of the calibration set.
        ratios: The ratios q.

    Returns:
        Vectors of (E,) in the order of the ratios, each of them once.

    Raises:
        ValueError: If the confidences are not as stated.
    """
    num_exits = confidence.shape[0]
    family = (thresholds_for_shares(confidence, geometric_shares(num_exits, ratio)) for ratio in ratios)
    return tuple(dict.fromkeys(family))


def _least_of_top(confidence: NDArray[np.floating[Any]], count: int) -> float:
    """The threshold that exactly the `count` most confident reach, but for ties: (n,) to one number."""
    if count <= 0 or len(confidence) == 0:
        return math.inf
    if count >= len(confidence):
        return -math.inf  # also on other images, all that reach this exit leave here
    position = len(confidence) - count
    return float(np.partition(confidence, position)[position])


def _checked_thresholds(thresholds: Sequence[float], num_exits: int) -> NDArray[np.float64]:
    bounds = np.asarray(thresholds, dtype=np.float64)
    if bounds.shape != (num_exits,):
        raise ValueError(f"thresholds must hold one number for each of {num_exits} exits, got shape {bounds.shape}")
    if np.isnan(bounds).any():
        raise ValueError(f"thresholds must be numbers or infinite, got {', '.join(map(str, bounds))}")
    if bounds[-1] != -np.inf:
        raise ValueError(f"thresholds must end with -inf, because the last exit takes what is left, got {bounds[-1]}")
    return bounds


def _checked_shares(shares: Sequence[float], num_exits: int) -> NDArray[np.float64]:
    array = np.asarray(shares, dtype=np.float64)
    told = ", ".join(f"{share:g}" for share in array.ravel())
    if array.shape != (num_exits,):
        raise ValueError(f"shares must hold one number for each of {num_exits} exits, got {told or 'none'}")
    if not ((array >= 0).all() and math.isclose(array.sum(), 1, abs_tol=1e-6)):
        raise ValueError(f"shares must be at least 0 and sum to 1, got {told}")
    return array
