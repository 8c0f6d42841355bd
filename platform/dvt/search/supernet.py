"""Training the weights that all cascades of a space share.

Each step trains several cascades by the sandwich rule, the dearest, the cheapest and random ones between: Yu and Huang,
"Universally Slimmable Networks and Improved Training Techniques", ICCV 2019, whose in-place distillation from the
largest is an option.

Shapes: E exits, B images of a micro-batch, C classes.
"""

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from dvt.config import CascadeConfig, Recipe, Rules, to_dict
from dvt.data import Batch, DataSets, Mixer, check_skipped, derive_seed, train_batches
from dvt.search.elastic import ElasticCascade, Sharing
from dvt.search.inherited import score_inherited
from dvt.search.space import Space
from dvt.train.checkpoint import load_checkpoint, load_weights, restore, save_checkpoint
from dvt.train.errors import CheckpointError, TrainingError
from dvt.train.loop import BEST_METRIC, Reporter, count_steps_per_epoch
from dvt.train.losses import cascade_loss
from dvt.train.state import ModelState
from dvt.train.step import autocast

SUPERNET = "supernet.json"  # in a checkpoint, what determines the shared weights besides the recipe


@dataclass(frozen=True, kw_only=True)
class SupernetConfig:
    """How cascades share their weights, and which are trained in a step."""

    sharing: Sharing = "grid"  # stages that share weights: those of one token grid, or at one position of a cascade
    num_random: int = 2  # random cascades trained in each step, besides the dearest and the cheapest
    distill: float = 0.0  # share of the dearest cascade's last probabilities in the targets of the others

    def __post_init__(self) -> None:
        rules = Rules()
        rules.at_least("num_random", self.num_random, 0)
        rules.between("distill", self.distill, 0, 1)
        rules.enforce()


@dataclass(frozen=True)
class Sandwich:
    """Which cascades of a space are trained in a step.

    Attributes:
        space: Where random ones are drawn from, within its caps.
        num_random: How many of them.
        seed: Seed of the run.
        dearest: Trained in each step.
        cheapest: Trained in each step.
    """

    space: Space
    num_random: int
    seed: int
    dearest: CascadeConfig
    cheapest: CascadeConfig

    @classmethod
    def of(cls, space: Space, num_random: int, seed: int) -> Self:
        """That of a space."""
        return cls(space, num_random, seed, space.dearest(), space.cheapest())

    def of_step(self, step: int) -> list[CascadeConfig]:
        """The dearest, random ones and the cheapest; decided by seed and step alone."""
        generator = np.random.default_rng(derive_seed(self.seed, step))
        drawn = [recipe.cascade for recipe in self.space.sample(generator, self.num_random)]
        return [self.dearest, *drawn, self.cheapest]


@dataclass(frozen=True)
class SupernetStepper:
    """Takes optimizer steps.

    Attributes:
        recipe: How to train; its cascade does not matter.
        distill: Share of the dearest cascade's probabilities in the others' targets.
        model: The shared weights; the same as the state's.
        state: With optimizer and schedule.
        sandwich: Which cascades are trained.
        mixer: Makes soft targets, and mixes images.
        device: Where to compute.
    """

    recipe: Recipe
    distill: float
    model: ElasticCascade
    state: ModelState
    sandwich: Sandwich
    mixer: Mixer
    device: torch.device

    def step(self, batches: Sequence[Batch]) -> Tensor:
        """Take one optimizer step on `grad_accum_steps` micro-batches.

        Returns:
            The loss, a mean over cascades and micro-batches; a scalar on the device.
        """
        self.state.optimizer.zero_grad(set_to_none=True)
        configs = self.sandwich.of_step(self.state.step)
        losses = [self._backward(batch, index, len(batches), configs) for index, batch in enumerate(batches)]
        clip = self.recipe.optimizer.clip_grad
        if clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), clip)
        self.state.optimizer.step()
        self.state.advance()
        return torch.stack(losses).sum()

    def _backward(self, batch: Batch, index: int, count: int, configs: Sequence[CascadeConfig]) -> Tensor:
        """Add a micro-batch's gradients of all cascades; returns its share of the loss."""
        seed = derive_seed(self.recipe.train.seed, self.state.step, index, 0)
        images = batch.images.to(self.device, non_blocking=True)
        labels = batch.labels.to(self.device, non_blocking=True)
        images, targets = self.mixer(images, labels, seed)
        total = torch.zeros((), device=self.device)
        for config in configs:
            torch.manual_seed(seed)  # as in `dvt.train.step`: a resumed run draws the same dropout
            with autocast(self.recipe, self.device):
                logits = self.model(images, config, self.state.is_joint)  # (E, B, C)
            loss = cascade_loss(logits, targets, self.recipe.loss).total / (count * len(configs))
            loss.backward()
            total += loss.detach()
            if config is configs[0] and self.distill > 0:
                probs = logits[-1].detach().float().softmax(dim=-1)  # (B, C)
                targets = (1 - self.distill) * targets + self.distill * probs
        return total


