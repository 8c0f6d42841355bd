"""This process among the training workers, and what they tell one another.

Every function here is called by all workers at the same step, and returns the same on each.
"""

import time
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor, distributed

from dvt.data import Skipped
from dvt.train.notice import NO_NOTICE, Notice

T = TypeVar("T")


@dataclass(frozen=True)
class Worker:
    """This process among the training workers."""

    device: torch.device
    rank: int = 0
    world_size: int = 1
    node_rank: int = 0  # of its node among the nodes
    local_rank: int = 0  # among the workers of its node; the first reports how busy the node is
    begun_s: float = field(default_factory=time.perf_counter)
    notice: Notice = NO_NOTICE  # asked after each step whether a checkpoint is wanted, or the end


def add_up(values: Tensor, worker: Worker) -> Tensor:
    """The sum over all workers."""
    if worker.world_size > 1:
        distributed.all_reduce(values)
    return values


def gather(part: T, worker: Worker) -> list[T]:
    """What each worker has, by rank."""
    gathered = [part] * worker.world_size
    if worker.world_size > 1:
        distributed.all_gather_object(gathered, part)
    return gathered


def gather_skipped(skipped: Collection[Skipped], worker: Worker) -> set[Skipped]:
    """What any worker skipped."""
    return {image for part in gather(list(skipped), worker) for image in part}
