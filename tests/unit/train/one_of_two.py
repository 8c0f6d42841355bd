"""One of two workers that train together, as a process: `python -m tests.unit.train.one_of_two RANK FOLDER`."""

import json
import sys
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed

from dvt.data import DataError
from dvt.train.loop import train_cascade
from dvt.train.worker import Worker
from tests.unit.train.tiny import CPU, RECIPE, MemoryReporter, change, make_data

# Together as many images a step as one worker has with a micro-batch of eight.
# The first epoch is of the backbone, the second joint.
TWO = change(RECIPE, train={"grad_accum_steps": 2, "log_every_steps": 1, "backbone_epochs": 1}, optimizer={"epochs": 2})
ONE = change(TWO, train={"micro_batch_size": 8})
SLOW_RANK, SLOW_S = 1, 0.1


def train(rank: int, folder: Path) -> None:
    """Train as one of the two, also where one is slow and where images are unreadable; `folder` keeps what is told."""
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    try:
        worker, reporter = Worker(CPU, rank, 2), MemoryReporter(folder / f"runs_{rank}")
        train_cascade(TWO, make_data(num_train=48), worker, reporter)
        told = ""
        unreadable = make_data(num_train=48, skipped={index: f"{index:02d}.jpg" for index in range(48)})
        try:
            train_cascade(TWO, unreadable, worker, MemoryReporter(folder / "none"))
        except DataError as error:
            told = str(error)
        slowed = MemoryReporter(folder / f"slowed_{rank}")
        slow = make_data(num_train=48, takes_s=SLOW_S if rank == SLOW_RANK else 0)
        train_cascade(TWO, slow, worker, slowed)
        rows, paces = (
            [[row.step, row.has_checkpoint, row.metrics] for row in each.rows] for each in (reporter, slowed)
        )
        (folder / f"rows_{rank}.json").write_text(json.dumps({"rows": rows, "told": told, "paces": paces}))
    finally:
        distributed.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(int(sys.argv[1]), Path(sys.argv[2]))
