"""Batches of images, for training in an order that can be taken up at any batch, and for evaluation in shards.

Which images a training batch holds, and how each is augmented, follows from seed, epoch, batch and rank alone: not
from what was read before, and not from how many processes read. A position within an epoch counts images of the epoch's
order, so what is left of it can be shared out among any number of ranks.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from dvt.config import ConfigError, Problem
from dvt.data.batch_memory import BatchMemory
from dvt.data.errors import DataError
from dvt.data.sets import Batch, DataSets, FillsMemory, ImageSet, Skipped

BATCHES_AHEAD = 2  # of each reading process, on their way or waiting
BATCHES_IN_USE = 2  # in the training process: the next one is taken before the one in use is let go

logger = logging.getLogger(__name__)


def warn_of_too_many_readers(num_workers: int, num_ranks: int) -> None:
    """Log a warning if more processes read images on this node than it has cores; each computes in one thread.

    Args:
        num_workers: Processes that read images, of one training worker.
        num_ranks: Training workers on this node.
    """
    cores = len(os.sched_getaffinity(0))
    if num_workers * num_ranks > cores:
        logger.warning(
            "data.loader_workers should be at most %d for %d training workers on a node of %d cores, got %d; "
            "more processes than cores read more slowly",
            cores // num_ranks,
            num_ranks,
            cores,
            num_workers,
        )


def batches_per_epoch(num_images: int, *, world_size: int, batch_size: int) -> int:
    """Number of batches that every rank gets in an epoch; what does not fill a batch on each rank is left out.

    Args:
        num_images: Images of the training set.
        world_size: Number of training workers.
        batch_size: Images a batch of one worker.

    Raises:
        ConfigError: If there are not enough images for one batch on each rank.
    """
    most = num_images // world_size
    if most < 1:
        rule = f"must be at most {num_images}, the number of training images, got {world_size}"
        raise ConfigError([Problem("cluster.num_workers", rule)])
    if batch_size > most:
        rule = f"must be at most {most} for {num_images} training images on {world_size} workers, got {batch_size}"
        raise ConfigError([Problem("train.micro_batch_size", rule)])
    return most // batch_size


def train_batches(
    data: DataSets,
    *,
    epoch: int,
    seen_images: int = 0,
    rank: int,
    world_size: int,
    batch_size: int,
    seed: int,
    num_workers: int,
) -> Iterator[Batch]:
    """The batches of one rank in what is left of one epoch; images in a new random order each epoch.

    What is left is cut into global batches, one after the other, and each into a batch for each rank; the images at the
    end that do not fill a global batch are left out.

    Args:
        data: Its training set is read, by its engine.
        epoch: From 0; decides order and augmentation together with `seed`.
        seen_images: Images of the epoch's order that all ranks together have used before; to resume, also on another
            number of workers or with batches of another size.
        rank: This worker, from 0 to `world_size - 1`; ranks get disjoint images, equally many.
        world_size: Number of training workers.
        batch_size: Images a batch of one worker.
        seed: Seed of the run.
        num_workers: Processes that read images, or Ray tasks for engine ray; 0 reads in this one. The images do not
            depend on it.

    Raises:
        ConfigError: If there are not enough images for one batch on each rank.
        DataError: While iterating, if no image can be found in place of unreadable ones.
    """
    batches_per_epoch(len(data.train), world_size=world_size, batch_size=batch_size)  # complains of too few images
    plan = train_indices(
        data, epoch=epoch, seen_images=seen_images, world_size=world_size, batch_size=batch_size, seed=seed
    )
    reader, requests = _Reader(data.train, epoch, seed), _Requests(plan[:, rank].copy())
    if data.engine == "ray":
        from dvt.data.ray_data import read_on_cluster  # here, as no other way of reading needs Ray

        return read_on_cluster(reader, requests, num_workers)
    return _read_all(reader, requests, num_workers)


def train_indices(
    data: DataSets, *, epoch: int, seen_images: int, world_size: int, batch_size: int, seed: int
) -> NDArray[np.int64]:
    """(batches, workers, images a batch): what each batch of `train_batches` holds, by the same arguments."""
    left = data.train_order.indices(len(data.train), seed=seed, epoch=epoch)[seen_images:]
    count = len(left) // (world_size * batch_size)
    return left[: count * world_size * batch_size].reshape(count, world_size, batch_size)


def eval_batches(
    dataset: ImageSet, *, shard: int, num_shards: int, batch_size: int, num_workers: int
) -> Iterator[Batch]:
    """One contiguous shard of a calibration or test set, in order; together the shards hold every image once.

    Args:
        dataset: The set to read.
        shard: This shard, from 0 to `num_shards - 1`.
        num_shards: Number of shards; their sizes differ by one image at most.
        batch_size: Images a batch; the last one of a shard may hold fewer.
        num_workers: Processes that read images; 0 reads in this one.

    Raises:
        DataError: While iterating, if an image cannot be read.
    """
    start, stop = (len(dataset) * edge // num_shards for edge in (shard, shard + 1))
    requests = [list(range(first, min(first + batch_size, stop))) for first in range(start, stop, batch_size)]
    return _read_all(_Reader(dataset, epoch=0, seed=0), requests, num_workers)


class _Reader(Dataset[Batch | DataError]):
    """Reads the batch of a list of indices, in whichever process it finds itself."""

    def __init__(self, images: ImageSet, epoch: int, seed: int) -> None:
        self.images = images
        self.epoch = epoch
        self.seed = seed

    def __getitem__(self, indices: Sequence[int]) -> Batch | DataError:
        return self.read(indices)

    def read(self, indices: Sequence[int], **out: torch.Tensor) -> Batch | DataError:
        """The batch, or what is wrong; of `FillsMemory`, in the memory `out` if that is given."""
        try:
            return self.images.read(indices, epoch=self.epoch, seed=self.seed, **out)
        except DataError as error:
            return error  # raised in a reading process it would arrive wrapped in a traceback, no longer one sentence


class _Requests(Sequence[list[int]]):
    """The indices of each batch, kept as one array: a million Python integers would be copied into every process."""

    def __init__(self, plan: NDArray[np.int64]) -> None:
        self._plan = plan  # (batches, images a batch)

    def __len__(self) -> int:
        return len(self._plan)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return _Requests(self._plan[index])
        return self._plan[index].tolist()


class _Filled(NamedTuple):
    """What a reading process tells of a batch that lies in shared memory."""

    piece: int
    labels: NDArray[np.int64]  # not a tensor, for which torch would make shared memory too
    skipped: tuple[Skipped, ...]


Request = tuple[int | None, Sequence[int]]  # the piece of memory to be filled, and indices


class _Filler(Dataset[_Filled | Batch | DataError]):
    """Reads batches in other processes, into memory that is shared with them where the images can be put there."""

    def __init__(self, reader: _Reader, requests: Sequence[Sequence[int]], num_workers: int) -> None:
        self._reader, self._requests, self._memory = reader, requests, None
        images = reader.images
        like = images.empty(len(requests[0])) if isinstance(images, FillsMemory) else None
        if like is not None:
            self._memory = BatchMemory(like, BATCHES_AHEAD * num_workers + BATCHES_IN_USE)

    def requests(self) -> Iterator[Request]:
        """Each with a piece of memory that is free when its turn comes; none if all are held on to."""
        for indices in self._requests:
            yield None if self._memory is None else self._memory.reserve(), indices

    def __getitem__(self, request: Request) -> _Filled | Batch | DataError:
        piece, indices = request
        if piece is None or self._memory is None:
            return self._reader[indices]
        batch = self._reader.read(indices, out=self._memory.piece(piece))
        return batch if isinstance(batch, DataError) else _Filled(piece, batch.labels.numpy(), batch.skipped)

    def taken(self, filled: _Filled | Batch | DataError) -> Batch | DataError:
        """The batch itself, in the process that it was read for."""
        if not isinstance(filled, _Filled):
            return filled
        assert self._memory is not None
        return Batch(self._memory.lend(filled.piece), torch.from_numpy(filled.labels), filled.skipped)


def _read_all(reader: _Reader, requests: Sequence[Sequence[int]], num_workers: int) -> Iterator[Batch]:
    batches = map(reader.__getitem__, requests)
    if num_workers > 0 and requests:
        filler = _Filler(reader, requests, num_workers)
        batches = map(
            filler.taken,
            DataLoader(
                filler,
                sampler=filler.requests(),
                batch_size=None,  # an entry of the sampler is a batch already
                collate_fn=_as_it_is,
                num_workers=num_workers,
                prefetch_factor=BATCHES_AHEAD,
                generator=torch.Generator(),  # else it draws a seed from the global generator, which dropout also uses
            ),
        )
    for batch in batches:
        if isinstance(batch, DataError):
            raise batch
        yield batch


def _as_it_is(batch: Any) -> Any:
    return batch
