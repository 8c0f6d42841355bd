"""One optimizer step: forward, loss, backward over the micro-batches, clip, update.

Shapes: E exits, B images of a micro-batch, C classes.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dvt.config import Recipe
from dvt.data import Batch, OnDevice, Skipped, derive_seed
from dvt.train.losses import cascade_loss, count_correct
from dvt.train.state import TrainingState


@dataclass
class StepSums:
    """What the steps since the last log added up to; stays on the device, so that no step waits for it.

    Attributes:
        loss: Sum of the total loss of each micro-batch, a scalar.
        per_exit: Sum of the cross-entropy of each exit, (E,).
        correct: Images that each exit got right, as mixed targets go by their larger share, (E,).
        images: Images seen by this worker.
        micro_batches: Micro-batches seen by this worker.
        skipped: Training images that could not be read.
    """

    loss: Tensor
    per_exit: Tensor
    correct: Tensor
    images: int = 0
    micro_batches: int = 0
    skipped: list[Skipped] = field(default_factory=list)

    @classmethod
    def zeros(cls, num_exits: int, device: torch.device) -> "StepSums":
        """Nothing seen yet."""
        loss, per_exit, correct = (torch.zeros(shape, device=device) for shape in ((), (num_exits,), (num_exits,)))
        return cls(loss, per_exit, correct)


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
    """

    recipe: Recipe
    model: nn.Module
    state: TrainingState
    on_device: OnDevice
    device: torch.device
    rank: int
    first_step: int = 0

    def step(self, batches: Sequence[Batch], sums: StepSums) -> None:
        """Take one optimizer step on `grad_accum_steps` micro-batches and add its results to `sums`."""
        self.state.optimizer.zero_grad(set_to_none=True)
        for index, batch in enumerate(batches):
            is_last = index + 1 == len(batches)
            with self._gradients_stay_here() if not is_last else nullcontext():
                self._backward(batch, index, len(batches), sums)
        clip = self.recipe.optimizer.clip_grad
        if clip is not None:
            nn.utils.clip_grad_norm_(self.state.model.parameters(), clip)
        self.state.optimizer.step()
        self.state.advance()

    def _backward(self, batch: Batch, index: int, count: int, sums: StepSums) -> None:
        seed = derive_seed(self.recipe.train.seed, self.state.step, index, self.rank)
        images = batch.images.to(self.device, non_blocking=True)
        labels = batch.labels.to(self.device, non_blocking=True)
        images, targets = self.on_device(images, labels, seed)
        # Dropout and stochastic depth draw from torch's global generator and take no other. Seeding it anew for each
        # micro-batch makes a resumed run draw the same numbers, with no generator state to keep.
        torch.manual_seed(seed)
        with autocast(self.recipe, self.device):
            logits = self.model(images, self.state.is_joint)  # (E, B, C)
        loss = cascade_loss(logits, targets, self.recipe.loss)
        (loss.total / count).backward()
        sums.loss += loss.total.detach()
        sums.per_exit += loss.per_exit
        sums.correct += count_correct(logits.detach(), targets.argmax(dim=-1))
        sums.images += len(images)
        sums.micro_batches += 1
        sums.skipped += batch.skipped

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
