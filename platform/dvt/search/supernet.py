"""Training the weights that all cascades of a space share: a loop beside `dvt.train.loop`, which Ray Train runs too."""

import json
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from dvt.config import Recipe, to_dict
from dvt.data import DataSets, OnDevice, Skipped, check_skipped, count_skipped, prefetched, train_batches
from dvt.search.elastic import ElasticCascade
from dvt.search.sandwich import Sandwich, SupernetStepper
from dvt.search.settings import SupernetConfig, require_sharable
from dvt.search.space import Space
from dvt.train.checkpoint import load_checkpoint, load_weights, restore, save_checkpoint
from dvt.train.errors import CheckpointError, TrainingError
from dvt.train.loop import BEST_METRIC, Reporter, count_steps_per_epoch, measure_exits
from dvt.train.state import ModelState
from dvt.train.storage import RunFolder
from dvt.train.worker import Worker, add_up, gather_skipped

SHARED = "supernet"  # in a search's folder, where the shared weights are trained
SUPERNET = "supernet.json"  # in a checkpoint, what determines the shared weights besides the recipe
EPOCH_S = "train/epoch_s"  # seconds that an epoch took, measuring is part of it
_SECONDS = "seconds"


def train_supernet(
    recipe: Recipe, data: DataSets, worker: Worker, reporter: Reporter, *, space: Space, config: SupernetConfig
) -> None:
    """Train shared weights from the last checkpoint or from the start, to the last epoch.

    The same number of steps gives the same weights, bit for bit on one CPU, however often it was interrupted.

    Args:
        recipe: How to train; its cascade does not matter.
        data: The images.
        worker: This process; a process group must be up where there are several.
        reporter: Takes metrics and checkpoints; an epoch's metrics have `calibration/dearest/` and
            `calibration/cheapest/` in place of a cascade's, and the seconds it took.
        space: Its cascades share the weights.
        config: How weights are shared, and which cascades are trained in a step.

    Raises:
        CheckpointError: If a checkpoint cannot be read or written, or is of other shared weights.
        ConfigError: If the recipe asks for what shared weights cannot do, or cascades cannot share.
        DataError: If too many training images, or any calibration image, cannot be read.
        TrainingError: If the loss is no number any more.
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
    on_device = OnDevice.of(recipe, data)
    sandwich = Sandwich.of(space, config.num_random, recipe.train.seed)
    stepper = SupernetStepper(recipe, config.distill, model, state, sandwich, on_device, worker)
    for epoch in range(state.step // steps_per_epoch, recipe.optimizer.total_epochs):
        begun = time.perf_counter()
        metrics = _run_epoch(stepper, data, epoch, steps_per_epoch, reporter)
        metrics |= _measure(stepper, data) | {"epoch": epoch + 1, EPOCH_S: time.perf_counter() - begun}
        with tempfile.TemporaryDirectory(prefix="dvt-") as scratch:
            kept = Path(scratch) / "checkpoint"
            if worker.rank == 0:
                save_checkpoint(kept, state, recipe, texts)
            reporter.report(metrics, state.step, checkpoint=kept if worker.rank == 0 else None)


def keep_seconds(folder: RunFolder, metrics: Mapping[str, float]) -> None:
    """Keep how long an epoch of training shared weights took, if these metrics end one."""
    if EPOCH_S in metrics:
        folder.child(_SECONDS).write(f"{metrics['epoch']:05.0f}", str(metrics[EPOCH_S]))


def read_seconds(folder: RunFolder) -> list[float]:
    """How long each epoch of training shared weights took."""
    place = folder.child(_SECONDS)
    if not place.filesystem.exists(place.path):  # an empty prefix of a bucket is none
        return []
    names = sorted(path.rstrip("/").rpartition("/")[2] for path in place.filesystem.ls(place.path, detail=False))
    return [float(place.read(name)) for name in names]


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


def _run_epoch(
    stepper: SupernetStepper, data: DataSets, epoch: int, steps_per_epoch: int, reporter: Reporter
) -> dict[str, float]:
    """Take the epoch's steps; returns the metrics that were not reported yet."""
    recipe, state = stepper.recipe, stepper.state
    batches = train_batches(
        data,
        epoch=epoch,
        rank=stepper.worker.rank,
        world_size=stepper.worker.world_size,
        batch_size=recipe.train.micro_batch_size,
        seed=recipe.train.seed,
        num_workers=recipe.data.loader_workers,
    )
    batches = prefetched(batches, stepper.worker.device)
    stepper.model.train()
    losses: list[Tensor] = []
    skipped = set[Skipped]()
    for index in range(steps_per_epoch):
        taken = [next(batches) for _ in range(recipe.train.grad_accum_steps)]
        skipped.update(image for batch in taken for image in batch.skipped)
        losses.append(stepper.step(taken))
        is_last = index + 1 == steps_per_epoch
        if is_last or state.step % recipe.train.log_every_steps == 0:
            skipped = gather_skipped(skipped, stepper.worker)
            check_skipped(skipped, len(data.train))
            metrics = _train_metrics(stepper, losses) | count_skipped(skipped)
            if is_last:
                return metrics
            reporter.report(metrics, state.step, checkpoint=None)
            losses = []
    return {}


def _train_metrics(stepper: SupernetStepper, losses: Sequence[Tensor]) -> dict[str, float]:
    loss = add_up(torch.stack(list(losses)).mean(), stepper.worker).item() / stepper.worker.world_size
    if not math.isfinite(loss):
        raise TrainingError(
            f"the loss must stay a number, got {loss} up to step {stepper.state.step}; "
            f"lower optimizer.lr or set optimizer.clip_grad"
        )
    return {"train/loss": loss, "train/lr": stepper.state.optimizer.param_groups[0]["lr"]}


def _measure(stepper: SupernetStepper, data: DataSets) -> dict[str, float]:
    """Top-1 of every exit of the two cascades that are trained in each step, on calibration images."""
    elastic = stepper.state.evaluated_model
    assert isinstance(elastic, ElasticCascade)
    metrics: dict[str, float] = {}
    for name, config in (("dearest", stepper.sandwich.dearest), ("cheapest", stepper.sandwich.cheapest)):
        top1, _ = measure_exits(elastic.extract(config), stepper.recipe, data, stepper.worker)
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
