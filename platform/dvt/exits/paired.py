"""How sure it is that one model is better than another: the paired bootstrap over the images that both were asked.

Images are drawn anew with replacement, after Efron, "Bootstrap Methods: Another Look at the Jackknife", 1979, and each
brings what both models made of it, so that what makes an image hard for both cancels out. Images with equal differences
cannot be told apart by a mean: how often each difference is drawn is multinomial, and drawing that, instead of images,
gives the same distribution of means at a cost that does not grow with the number of images.

Shapes: N images, G distinct differences, R resamples.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

NUM_RESAMPLES = 10_000
LEVEL = 0.95


@dataclass(frozen=True)
class PairedDifference:
    """A mean difference, first less second, and where it lies with the stated probability."""

    mean: float
    low: float  # lower end of the percentile interval; each end is passed equally often
    high: float  # upper end


def paired_difference(
    first: NDArray[Any],
    second: NDArray[Any],
    *,
    num_resamples: int = NUM_RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> PairedDifference:
    """The mean difference of two values that the same images have, with its bootstrap interval.

    The interval tells what other images like these would have given. It is of no width where no two images differ in
    their difference, however few they are: a handful of images proves nothing.

    Args:
        first: (N,) numbers or booleans, one an image.
        second: (N,) of the same images in the same order.
        num_resamples: Resamples to draw, at least 1,000.
        level: Probability that the interval holds the true difference, between 0 and 1.
        seed: Seed of the resamples; the same one gives the same interval.

    Raises:
        ValueError: If an argument is not as stated, or there are no images.
    """
    if first.ndim != 1 or first.shape != second.shape or len(first) == 0:
        raise ValueError(f"both must hold one number an image, got shapes {first.shape} and {second.shape}")
    if num_resamples < 1000:
        raise ValueError(f"num_resamples must be at least 1000, got {num_resamples}")
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level:g}")
    values, counts = np.unique(first.astype(np.float64) - second.astype(np.float64), return_counts=True)  # both (G,)
    num_images = len(first)
    drawn = np.random.default_rng(seed).multinomial(num_images, counts / num_images, size=num_resamples)  # (R, G)
    means = drawn @ values / num_images  # (R,)
    tail = (1 - level) / 2
    low, high = np.quantile(means, (tail, 1 - tail))
    return PairedDifference(mean=float(counts @ values / num_images), low=float(low), high=float(high))