def train_supernet(
    space: Space, recipe: Recipe, config: SupernetConfig, data: DataSets, device: torch.device, reporter: Reporter
) -> None:
    """Train shared weights in this process, from the last checkpoint or from the start, to the last epoch.

    The same number of steps gives the same weights, bit for bit on one CPU, however often it was interrupted.

    Args:
        space: Its cascades share the weights.
        recipe: How to train: the space's base, or one with other training fields.
        config: How weights are shared, and which cascades are trained in a step.
        data: The images.
        device: Where to compute.
        reporter: Takes metrics and checkpoints; an epoch's metrics have `calibration/dearest/` and
            `calibration/cheapest/` in place of a cascade's.

    Raises:
        CheckpointError: If a checkpoint cannot be read or written, or is of other shared weights.
        ConfigError: If the recipe asks for what shared weights cannot do, or cascades cannot share.
        DataError: If too many training images, or any calibration image, cannot be read.
        TrainingError: If the loss is no number any more.
    """
    _check_recipe(recipe)
    steps_per_epoch = count_steps_per_epoch(recipe, len(data.train), world_size=1)
    torch.manual_seed(recipe.train.seed)  # torch initialises from its global generator and takes no other
    model = ElasticCascade(space.cascades, config.sharing).to(device)
    state = ModelState.of(model, recipe, steps_per_epoch)
    texts = {SUPERNET: _told(space, config)}
    with reporter.latest() as folder:
        if folder is not None:
            _require_same(folder, texts[SUPERNET])
            restore(state, load_checkpoint(folder), recipe)
    mixer = Mixer(recipe.data.augment, recipe.loss, recipe.cascade.num_classes)
    sandwich = Sandwich.of(space, config.num_random, recipe.train.seed)
    stepper = SupernetStepper(recipe, config.distill, model, state, sandwich, mixer, device)
    for epoch in range(state.step // steps_per_epoch, recipe.optimizer.total_epochs):
        metrics = _run_epoch(stepper, data, epoch, steps_per_epoch, reporter)
        metrics |= _measure(stepper, data)
        with tempfile.TemporaryDirectory(prefix="dvt-") as scratch:
            kept = Path(scratch) / "checkpoint"
            save_checkpoint(kept, state, recipe, texts)
            reporter.report(metrics | {"epoch": epoch + 1}, state.step, checkpoint=kept)


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
        first_batch=0,
        rank=0,
        world_size=1,
        batch_size=recipe.train.micro_batch_size,
        seed=recipe.train.seed,
        num_workers=recipe.data.loader_workers,
    )
    stepper.model.train()
    losses: list[Tensor] = []
    skipped: set[str] = set()
    for index in range(steps_per_epoch):
        taken = [next(batches) for _ in range(recipe.train.grad_accum_steps)]
        skipped.update(name for batch in taken for name in batch.skipped)
        losses.append(stepper.step(taken))
        is_last = index + 1 == steps_per_epoch
        if is_last or state.step % recipe.train.log_every_steps == 0:
            check_skipped(skipped, len(data.train))
            metrics = _train_metrics(stepper, losses) | {"data/skipped_images": len(skipped)}
            if is_last:
                return metrics
            reporter.report(metrics, state.step, checkpoint=None)
            losses = []
    return {}


def _train_metrics(stepper: SupernetStepper, losses: Sequence[Tensor]) -> dict[str, float]:
    loss = torch.stack(list(losses)).mean().item()
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
        scores = score_inherited(elastic, config, data.calibration, stepper.recipe.data, stepper.device)
        metrics |= {f"calibration/{name}/exit_{index}/top1": top1 for index, top1 in enumerate(scores.top1, start=1)}
    return metrics | {BEST_METRIC: sum(metrics.values()) / len(metrics)}


def _told(space: Space, config: SupernetConfig) -> str:
    """What determines the shared weights, and how they are trained, besides the recipe."""
    parts = {"cascade": space.cascade, "constraints": space.constraints, "budgets": space.budgets, "supernet": config}
    return json.dumps({name: to_dict(part) for name, part in parts.items()}, indent=1, sort_keys=True)


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


def _check_recipe(recipe: Recipe) -> None:
    rules = Rules()
    rules.require(not recipe.train.compile, "train.compile", "must be false where cascades share weights, got true")
    source = recipe.train.init_from
    rules.require(source is None, "train.init_from", f"must be null where cascades share weights, got {source}")
    rules.enforce()
