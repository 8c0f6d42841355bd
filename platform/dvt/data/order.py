"""The order in which an epoch's training images are read: a pure function of the images, seed and epoch.

`exact` is a random permutation of all images: any may follow any other. `window` suits sources whose images lie in
blocks that are cheap to read together (shards, row groups): blocks come in random order, the images of each in random
order, and on that stream each image is put off by a random distance below the window. At any time only the blocks that
a stretch of as many images of the stream touches have been begun and not finished. Runs of images that follow one
another in their block may stay together, so that they are read at once; which ones these are changes with each epoch.

Every rank computes the whole order by itself and takes its share of it, so nothing has to be told from one to another.
Only Philox bits, integer arithmetic and stable sorts take part: the order is the same on every platform.

Shapes: `N` images of a training set, `K` its blocks.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dvt.config import ConfigError, DataConfig, Problem
from dvt.data.randomness import PURPOSE_BLOCKS, PURPOSE_ORDER, PURPOSE_WINDOW, random_bits, random_order

_FRACTION_BITS = 32  # of a distance in the stream, so that equal places after the shift are rare
MAX_IMAGES = 2**31  # more would not leave room for the fraction in 64 bits


@dataclass(frozen=True, eq=False)
class TrainOrder:
    """How training images are ordered; picklable.

    Attributes:
        blocks: (N,) the block of each image; None orders exactly, as if there were no blocks.
        window: Images that are mixed with one another at a time, at least 1.
        run: Images of a block that stay together, at least 1.
    """

    blocks: NDArray[np.int64] | None = None
    window: int = 1
    run: int = 1

    def indices(self, num_images: int, *, seed: int, epoch: int) -> NDArray[np.int64]:
        """(N,) every image of the training set once, in this epoch's order."""
        if self.blocks is None:
            return random_order(num_images, PURPOSE_ORDER, seed, epoch)
        if len(self.blocks) != num_images:
            raise ValueError(f"blocks must be of all {num_images} images, got {len(self.blocks)}")
        return window_order(self.blocks, self.window, self.run, seed=seed, epoch=epoch)


EXACT = TrainOrder()


def choose_order(config: DataConfig, blocks: NDArray[np.int64] | None) -> TrainOrder:
    """The order that a recipe asks for: `auto` is `window` where there are blocks, else `exact`.

    Args:
        config: Its `shuffle`, `shuffle_window` and `shuffle_run`.
        blocks: (N,) the block of each training image; None where any order is equally cheap.

    Raises:
        ConfigError: If `window` is asked of a source without blocks.
    """
    if config.shuffle == "window" and blocks is None:
        rule = f"must be auto or exact for this source {config.source}, where any order is as cheap, got window"
        raise ConfigError([Problem("data.shuffle", rule)])
    if config.shuffle == "exact" or blocks is None:
        return EXACT
    return TrainOrder(blocks, config.shuffle_window, config.shuffle_run)


def window_order(blocks: NDArray[np.int64], window: int, run: int = 1, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """Every image once: blocks in random order, images mixed within a sliding window.

    The image at place p of the stream of shuffled blocks gets the key p + u, with u random in [0, window), and keys are
    sorted. When a key t is due, all images before place t - window are done and none after t is begun. Images of a run
    have the key of the first one.

    Args:
        blocks: (N,) the block of each image, any integers from 0; images of a block need not stand together.
        window: At least 1, which keeps each block to itself; from N on it hardly differs from an exact order.
        run: Images of a block that stay together, as they follow one another; at least 1. A block's first run may be
            shorter, by as many images as the epoch decides, and so may its last.
        seed: Seed of the run.
        epoch: From 0.

    Raises:
        ValueError: If there are more images than 64-bit keys are good for.
    """
    count = len(blocks)
    if count >= MAX_IMAGES:
        raise ValueError(f"an order must be of less than {MAX_IMAGES} images, got {count}")
    names, block = np.unique(blocks, return_inverse=True)  # (K,), (N,)
    turns = np.empty(len(names), dtype=np.int64)  # of each block, when it is its turn
    turns[random_order(len(names), PURPOSE_BLOCKS, seed, epoch)] = np.arange(len(names))
    first = _first_of_run(block, turns, run)  # (N,)
    within = random_bits(count, PURPOSE_ORDER, seed, epoch)[first]
    stream = np.lexsort((first, within, turns[block]))  # (N,) block after block, each in random order
    is_first = np.diff(first[stream], prepend=-1) != 0
    place = np.maximum.accumulate(np.where(is_first, np.arange(count), 0))  # (N,) of the first of each one's run
    reach = np.uint64(min(window, count))
    shift = (random_bits(count, PURPOSE_WINDOW, seed, epoch)[place] >> np.uint64(_FRACTION_BITS)) * reach
    keys = (place.astype(np.uint64) << np.uint64(_FRACTION_BITS)) + shift
    order: NDArray[np.int64] = stream[np.argsort(keys, kind="stable")]
    return order


def _first_of_run(block: NDArray[np.int64], turns: NDArray[np.int64], run: int) -> NDArray[np.int64]:
    """(N,) for each image the first one of its run; where a block's runs are cut follows from its turn.

    Args:
        block: (N,) the number of each image's block.
        turns: (K,) when it is each block's turn, another one in each epoch.
        run: Images of a run.
    """
    stored = np.argsort(block, kind="stable")  # (N,) block after block, as images lie there
    starts = np.searchsorted(block[stored], np.arange(len(turns)))  # (K,)
    within = np.arange(len(block)) - starts[block[stored]] + turns[block[stored]] % run  # (N,) of a block
    is_first = (within % run == 0) | (np.diff(block[stored], prepend=-1) != 0)
    first = np.empty_like(stored)
    first[stored] = stored[np.maximum.accumulate(np.where(is_first, np.arange(len(block)), 0))]
    return first
