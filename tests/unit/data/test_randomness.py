import random

import numpy as np
import pytest
import torch

from dvt.data.randomness import (
    derive_seed,
    global_randomness_restored,
    random_bits,
    random_order,
    seed_global_randomness,
)


def test_streams_are_the_published_ones() -> None:
    # Kept by NumPy over versions (NEP 19): a change here changes every data set and breaks every resumed run.
    assert random_bits(2, 1, 2).tolist() == [5527141919257688469, 1364028082176693913]
    assert random_order(8, 1, 0, 0).tolist() == [2, 0, 1, 4, 5, 6, 7, 3]
    assert derive_seed(1, 2, 3) == 770432302


def test_order_holds_every_index_once() -> None:
    assert sorted(random_order(1000, 3).tolist()) == list(range(1000))


def test_seeds_differ_by_every_number() -> None:
    seeds = {derive_seed(a, b, c) for a in range(5) for b in range(5) for c in range(5)}
    assert len(seeds) == 125


def test_negative_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="non-negative"):
        derive_seed(-1)


def _draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002  the global one is meant


def test_fence_restores_all_three_generators() -> None:
    seed_global_randomness(5)
    expected = _draw()
    seed_global_randomness(5)
    with global_randomness_restored():
        seed_global_randomness(6)
        assert _draw() != expected
    assert _draw() == expected


def test_fence_restores_after_an_error() -> None:
    seed_global_randomness(5)
    expected = _draw()
    seed_global_randomness(5)
    with pytest.raises(ZeroDivisionError), global_randomness_restored():
        _ = _draw()[0] / 0
    assert _draw() == expected
