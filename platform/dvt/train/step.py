"""One optimizer step: forward, loss, backward over the micro-batches, clip, update.

Shapes: E exits, B images of a micro-batch, C classes.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dvt.config import Recipe
from dvt.data import Batch, OnDevice, Skipped, derive_seed
from dvt.train.finite_steps import PassedOver, gradient_norm, spread, step_if
from dvt.train.losses import cascade_loss, count_correct
from dvt.train.pace import ForwardClock
from dvt.train.state import ModelState


@dataclass
class StepSums:
    """What the steps since the last log added up to; stays on the device, so that no step waits for it.

    Attributes:
        loss: Sum of the total loss of each micro-batch, a scalar.
        per_exit: Sum of the cross-entropy of each exit, (E,).
        correct: Images that each exit got right, as mixed targets go by their larger share, (E,).
        counted: Images and micro-batches that the sums above are of, (2,).
        passed_over: Steps that did not count, whose losses are in no sum.
        images: Images seen by this worker, also in steps that did not count.
        skipped: Training images that could not be read.
    """

    loss: Tensor
    per_exit: Tensor
    correct: Tensor
    counted: Tensor
    passed_over: PassedOver
    images: int = 0
    skipped: list[Skipped] = field(default_factory=list)

    @classmethod
    def zeros(cls, num_exits: int, device: torch.device, in_a_row: int = 0) -> "StepSums":
        """Nothing seen yet; `in_a_row` steps were passed over just before."""
        shapes = (), (num_exits,), (num_exits,), (2,)
        loss, per_exit, correct, counted = (torch.zeros(shape, device=device) for shape in shapes)
        return cls(loss, per_exit, correct, counted, PassedOver.none(device, in_a_row))

    def note(self, batch: Batch) -> None:
        """Count a micro-batch."""
        self.counted[0] += len(batch.images)
        self.counted[1] += 1
        self.images += len(batch.images)
        self.skipped += batch.skipped

    def add(self, step: "StepSums", is_finite: Tensor) -> None:
        """Add what a single step came to, where it counts."""
        for name in ("loss", "per_exit", "correct", "counted"):
            value = getattr(step, name)
            setattr(self, name, getattr(self, name) + torch.where(is_finite, value, 0))
        self.images += step.images
        self.skipped += step.skipped


@dataclass(frozen=True)
class Stepper:
    """Takes optimizer steps.

    Attributes:
        recipe: The run.
        model: The model as it is called, wrapped for several workers where there are any.
        state: The same model unwrapped, with optimizer and schedule.
        on_device: Normalises, erases and mixes images, and makes soft targets.
        device: Where to compute.
        rank: This worker, from 0.
        first_step: The state's step when `model` was wrapped for several workers.
        clock: Adds up the time of forward passes.
        texts: More files of its checkpoints by name, for models that a recipe does not determine.
    """

    recipe: Recipe
    model: nn.Module
    state: ModelState
    on_device: OnDevice
    device: torch.device
    rank: int
    first_step: int = 0
    clock: ForwardClock = field(default_factory=ForwardClock)
    texts: Mapping[str, str] = field(default_factory=dict)

    def sums(self) -> StepSums:
        """Those of no step yet."""
        return self._zeros(self.state.skipped_in_a_row)

    def step(self, batches: Sequence[Batch], sums: StepSums) -> None:
        """Take one optimizer step on the micro-batches of this worker and add its results to `sums`.

        A step in which the loss of any worker or the gradients are no numbers is counted, and changes neither weights
        nor moments.
        """
        self.state.optimizer.zero_grad(set_to_none=True)
        own = self._zeros()
        for index, batch in enumerate(batches):
            is_last = index + 1 == len(batches)
            with self._gradients_stay_here() if not is_last else nullcontext():
                self._backward(batch, index, len(batches), own)
        self._exchange()
        norm = gradient_norm(self.state.model.parameters(), self.recipe.optimizer.clip_grad)
        is_finite = norm.isfinite()
        step_if(self.state.optimizer, is_finite)
        sums.passed_over.note(is_finite, own.loss.isfinite())
        sums.add(own, is_finite)
        self.state.advance()

    def prepared(self, batch: Batch, index: int, step: int, rank: int) -> tuple[Tensor, Tensor, int]:
        """Images and targets as the model takes them, and the seed of all that is random about a micro-batch.

        Args:
            batch: As it is loaded.
            index: Of the micro-batch among those of its step and worker.
            step: Optimizer steps taken before.
            rank: Of the worker.
        """
        seed = derive_seed(self.recipe.train.seed, step, index, rank)
        images = batch.images.to(self.device, non_blocking=True)
        labels = batch.labels.to(self.device, non_blocking=True)
        return *self.on_device(images, labels, seed), seed

    def _zeros(self, in_a_row: int = 0) -> StepSums:
        return StepSums.zeros(self.recipe.cascade.num_exits, self.device, in_a_row)

    def _exchange(self) -> None:
        """Give all workers the mean of their gradients, unless that came with them."""

    def _backward(self, batch: Batch, index: int, count: int, sums: StepSums) -> None:
        """Add a micro-batch's gradients, and what else it comes to."""
        with self.clock.running(self.device):
            images, targets, seed = self.prepared(batch, index, self.state.step, self.rank)
            # Dropout and stochastic depth draw from torch's global generator and take no other. Seeding it anew for
            # each micro-batch makes a resumed run draw the same numbers, with no generator state to keep.
            torch.manual_seed(seed)
            with autocast(self.recipe, self.device):
                logits = self.model(images, self.state.is_joint)  # (E, B, C)
            loss = cascade_loss(logits, targets, self.recipe.loss)
        (spread(loss.total) / count).backward()
        sums.loss += loss.total.detach()
        sums.per_exit += loss.per_exit
        sums.correct += count_correct(logits.detach(), targets.argmax(dim=-1))
        sums.note(batch)

    def _gradients_stay_here(self) -> AbstractContextManager[object]:
        """Workers exchange gradients only after the last micro-batch.

        In the first step after each: DDP's static graph learns from it what takes part, and torch 2.15 fails where no
        exchange comes first. The sum is the same.
        """
        if not isinstance(self.model, DistributedDataParallel) or self.state.step == self.first_step:
            return nullcontext()
        return self.model.no_sync()


def autocast(recipe: Recipe, device: torch.device) -> AbstractContextManager[object]:
    """Mixed precision in bfloat16 where the recipe allows it and the device computes in it; else nothing."""
    if recipe.train.amp == "off" or device.type != "cuda" or not torch.cuda.is_bf16_supported(False):
        return nullcontext()
    return torch.autocast("cuda", torch.bfloat16)
