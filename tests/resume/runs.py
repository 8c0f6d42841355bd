"""A run with everything on that draws random numbers, and the ways in which it is interrupted.

As a process of its own it trains until it kills itself: `python -m tests.resume.runs FOLDER STEP [KEPT_EVERY]`
"""

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from dvt.config import AugmentConfig, DataConfig, LossConfig, OptimizerConfig, Recipe, TrainConfig
from dvt.data import Batch, DataSets, ImageSet, open_data
from dvt.train.checkpoint import MODEL, load_checkpoint
from dvt.train.loop import train_cascade
from tests.unit.train.tiny import CASCADE, WORKER, MemoryReporter, change

STEPS_PER_EPOCH, EPOCHS = 4, 3  # of 36 images eight fill a step, and four are left out
RECIPE = change(
    Recipe(
        name="resumed",
        cascade=CASCADE,
        data=DataConfig(
            source="embedded",
            train_images=36,
            calibration_images=16,
            loader_workers=0,
            eval_batch_size=16,
            augment=AugmentConfig(mixup=0.8, cutmix=1.0),
        ),
        optimizer=OptimizerConfig(lr=5e-3, clip_grad=1.0, epochs=2, warmup_epochs=1, cooldown_epochs=1),
        loss=LossConfig(distill_weight=0.5),
        train=TrainConfig(micro_batch_size=4, grad_accum_steps=2, ema_decay=0.9, log_every_steps=1),
    ),
    cascade={"drop_path": 0.4},
)


class Interruption(BaseException):
    """Ends a try; no `except` may take it for an error of its own."""


@dataclass
class FailingReporter(MemoryReporter):
    """Ends the try at a step, before or after what is reported there was kept."""

    at_step: int = -1
    is_kept: bool = False
    end: Callable[[], None] = field(default=lambda: None)

    def report(self, metrics: Mapping[str, float], step: int, checkpoint: Path | None) -> None:
        if step != self.at_step or self.is_kept:
            super().report(metrics, step, checkpoint)
        if step == self.at_step:
            self.end()


@dataclass
class FailingImages:
    """Ends the try at a read."""

    images: ImageSet
    reads_left: int

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices: Sequence[int], *, epoch: int = 0, seed: int = 0) -> Batch:
        if self.reads_left == 0:
            interrupt()
        self.reads_left -= 1
        return self.images.read(indices, epoch=epoch, seed=seed)


def interrupt() -> None:
    raise Interruption


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def open_images(recipe: Recipe, reads_left: int | None = None) -> DataSets:
    data = open_data(recipe.data, recipe.cascade)
    return data if reads_left is None else replace(data, train=FailingImages(data.train, reads_left))


def attempt(recipe: Recipe, reporter: MemoryReporter, reads_left: int | None = None) -> bool:
    """Try to train, with nothing left in memory of earlier tries; whether it came to the end."""
    torch.seed()  # what the global generator holds must not matter
    try:
        train_cascade(recipe, open_images(recipe, reads_left), WORKER, reporter)
    except Interruption:
        return False
    return True


def outcome(folder: Path) -> dict[str, Any]:
    """All that a run ends with: the bytes of its weights, and what the optimizer keeps."""
    last = max(folder.glob("checkpoint_*"))
    checkpoint = load_checkpoint(last)
    weights = {path.name: path.read_bytes() for path in (last / MODEL, checkpoint.weights)}
    return weights | {"step": checkpoint.step, "optimizer": checkpoint.optimizer}


if __name__ == "__main__":
    torch.set_num_threads(1)
    every = int(sys.argv[3]) if len(sys.argv) > 3 else None
    killed = change(RECIPE, train={"checkpoint_every_steps": every})
    attempt(killed, FailingReporter(Path(sys.argv[1]), at_step=int(sys.argv[2]), end=kill))
