"""A cascade of two stages, images in memory and a reporter in memory: what the tests of training have in common."""

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dvt.config import (
    AugmentConfig,
    CascadeConfig,
    DataConfig,
    LossConfig,
    OptimizerConfig,
    Recipe,
    StageConfig,
    TrainConfig,
)
from dvt.data import Batch, DataError, DataSets, OnDevice, Skipped
from dvt.train.state import TrainingState
from dvt.train.step import Stepper
from dvt.train.worker import Worker

CPU = torch.device("cpu")
WORKER = Worker(CPU)

CASCADE = CascadeConfig(
    image_size=16,
    in_chans=1,
    num_classes=10,
    embed_dim=16,
    depth=2,
    num_heads=2,
    mlp_ratio=2,
    feature_reuse_dim=4,
    feature_reuse_hidden_dim=8,
    relation_reuse_ratio=1,
    stages=(StageConfig(token_grid=2), StageConfig(token_grid=4)),
)
NO_MIXING = AugmentConfig(mixup=0, cutmix=0)
RECIPE = Recipe(
    name="tiny",
    cascade=CASCADE,
    data=DataConfig(source="embedded", loader_workers=0, eval_batch_size=8, augment=NO_MIXING),
    optimizer=OptimizerConfig(lr=2e-3, epochs=2, warmup_epochs=0.5, cooldown_epochs=0),
    loss=LossConfig(),
    train=TrainConfig(micro_batch_size=4, ema_decay=0.9, log_every_steps=2),
)


def change(recipe: Recipe, **parts: Mapping[str, Any]) -> Recipe:
    """The recipe with some fields of some parts changed: `change(recipe, train={"seed": 1})`."""
    return replace(recipe, **{part: replace(getattr(recipe, part), **values) for part, values in parts.items()})


@dataclass(frozen=True)
class MemoryImages:
    """An `ImageSet` of noise, some of whose files are told as skipped, or cannot be read at all, or that is slow."""

    images: Tensor  # (N, c, S, S)
    labels: Tensor  # (N,)
    skipped: Mapping[int, str] = field(default_factory=dict)  # by index, the file that was replaced
    unreadable: frozenset[int] = frozenset()
    takes_s: float = 0  # of each read

    @classmethod
    def noise(cls, count: int, seed: int, **told: Any) -> "MemoryImages":
        generator = torch.Generator().manual_seed(seed)
        images = torch.randn(count, CASCADE.in_chans, CASCADE.image_size, CASCADE.image_size, generator=generator)
        return cls(images, torch.randint(0, CASCADE.num_classes, (count,), generator=generator), **told)

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices: Sequence[int], *, epoch: int = 0, seed: int = 0) -> Batch:
        if self.unreadable.intersection(indices):
            raise DataError(f"image {min(self.unreadable.intersection(indices))} cannot be read")
        time.sleep(self.takes_s)
        skipped = tuple(Skipped(self.skipped[index], "corrupt") for index in indices if index in self.skipped)
        return Batch(self.images[list(indices)], self.labels[list(indices)], skipped)


def make_data(num_train: int = 24, num_calibration: int = 12, **told: Any) -> DataSets:
    """Data sets of noise; `told` is `MemoryImages`' of the training set."""
    return DataSets(
        train=MemoryImages.noise(num_train, seed=1, **told),
        calibration=MemoryImages.noise(num_calibration, seed=2),
        test=MemoryImages.noise(4, seed=3),
        class_names=tuple("0123456789"),
        mean=(0.0,),
        std=(1.0,),
    )


@dataclass(frozen=True)
class Row:
    """One call of `Reporter.report`."""

    metrics: dict[str, float]
    step: int
    has_checkpoint: bool


@dataclass
class MemoryReporter:
    """A `Reporter` that keeps metrics in a list and checkpoints in a folder, which may be an earlier reporter's."""

    folder: Path
    rows: list[Row] = field(default_factory=list)

    @contextmanager
    def latest(self) -> Iterator[Path | None]:
        yield max(self.folder.glob("checkpoint_*"), default=None)

    def report(self, metrics: Mapping[str, float], step: int, checkpoint: Path | None) -> None:
        if has_checkpoint := checkpoint is not None and checkpoint.exists():
            self.folder.mkdir(exist_ok=True)
            shutil.copytree(checkpoint, self.folder / f"checkpoint_{step:06d}")
        self.rows.append(Row(dict(metrics), step, has_checkpoint))

    def keep(self, folder: Path) -> str:
        shutil.copytree(folder, self.folder / folder.name)
        return str(self.folder / folder.name)


def make_stepper(recipe: Recipe, rank: int = 0) -> Stepper:
    """A stepper over a new state, four steps an epoch."""
    state = TrainingState.create(recipe, 4, CPU)
    on_device = OnDevice(recipe.data.augment, recipe.loss, recipe.cascade.num_classes, (0.0,), (1.0,))
    return Stepper(recipe, state.model.train(), state, on_device, CPU, rank)


def make_batch(count: int, seed: int = 0) -> Batch:
    return MemoryImages.noise(count, seed).read(range(count))


def is_equal(one: Any, other: Any) -> bool:
    """Whether two trees of dictionaries, lists, tensors and plain values are the same, bit for bit."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(is_equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(is_equal, one, other))
    return bool(one == other)


def snapshot(state: TrainingState) -> dict[str, Any]:
    """Everything of a state that must be the same for it to go on the same, copied."""
    kept = {
        "model": state.model.state_dict(),
        "ema": None if state.ema is None else state.ema.module.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "step": state.step,
    }
    return _copied(kept)


def _copied(tree: Any) -> Any:
    if isinstance(tree, Tensor):
        return tree.detach().clone()
    if isinstance(tree, Mapping):
        return {key: _copied(value) for key, value in tree.items()}
    return [_copied(value) for value in tree] if isinstance(tree, list | tuple) else tree
