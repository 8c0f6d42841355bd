"""One of two workers that train shared weights: `python -m tests.unit.search.supernet_of_two RANK FOLDER`."""

import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import torch
from fsspec.implementations.local import LocalFileSystem
from torch import distributed

from dvt.search.settings import SupernetConfig
from dvt.search.supernet import train_supernet
from dvt.train.folder_reporter import FolderReporter
from dvt.train.storage import RunFolder
from dvt.train.worker import Worker
from tests.unit.search.tiny import supernet_recipe, supernet_space
from tests.unit.train.tiny import CPU, make_data

Rows = list[tuple[int, dict[str, float]]]
CONFIG = SupernetConfig(num_random=1, distill=0.5)


def train(rank: int, folder: Path) -> Rows:
    """Train as one of the two; returns the metrics by step."""
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    try:
        return _train(folder / str(rank), Worker(CPU, rank, 2), micro_batch_size=3)
    finally:
        distributed.destroy_process_group()


def train_alone(folder: Path) -> Rows:
    """Train as one worker with twice the batch."""
    return _train(folder, Worker(CPU), micro_batch_size=6)


def _train(folder: Path, worker: Worker, micro_batch_size: int) -> Rows:
    space, rows = supernet_space(drop_path=0), Rows()

    def keep(metrics: Mapping[str, float], step: int) -> None:
        rows.append((step, dict(metrics)))

    reporter = FolderReporter(RunFolder(LocalFileSystem(), str(folder), folder.name), keep)
    recipe = supernet_recipe(space, micro_batch_size=micro_batch_size)
    train_supernet(recipe, make_data(), worker, reporter, space=space, config=CONFIG)
    return rows


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(int(sys.argv[1]), Path(sys.argv[2]))
