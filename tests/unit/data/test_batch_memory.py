"""Pieces of shared memory come back when the last view of a batch is gone, and not before."""

import gc
import multiprocessing

import torch

from dvt.data.batch_memory import BatchMemory, empty_batch


def test_a_batch_holds_the_channels_of_a_pixel_beside_each_other() -> None:
    batch = empty_batch(2, 3, 4)
    assert batch.shape == (2, 3, 4, 4)
    assert batch.dtype == torch.uint8
    assert batch.stride() == (48, 1, 12, 3)


def test_a_piece_is_lent_to_one_at_a_time() -> None:
    memory = BatchMemory(empty_batch(2, 3, 4), 2)
    assert {memory.reserve(), memory.reserve()} == {0, 1}
    assert memory.reserve() is None
    batch = memory.lend(1)
    assert batch.stride() == (48, 1, 12, 3)
    memory.piece(1).fill_(7)
    assert batch.eq(7).all()
    view = batch[0, 1]
    del batch
    gc.collect()
    assert memory.reserve() is None  # a view is left
    del view
    assert memory.reserve() == 1
    assert memory.reserve() is None


def _fill(memory: BatchMemory, number: int) -> None:
    memory.piece(number).fill_(number + 5)


def test_another_process_fills_what_this_one_takes() -> None:
    memory = BatchMemory(empty_batch(2, 1, 4), 2)
    for number in (0, 1):
        memory.piece(number).zero_()
    other = multiprocessing.get_context("fork").Process(target=_fill, args=(memory, 1))
    other.start()
    other.join()
    assert memory.lend(1).eq(6).all()
    assert memory.piece(0).eq(0).all()
