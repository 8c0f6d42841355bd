"""Which cascades a step of training shared weights trains, and how their gradients are added up.

Each step trains several cascades by the sandwich rule, the dearest, the cheapest and random ones between: Yu and Huang,
"Universally Slimmable Networks and Improved Training Techniques", ICCV 2019, whose in-place distillation from the
largest is an option.

Shapes: E exits, B images of a micro-batch, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor, distributed, nn

from dvt.config import CascadeConfig, Recipe
from dvt.data import Batch, OnDevice, derive_seed
from dvt.search.elastic import ElasticCascade
from dvt.search.space import Space
from dvt.train.losses import cascade_loss
from dvt.train.state import ModelState
from dvt.train.step import autocast
from dvt.train.worker import Worker


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
        on_device: Normalises, erases and mixes images, and makes soft targets.
        worker: This process among those that train.
    """

    recipe: Recipe
    distill: float
    model: ElasticCascade
    state: ModelState
    sandwich: Sandwich
    on_device: OnDevice
    worker: Worker

    def step(self, batches: Sequence[Batch]) -> Tensor:
        """Take one optimizer step on `grad_accum_steps` micro-batches.

        Returns:
            The loss, a mean over cascades and micro-batches; a scalar on the device.
        """
        self.state.optimizer.zero_grad(set_to_none=True)
        configs = self.sandwich.of_step(self.state.step)
        losses = [self._backward(batch, index, len(batches), configs) for index, batch in enumerate(batches)]
        if self.worker.world_size > 1:
            _average_gradients(self.model, self.worker.world_size)
        clip = self.recipe.optimizer.clip_grad
        if clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), clip)
        self.state.optimizer.step()
        self.state.advance()
        return torch.stack(losses).sum()

    def _backward(self, batch: Batch, index: int, count: int, configs: Sequence[CascadeConfig]) -> Tensor:
        """Add a micro-batch's gradients of all cascades; returns its share of the loss."""
        seed = derive_seed(self.recipe.train.seed, self.state.step, index, self.worker.rank)
        device = self.worker.device
        images = batch.images.to(device, non_blocking=True)
        labels = batch.labels.to(device, non_blocking=True)
        images, targets = self.on_device(images, labels, seed)
        total = torch.zeros((), device=device)
        for config in configs:
            torch.manual_seed(seed)  # as in `dvt.train.step`: a resumed run draws the same dropout
            with autocast(self.recipe, device):
                logits = self.model(images, config, self.state.is_joint)  # (E, B, C)
            loss = cascade_loss(logits, targets, self.recipe.loss).total / (count * len(configs))
            loss.backward()
            total += loss.detach()
            if config is configs[0] and self.distill > 0:
                probs = logits[-1].detach().float().softmax(dim=-1)  # (B, C)
                targets = (1 - self.distill) * targets + self.distill * probs
        return total


def _average_gradients(model: nn.Module, world_size: int) -> None:
    """Give all workers the mean of their gradients; as all train the same cascades, the same ones are there.

    Not DistributedDataParallel: it would wait in vain for weights that no cascade of a step has.
    """
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    parts = (flat / world_size).split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
