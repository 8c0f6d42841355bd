"""Random numbers that depend on nothing but the integers they are asked for with.

Raw Philox output and `SeedSequence` are the two streams that NumPy promises to keep over versions and platforms
(NEP 19), so everything here is built on them; what `Generator` methods return may change with NumPy.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

# First of the integers that a stream is keyed by, so that equal seeds do not give equal numbers for two purposes.
PURPOSE_ORDER = 1
PURPOSE_AUGMENT = 2
PURPOSE_HOLD_OUT = 3
PURPOSE_SPLIT = 4
PURPOSE_SCENE = 5
PURPOSE_DERIVED = 6
PURPOSE_PACK = 7
PURPOSE_BLOCKS = 8
PURPOSE_WINDOW = 9


def philox_key(*numbers: int) -> NDArray[np.uint64]:
    """The key of a Philox stream for some non-negative integers; streams of different integers are independent."""
    return np.random.SeedSequence(numbers).generate_state(2, np.uint64).astype(np.uint64, copy=False)


def random_bits(count: int, *numbers: int) -> NDArray[np.uint64]:
    """`count` random 64-bit integers, the same ones for the same `numbers`."""
    return np.random.Philox(key=philox_key(*numbers)).random_raw(count)


def random_order(count: int, *numbers: int) -> NDArray[np.int64]:
    """The integers below `count` in random order, the same one for the same `numbers`."""
    return np.argsort(random_bits(count, *numbers), kind="stable")


def derive_seed(*numbers: int) -> int:
    """A seed below 2**32 for some non-negative integers, such as seed, step and rank of a batch to mix."""
    return int(np.random.SeedSequence((PURPOSE_DERIVED, *numbers)).generate_state(1)[0])


def generator_of(*numbers: int) -> random.Random:
    """A generator for some non-negative integers below 2**64; an image's costs a few microseconds.

    Only its method `random` promises the same numbers over versions of Python; `below` makes integers of it.
    """
    key = 0
    for number in (PURPOSE_DERIVED, *numbers):
        key = key << 64 | number
    return random.Random(key)


def below(bound: int, generator: random.Random) -> int:
    """A random integer from 0 to `bound - 1`, for bounds far below 2**53."""
    return int(generator.random() * bound)


@contextmanager
def global_randomness_restored() -> Iterator[None]:
    """Put the global generators of Python, NumPy and torch back as they were.

    timm 1.0.31 draws augmentation and mixing from all three and takes no generator; this fence and
    `seed_global_randomness` are the only places that touch them, and can go when timm takes generators.
    """
    python_state = random.getstate()
    numpy_state = np.random.get_state()  # noqa: NPY002  see above
    torch_state = torch.default_generator.get_state()
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002  see above
        torch.default_generator.set_state(torch_state)


def seed_global_randomness(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch; `seed` is below 2**32.

    `torch.manual_seed` would also seed the GPUs, whose state the fence does not restore.
    """
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  see `global_randomness_restored`
    torch.default_generator.manual_seed(seed)
