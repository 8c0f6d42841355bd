"""Which cascades a step of training shared weights trains, and how their gradients are added up.

Each step trains several cascades by the sandwich rule, the dearest, the cheapest and random ones between: Yu and Huang,
"Universally Slimmable Networks and Improved Training Techniques", ICCV 2019, whose in-place distillation from the
largest is an option.

Shapes: E exits, B images of a micro-batch, C classes.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import distributed, nn

from dvt.config import CascadeConfig
from dvt.data import Batch, derive_seed
from dvt.search.space import Space
from dvt.train.finite_steps import spread
from dvt.train.losses import cascade_loss
from dvt.train.step import Stepper, StepSums, autocast


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


@dataclass(frozen=True, kw_only=True)
class SupernetStepper(Stepper):
    """Takes optimizer steps of shared weights; the recipe's cascade does not matter, and exits are not told apart.

    Attributes:
        sandwich: Which cascades are trained.
        distill: Share of the dearest cascade's probabilities in the others' targets.
        world_size: How many workers train.
    """

    sandwich: Sandwich
    distill: float
    world_size: int

    def _zeros(self, in_a_row: int = 0) -> StepSums:
        return StepSums.zeros(0, self.device, in_a_row)

    def _exchange(self) -> None:
        if self.world_size > 1:
            _average_gradients(self.model, self.world_size)

    def _backward(self, batch: Batch, index: int, count: int, sums: StepSums) -> None:
        """Add a micro-batch's gradients of all cascades; its loss is their mean."""
        configs = self.sandwich.of_step(self.state.step)
        images, targets, seed = self.prepared(batch, index, self.state.step, self.rank)
        for config in configs:
            with self.clock.running(self.device):
                torch.manual_seed(seed)  # as of a cascade: a resumed run draws the same dropout
                with autocast(self.recipe, self.device):
                    logits = self.model(images, config, self.state.is_joint)  # (E, B, C)
                loss = cascade_loss(logits, targets, self.recipe.loss).total / len(configs)
            (spread(loss) / count).backward()
            sums.loss += loss.detach()
            if config is configs[0] and self.distill > 0:
                probs = logits[-1].detach().float().softmax(dim=-1)  # (B, C)
                targets = (1 - self.distill) * targets + self.distill * probs
        sums.note(batch)


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
