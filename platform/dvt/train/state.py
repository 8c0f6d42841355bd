"""Everything of a run that changes while it trains: model, averaged model, optimizer, schedule, step."""

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from timm.optim._optim_factory import create_optimizer_v2, list_optimizers
from timm.scheduler.cosine_lr import CosineLRScheduler
from timm.utils.model_ema import ModelEmaV3
from torch import nn
from torch.optim import Optimizer

from dvt.config import ConfigError, OptimizerConfig, Problem, Recipe
from dvt.models import Cascade
from dvt.train.position import Position

# Of timm's names those of torch's own with a fused kernel, which can pass over a step. Not sgd: its first momentum is
# what the memory held if the first step is passed over (torch 2.15).
FUSED = ("adam", "adamw")


@dataclass
class ModelState:
    """Everything that changes while a model trains.

    Attributes:
        model: The model that is trained, on the training device, not wrapped.
        ema: Its exponential moving average; None where the recipe keeps none.
        optimizer: Holds the moments of every parameter.
        schedule: Sets the optimizer's learning rate; has no state but the step.
        step: Optimizer steps taken.
        backbone_steps: First steps of the schedule in which each stage trains by itself.
        position: Where the run stands among its images; None where it follows from `step`.
        schedule_ahead: Steps that the schedule is ahead of `step`; 0 unless the images of a step changed on the way.
        skipped_steps: How many of the steps changed nothing, as their loss or gradients were no numbers.
        skipped_in_a_row: How many of them were the last ones.
    """

    model: nn.Module
    ema: ModelEmaV3 | None
    optimizer: Optimizer
    schedule: CosineLRScheduler
    step: int = 0
    backbone_steps: int = 0
    position: Position | None = None
    schedule_ahead: int = 0
    skipped_steps: int = 0
    skipped_in_a_row: int = 0

    @classmethod
    def of(cls, model: nn.Module, recipe: Recipe, steps_per_epoch: int) -> Self:
        """The state before the first step of training `model` as a recipe says.

        Raises:
            ConfigError: If timm has no such optimizer here.
        """
        decay = recipe.train.ema_decay
        ema = None if decay is None else ModelEmaV3(model, decay=decay)
        optimizer = _optimizer(model, recipe.optimizer)
        schedule = _schedule(optimizer, recipe.optimizer, steps_per_epoch)
        backbone_steps = recipe.train.backbone_epochs * steps_per_epoch
        state = cls(model, ema, optimizer, schedule, backbone_steps=backbone_steps)
        state.schedule.step_update(0)
        return state

    @property
    def evaluated_model(self) -> nn.Module:
        """The model that is measured and kept: the average where there is one."""
        averaged: nn.Module = self.model if self.ema is None else self.ema.module
        return averaged

    @property
    def is_joint(self) -> bool:
        """Whether in the next step stages see what the one before computed."""
        return self.step + self.schedule_ahead >= self.backbone_steps

    def advance(self) -> None:
        """Note one optimizer step: learning rate and average follow."""
        self.step += 1
        self.schedule.step_update(self.step + self.schedule_ahead)
        if self.ema is not None:
            self.ema.update(self.model)

    def align_schedule(self, scheduled_step: int) -> None:
        """Let the schedule be at `scheduled_step` now, and go on from there with each step.

        Epochs last as many steps as their images fill; the schedule goes by epochs. So it stays in time where a run
        goes on with more or less images a step.
        """
        self.schedule_ahead = scheduled_step - self.step
        self.schedule.step_update(scheduled_step)

    def restore(self, step: int, optimizer: Mapping[str, Any]) -> None:
        """Continue after `step` with an optimizer's state dict; weights are loaded apart."""
        self.optimizer.load_state_dict(dict(optimizer))
        self.step = step
        self.schedule.step_update(step)


@dataclass
class TrainingState(ModelState):
    """Everything of a run that changes while its cascade trains."""

    model: Cascade

    @classmethod
    def create(cls, recipe: Recipe, steps_per_epoch: int, device: torch.device) -> "TrainingState":
        """The state before the first step; weights follow from the recipe's seed alone.

        Raises:
            ConfigError: If timm has no such optimizer here.
        """
        # torch initialises from its global generator and takes no other.
        torch.manual_seed(recipe.train.seed)
        return cls.of(Cascade(recipe.cascade).to(device), recipe, steps_per_epoch)

    @property
    def evaluated_model(self) -> Cascade:
        """The cascade that is measured and kept: the average where there is one."""
        averaged: Cascade = self.model if self.ema is None else self.ema.module
        return averaged


def _optimizer(model: nn.Module, config: OptimizerConfig) -> Optimizer:
    is_fused = config.name in FUSED and next(model.parameters()).is_cuda
    options: dict[str, Any] = {"fused": True} if is_fused else {}
    try:
        return create_optimizer_v2(model, opt=config.name, lr=config.lr, weight_decay=config.weight_decay, **options)
    except (ValueError, AssertionError, ImportError) as error:  # timm 1.0.31 asserts what an optimizer needs
        near = difflib.get_close_matches(config.name, list_optimizers(), n=1)
        advice = f"did you mean {near[0]}?" if near and near[0] != config.name else "choose adamw, lamb or sgd"
        rule = f"must be an optimizer of timm that works here, got {config.name!r} ({error}); {advice}"
        raise ConfigError([Problem("optimizer.name", rule)]) from error


def _schedule(optimizer: Optimizer, config: OptimizerConfig, steps_per_epoch: int) -> CosineLRScheduler:
    """Linear warm-up, cosine to `min_lr`, cool-down at `min_lr`; one value a step."""
    return CosineLRScheduler(
        optimizer,
        t_initial=config.epochs * steps_per_epoch,
        lr_min=config.min_lr,
        warmup_t=math.ceil(config.warmup_epochs * steps_per_epoch),
        warmup_lr_init=config.warmup_lr,
        t_in_epochs=False,
    )
