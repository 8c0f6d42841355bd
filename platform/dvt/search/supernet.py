"""Training the weights that all cascades of a space share, by the loop that trains a cascade."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from dvt.config import Recipe, to_dict
from dvt.data import DataSets, OnDevice
from dvt.search.elastic import ElasticCascade
from dvt.search.sandwich import Sandwich, SupernetStepper
from dvt.search.settings import SupernetConfig, require_sharable
from dvt.search.space import Space
from dvt.train.checkpoint import load_checkpoint, load_weights, restore
from dvt.train.errors import CheckpointError
from dvt.train.loop import BEST_METRIC, Reporter, count_steps_per_epoch, measure_exits, train_epochs
from dvt.train.state import ModelState
from dvt.train.worker import Worker

SHARED = "supernet"  # in a search's folder, where the shared weights are trained
SUPERNET = "supernet.json"  # in a checkpoint, what determines the shared weights besides the recipe


def train_supernet(
    recipe: Recipe, data: DataSets, worker: Worker, reporter: Reporter, *, space: Space, config: SupernetConfig
) -> None:
    """Train shared weights from the last checkpoint or from the start, to the last epoch or until notice of the end.

    The same number of steps gives the same weights, bit for bit on one CPU, however often it was interrupted.

    Args:
        recipe: How to train; its cascade does not matter.
        data: The images.
        worker: This process; a process group must be up where there are several.
        reporter: Takes metrics and checkpoints; an epoch's metrics have `calibration/dearest/` and
            `calibration/cheapest/` in place of a cascade's.
        space: Its cascades share the weights.
        config: How weights are shared, and which cascades are trained in a step.

    Raises:
        CheckpointError: If a checkpoint cannot be read or written, or is of other shared weights.
        ConfigError: If the recipe asks for what shared weights cannot do, or cascades cannot share.
        DataError: If too many training images, or any calibration image, cannot be read.
        TrainingError: If too many steps in a row had a loss or gradients that are no numbers.
    """
    require_sharable(recipe)
    steps_per_epoch = count_steps_per_epoch(recipe, len(data.train), worker.world_size)
    torch.manual_seed(recipe.train.seed)  # torch initialises from its global generator and takes no other
    model = ElasticCascade(space.cascades, config.sharing).to(worker.device)
    state = ModelState.of(model, recipe, steps_per_epoch)
    texts = {SUPERNET: _told(space, config)}
    with reporter.latest() as folder:
        if folder is not None:
            _require_same(folder, texts[SUPERNET])
            restore(state, load_checkpoint(folder), recipe)
    stepper = SupernetStepper(
        recipe,
        model,
        state,
        OnDevice.of(recipe, data),
        worker.device,
        worker.rank,
        texts=texts,
        sandwich=Sandwich.of(space, config.num_random, recipe.train.seed),
        distill=config.distill,
        world_size=worker.world_size,
    )
    train_epochs(stepper, data, worker, reporter, lambda epochs: _measure(stepper, data, worker))


def load_supernet(folder: Path, space: Space, config: SupernetConfig) -> ElasticCascade:
    """The shared weights of a checkpoint, averaged ones where there are any, in evaluation mode on the CPU.

    Raises:
        CheckpointError: If a file is missing, changed or cannot be read, or the weights are shared otherwise.
    """
    checkpoint = load_checkpoint(folder)
    _require_same(folder, _told(space, config))
    model = ElasticCascade(space.cascades, config.sharing)
    load_weights(model, checkpoint.weights)
    return model.eval()


def _measure(stepper: SupernetStepper, data: DataSets, worker: Worker) -> dict[str, float]:
    """Top-1 of every exit of the two cascades that are trained in each step, on calibration images."""
    elastic = stepper.state.evaluated_model
    assert isinstance(elastic, ElasticCascade)
    metrics: dict[str, float] = {}
    for name, config in (("dearest", stepper.sandwich.dearest), ("cheapest", stepper.sandwich.cheapest)):
        top1, _ = measure_exits(elastic.extract(config), stepper.recipe, data, worker)
        metrics |= {f"calibration/{name}/exit_{index}/top1": value for index, value in enumerate(top1, start=1)}
    return metrics | {BEST_METRIC: sum(metrics.values()) / len(metrics)}


def _told(space: Space, config: SupernetConfig) -> str:
    """What determines the shared weights, and how they are trained, besides the recipe."""
    parts = {"cascade": space.cascade, "constraints": space.constraints, "budgets": space.budgets}
    told = {name: to_dict(part) for name, part in parts.items()}
    told["supernet"] = {name: getattr(config, name) for name in ("sharing", "num_random", "distill")}
    return json.dumps(told, indent=1, sort_keys=True)


def _require_same(folder: Path, told: str) -> None:
    try:
        found: Mapping[str, object] = json.loads((folder / SUPERNET).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{folder / SUPERNET} must tell what shares the weights, got a file that cannot be read; "
            f"use another checkpoint"
        ) from error
    asked = json.loads(told)
    for name, value in asked.items():
        if found.get(name) != value:
            raise CheckpointError(
                f"{folder / SUPERNET} must have the {name} {json.dumps(value)}, got {json.dumps(found.get(name))}; "
                f"choose the space and settings it was trained with"
            )
