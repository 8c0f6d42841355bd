"""An epoch that so many processes begin and so many others go on with: `python -m tests.resume.elastic_workers FOLDER`.

One interpreter imports what training needs and forks every worker from itself. Workers of one try are joined by gloo;
those of the first kill themselves within the epoch. Each notes the images that it reads in the first epoch.
"""

import multiprocessing
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed

from dvt.data.order import EXACT, TrainOrder
from dvt.train.loop import Worker, train_cascade
from tests.resume.runs import RECIPE, FailingReporter, kill
from tests.unit.train.tiny import CPU, MemoryImages, change, make_data

NUM_IMAGES, AT_STEP, FIRST = 48, 3, 2  # three steps of two workers read 24 images, four at a time each
ORDERS = {"exact": EXACT, "window": TrainOrder(np.arange(NUM_IMAGES) // 7, window=10)}
TRIES = [("exact", 3), ("window", 1)]  # the order, and how many workers go on
OFTEN = change(
    RECIPE,
    train={"checkpoint_every_steps": AT_STEP, "log_every_steps": 100, "grad_accum_steps": 1},
    optimizer={"epochs": 1},
)


@dataclass(frozen=True, kw_only=True)
class NotedImages(MemoryImages):
    """Writes down which images were read in the first epoch, at once, as its process may be killed."""

    notes: Path

    def read(self, indices: Any, *, epoch: int = 0, seed: int = 0) -> Any:
        if epoch == 0:
            with self.notes.open("a") as file:
                file.writelines(f"{index}\n" for index in indices)
        return super().read(indices, epoch=epoch, seed=seed)


@dataclass
class TakingUp(FailingReporter):
    """Goes on from the checkpoint that the first worker of an earlier try kept."""

    start: Path | None = None

    @contextmanager
    def latest(self) -> Iterator[Path | None]:
        yield self.start


def work(folder: Path, order: str, rank: int, world_size: int, start: Path | None) -> None:
    """Train as one worker of a try; of the first try until the step where it is killed."""
    torch.set_num_threads(1)
    folder.mkdir(exist_ok=True)
    if world_size > 1:
        meeting = f"file://{folder}/meet"
        limit = timedelta(seconds=60)
        distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world_size, timeout=limit)
    data = make_data(num_train=NUM_IMAGES)
    assert isinstance(data.train, MemoryImages)
    noted = NotedImages(data.train.images, data.train.labels, notes=folder / f"read_{rank}.txt")
    reporter = TakingUp(folder / f"run_{rank}", start=start)
    if start is None:
        reporter.at_step, reporter.is_kept, reporter.end = AT_STEP, True, kill
    data = replace(data, train=noted, train_order=ORDERS[order])
    train_cascade(OFTEN, data, Worker(CPU, rank, world_size), reporter)


def run(folder: Path, order: str, world_size: int, start: Path | None = None) -> list[int | None]:
    """A try; the exit codes of its workers."""
    context = multiprocessing.get_context("fork")
    workers = [
        context.Process(target=work, args=(folder, order, rank, world_size, start)) for rank in range(world_size)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        worker.kill()  # where it hangs; it is told by its exit code
        worker.join()
    return [worker.exitcode for worker in workers]


def main(folder: Path) -> None:
    """All tries; their exit codes are kept beside their notes."""
    for order, world_size in TRIES:
        first, second = folder / f"{order}_first", folder / f"{order}_second"
        codes = [run(first, order, FIRST)]
        codes.append(run(second, order, world_size, first / "run_0" / f"checkpoint_{AT_STEP:06d}"))
        (folder / f"{order}.txt").write_text(repr(codes))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
