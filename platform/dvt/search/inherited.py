"""What a cascade is worth with inherited weights, and how its own training starts from them.

Shapes: E exits.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from dvt.config import CascadeConfig, DataConfig, Recipe
from dvt.data import Batch, ImageSet
from dvt.exits import ExitScores, Front
from dvt.search.elastic import ElasticCascade
from dvt.search.objective import EpochFront, validation_front
from dvt.train.checkpoint import save_checkpoint
from dvt.train.evaluate import score_images
from dvt.train.scratch import scratch_folder
from dvt.train.state import TrainingState
from dvt.train.storage import RunFolder

INHERITED = "inherited"  # in a search's folder, what cascades are worth with inherited weights
_START, _START_IS_WHOLE = "start", "start.json"  # in a trial's folder, the weights that it starts from


@dataclass(frozen=True)
class FirstImages:
    """Some images of a set, the first ones; an `ImageSet`."""

    images: ImageSet
    most: int

    def __len__(self) -> int:
        """As many as were asked for, or all."""
        return min(self.most, len(self.images))

    def read(self, indices: Sequence[int], *, epoch: int = 0, seed: int = 0) -> Batch:
        """As of the whole set."""
        return self.images.read(indices, epoch=epoch, seed=seed)

    def fingerprint(self) -> str:
        """See `ImageSet`."""
        return hashlib.sha256(f"{len(self)} of {self.images.fingerprint()}".encode()).hexdigest()


def score_inherited(
    elastic: ElasticCascade, config: CascadeConfig, images: ImageSet, data: DataConfig, device: torch.device
) -> ExitScores:
    """How sure every exit of a cascade with inherited weights is of every image, and whether it is right.

    Args:
        elastic: The shared weights, on any device.
        config: The cascade.
        images: Calibration images.
        data: Batch size and reading processes.
        device: Where to compute.

    Raises:
        DataError: If an image cannot be read.
        TrainingError: If the cascade gives something that is no number.
        ValueError: If `config` is not one of the elastic cascade's.
    """
    return score_images(elastic.extract(config).to(device), images, data, device)


def inherited_front(
    elastic: ElasticCascade,
    config: CascadeConfig,
    images: ImageSet,
    data: DataConfig,
    device: torch.device,
    costs: Sequence[float],
) -> Front:
    """The front on validation images of a cascade with inherited weights; its hypervolume ranks cascades.

    Args:
        elastic: The shared weights, on any device.
        config: The cascade.
        images: Calibration images: thresholds are chosen on one half of them, the front is measured on the other.
        data: Batch size and reading processes.
        device: Where to compute.
        costs: (E,), what an image costs that leaves at each exit, in the unit of the budgets.

    Raises:
        DataError: If an image cannot be read.
        TrainingError: If the cascade gives something that is no number.
        ValueError: If `config` is not one of the elastic cascade's.
    """
    return validation_front(score_inherited(elastic, config, images, data, device), costs)


def save_inherited(folder: Path, elastic: ElasticCascade, recipe: Recipe) -> None:
    """Write a checkpoint with a cascade's inherited weights, for `train.init_from` to start from.

    Args:
        folder: Where to; must not be there.
        elastic: The shared weights.
        recipe: How the cascade is to be trained.

    Raises:
        CheckpointError: If the folder cannot be written.
        ConfigError: If timm has no such optimizer here.
        ValueError: If the recipe's cascade is not one of the elastic cascade's.
    """
    weights = elastic.inherit(recipe.cascade)
    with torch.random.fork_rng(devices=[]):  # its own first weights, which are not kept, are drawn globally
        state = TrainingState.create(recipe, steps_per_epoch=1, device=torch.device("cpu"))
    state.model.load_state_dict(weights)
    if state.ema is not None:
        state.ema.set(state.model)
    save_checkpoint(folder, state, recipe)


def start_inherited(trial: RunFolder, recipe: Recipe, load: Callable[[], ElasticCascade]) -> Recipe:
    """The recipe, to start from what its cascade inherits, which is kept in the trial's folder.

    Args:
        trial: The folder.
        recipe: How the cascade is to be trained.
        load: Gives the shared weights; asked once a trial, however often that is interrupted.
    """
    if not trial.has(_START_IS_WHOLE):
        with scratch_folder() as scratch:
            save_inherited(scratch / _START, load(), recipe)
            trial.put(scratch / _START)
        trial.write(_START_IS_WHOLE, "{}")
    return replace(recipe, train=replace(recipe.train, init_from=f"{trial.address}/{_START}"))


def keep_inherited(search: RunFolder, number: int, measured: EpochFront) -> None:
    """Keep what a cascade is worth with inherited weights, for `read_inherited`."""
    search.child(INHERITED)
    search.write(_file_of(number), json.dumps(measured.to_dict()))


def read_inherited(search: RunFolder, number: int) -> EpochFront | None:
    """What a cascade is worth with inherited weights; None if it was not measured yet."""
    return EpochFront.from_dict(json.loads(search.read(_file_of(number)))) if search.has(_file_of(number)) else None


def _file_of(number: int) -> str:
    return f"{INHERITED}/{number:05d}.json"
