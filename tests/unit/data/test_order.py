"""Orders of training images: each a permutation, the same for all who ask, and the windowed one local."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dvt.config import CascadeConfig, ConfigError, DataConfig, StageConfig
from dvt.data import open_data
from dvt.data.order import EXACT, MAX_IMAGES, TrainOrder, choose_order, window_order
from dvt.data.randomness import PURPOSE_ORDER, random_order

SIZES = st.lists(st.integers(1, 12), min_size=1, max_size=12)  # images of each block


def blocks_of(sizes: list[int]) -> NDArray[np.int64]:
    return np.repeat(np.arange(len(sizes)), sizes)


def most_open(order: NDArray[np.int64], blocks: NDArray[np.int64]) -> int:
    """Most blocks that have been begun and not finished at a time."""
    places = [np.flatnonzero(blocks[order] == block) for block in np.unique(blocks)]
    return max(sum(bool(place[0] <= moment <= place[-1]) for place in places) for moment in range(len(order)))


@given(sizes=SIZES, window=st.integers(1, 200), seed=st.integers(0, 99), epoch=st.integers(0, 99))
def test_every_image_once_and_the_same_for_whoever_asks(sizes: list[int], window: int, seed: int, epoch: int) -> None:
    blocks = blocks_of(sizes)
    order = window_order(blocks, window, seed=seed, epoch=epoch)
    assert sorted(order.tolist()) == list(range(len(blocks)))
    assert np.array_equal(order, window_order(blocks.copy(), window, seed=seed, epoch=epoch))


@given(size=st.integers(1, 9), count=st.integers(1, 20), window=st.integers(1, 40), seed=st.integers(0, 99))
def test_few_blocks_are_open_at_a_time(size: int, count: int, window: int, seed: int) -> None:
    """Those that `window` images of the stream, and the one that is due, can touch: with blocks of `size` images."""
    blocks = blocks_of([size] * count)
    order = window_order(blocks, window, seed=seed, epoch=0)
    assert most_open(order, blocks) <= (window + size - 1) // size + 1


@given(sizes=SIZES, window=st.integers(1, 30), seed=st.integers(0, 99))
def test_an_image_moves_less_than_the_window(sizes: list[int], window: int, seed: int) -> None:
    """Against the same stream unmixed, which a window of one image gives."""
    blocks = blocks_of(sizes)
    stream = window_order(blocks, 1, seed=seed, epoch=0)
    place = np.empty(len(blocks), dtype=np.int64)
    place[stream] = np.arange(len(blocks))
    moved = place[window_order(blocks, window, seed=seed, epoch=0)] - np.arange(len(blocks))
    assert np.abs(moved).max() < window


@given(sizes=SIZES, seed=st.integers(0, 99))
def test_a_window_of_one_reads_block_after_block(sizes: list[int], seed: int) -> None:
    blocks = blocks_of(sizes)
    assert most_open(window_order(blocks, 1, seed=seed, epoch=0), blocks) == 1


def test_blocks_need_not_stand_together_nor_be_numbered_without_gaps() -> None:
    blocks = np.array([7, 3, 7, 3, 900, 7])
    order = blocks[window_order(blocks, 1, seed=0, epoch=0)].tolist()
    assert [order.count(block) for block in (3, 7, 900)] == [2, 3, 1]
    assert sum(one != other for one, other in pairwise(order)) == 2


@given(sizes=SIZES, window=st.integers(1, 60), run=st.integers(1, 15), seed=st.integers(0, 99))
def test_images_of_a_run_stay_together(sizes: list[int], window: int, run: int, seed: int) -> None:
    """A block of n images comes in at most n / run + 1 stretches, rounded up, each as its images lie there."""
    blocks = blocks_of(sizes)
    order = window_order(blocks, window, run, seed=seed, epoch=0)
    assert sorted(order.tolist()) == list(range(len(blocks)))
    for block, size in enumerate(sizes):
        places = np.flatnonzero(blocks[order] == block)
        follows = [after == before + 1 and order[after] == order[before] + 1 for before, after in pairwise(places)]
        assert follows.count(False) + 1 <= -(-size // run) + 1


def test_runs_are_other_ones_in_each_epoch_and_few_blocks_stay_open() -> None:
    blocks = blocks_of([64] * 20)
    pairs = []
    for epoch in range(4):
        order = window_order(blocks, 128, 8, seed=0, epoch=epoch)
        assert most_open(order, blocks) <= 128 // 64 + 2
        pairs.append({(one, other) for one, other in pairwise(order.tolist()) if other == one + 1})
    kept = [len(pairs[0] & other) / len(pairs[0]) for other in pairs[1:]]
    assert all(0.6 < share < 0.95 for share in kept)  # 7 of 8 neighbours stay together, which 7 changes


def test_seed_and_epoch_order_blocks_and_images_anew() -> None:
    blocks = blocks_of([10] * 10)
    orders = [window_order(blocks, 1, seed=seed, epoch=epoch) for seed in range(3) for epoch in range(3)]
    assert len({tuple(order.tolist()) for order in orders}) == 9
    assert len({tuple(blocks[order][::10].tolist()) for order in orders}) == 9  # which block comes when
    first = [order[blocks[order] == 4].tolist() for order in orders]  # how the images of one come
    assert len(set(map(tuple, first))) == 9


def test_the_order_of_a_run_that_goes_on_is_the_one_it_had() -> None:
    # Written down when it was made: another order breaks every resumed run.
    assert window_order(blocks_of([4, 4, 4]), 6, seed=0, epoch=0).tolist() == GOLDEN
    assert window_order(np.array([2, 0, 2, 1, 0, 2, 1, 0]), 3, seed=0, epoch=0).tolist() == [3, 6, 1, 4, 0, 7, 2, 5]
    assert window_order(blocks_of([6, 6]), 4, 3, seed=0, epoch=0).tolist() == [6, 7, 8, 9, 10, 11, 2, 3, 4, 0, 1, 5]


GOLDEN = [5, 4, 1, 7, 6, 3, 2, 0, 11, 10, 9, 8]


def test_how_well_a_window_mixes() -> None:
    """Of blocks of 100 images and batches of 256: a batch holds images of nearly as many blocks as can be open."""
    blocks = blocks_of([100] * 400)
    counts = {}
    for window in (1, 1000, 4000, 40_000):
        order = TrainOrder(blocks, window).indices(len(blocks), seed=0, epoch=0)
        batches = blocks[order][: len(order) // 256 * 256].reshape(-1, 256)
        counts[window] = np.mean([len(np.unique(batch)) for batch in batches])
    exact = blocks[EXACT.indices(len(blocks), seed=0, epoch=0)][: 156 * 256].reshape(-1, 256)
    among_all = np.mean([len(np.unique(batch)) for batch in exact])
    assert 3 < counts[1] < 4  # 256 images of blocks of 100
    assert 11 < counts[1000] <= 15  # of the 11 that the window touches, and 2.56 more as it slides
    assert 35 < counts[4000] <= 45
    assert among_all == pytest.approx(400 * (1 - (1 - 1 / 400) ** 256), rel=0.02)  # 189.2, drawn with replacement
    assert counts[4000] < counts[40_000] < among_all


def test_the_exact_order_is_the_one_that_runs_had_before() -> None:
    assert np.array_equal(EXACT.indices(50, seed=3, epoch=2), random_order(50, PURPOSE_ORDER, 3, 2))


BLOCKS = blocks_of([2, 2])


@pytest.mark.parametrize(
    ("shuffle", "blocks", "is_exact"),
    [("auto", None, True), ("auto", BLOCKS, False), ("exact", BLOCKS, True), ("window", BLOCKS, False)],
)
def test_what_a_recipe_asks_for(shuffle: str, blocks: NDArray[np.int64] | None, is_exact: bool) -> None:
    config = DataConfig(root="x", shuffle=shuffle, shuffle_window=3)  # type: ignore[arg-type]
    order = choose_order(config, blocks)
    if is_exact:
        assert order is EXACT
    else:
        assert order.blocks is BLOCKS
        assert order.window == 3


def test_a_window_over_images_without_shards_is_refused() -> None:
    config = DataConfig(source="embedded", shuffle="window")
    cascade = CascadeConfig(image_size=24, in_chans=1, num_classes=10, stages=(StageConfig(token_grid=3),))
    with pytest.raises(ConfigError) as caught:
        open_data(config, cascade)
    assert str(caught.value) == (
        "data.shuffle must be auto or exact for this source embedded, where any order is as cheap, got window"
    )


def test_blocks_of_other_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^blocks must be of all 5 images, got 4$"):
        TrainOrder(BLOCKS, 2).indices(5, seed=0, epoch=0)


def test_more_images_than_the_keys_are_good_for_are_refused() -> None:
    many = np.broadcast_to(np.int64(0), (MAX_IMAGES,))  # takes no memory
    with pytest.raises(ValueError, match=rf"^an order must be of less than {MAX_IMAGES} images, got {MAX_IMAGES}$"):
        window_order(many, 2, seed=0, epoch=0)
