"""The training loop: epochs of steps, measured on calibration images and checkpointed; knows nothing of Ray.

A newcomer's path: `jobs/train_imagenet.py` -> `dvt/cli/train.py` -> here -> `dvt/train/step.py` -> `losses.py`.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dvt.config import ConfigError, Problem, Recipe
from dvt.config.logs import bind
from dvt.data import (
    Batch,
    DataSets,
    OnDevice,
    batches_per_epoch,
    check_skipped,
    count_skipped,
    prefetched,
    train_batches,
    warn_of_too_many_readers,
)
from dvt.exits import ExitScores
from dvt.models import Cascade
from dvt.train.checkpoint import load_checkpoint, restore, save_checkpoint
from dvt.train.evaluate import score_images
from dvt.train.init_from import init_from
from dvt.train.inspection import check_passed_over
from dvt.train.interval import Timed, train_metrics
from dvt.train.notice import Order
from dvt.train.pace import StragglerWatch
from dvt.train.position import Position, accum_steps, images_per_step
from dvt.train.scratch import scratch_folder
from dvt.train.state import TrainingState
from dvt.train.step import Stepper
from dvt.train.trace import StepTrace
from dvt.train.worker import Worker, add_up, gather, gather_skipped

logger = logging.getLogger(__name__)

# Told the scores of all calibration images and the number of epochs; gives more metrics. Called by rank 0, picklable.
OnScores = Callable[[ExitScores, int], Mapping[str, float]]
Measure = Callable[[int], Mapping[str, float]]  # given the number of epochs, what a model is worth after them
Loop = Callable[[Recipe, DataSets, "Worker", "Reporter"], None]  # `train_cascade`, or what trains another model
BEST_METRIC = "calibration/top1_mean"  # the checkpoint with the highest one is kept besides the last


class Reporter(Protocol):
    """How the loop tells the world what it reached, and finds out what an earlier try of the same run reached."""

    def latest(self) -> AbstractContextManager[Path | None]:
        """The folder of the run's last checkpoint while the context lasts; None if there is none yet."""

    def report(self, metrics: Mapping[str, float], step: int, checkpoint: Path | None) -> None:
        """Tell metrics; called by all workers at the same step.

        Args:
            metrics: By name.
            step: That they were measured at.
            checkpoint: The folder of one that comes with them, which only rank 0 has written.
        """

    def keep(self, folder: Path) -> str:
        """Copy a local folder into the run's storage, where a person may look at it; returns its address there."""


def train_cascade(
    recipe: Recipe, data: DataSets, worker: Worker, reporter: Reporter, on_scores: OnScores | None = None
) -> None:
    """Train from the last checkpoint of this run, or from the start, to the last epoch or until notice of the end.

    The same number of steps gives the same weights, bit for bit on one CPU worker, however often it was interrupted.

    Args:
        recipe: The run.
        data: Its images.
        worker: This process; a process group must be up where there are several.
        reporter: Takes metrics and checkpoints.
        on_scores: Makes more metrics of each epoch's scores; the same by all workers.

    Raises:
        CheckpointError: If a checkpoint cannot be read or written.
        ConfigError: If an epoch has too few images for one step.
        DataError: If too many training images, or any calibration image, cannot be read.
        TrainingError: If too many steps in a row had a loss or gradients that are no numbers.
    """
    steps_per_epoch = count_steps_per_epoch(recipe, len(data.train), worker.world_size)
    state = _start(recipe, steps_per_epoch, worker, reporter)
    if recipe.train.compile:  # of the average, which only measures, nothing is compiled
        state.model.compile_stages()
    on_device = OnDevice.of(recipe, data)
    stepper = Stepper(recipe, _wrap(state.model, worker), state, on_device, worker.device, worker.rank, state.step)

    def measure(epochs: int) -> dict[str, float]:
        return _measure(state, recipe, data, worker, on_scores, epochs)

    train_epochs(stepper, data, worker, reporter, measure)


def train_epochs(stepper: Stepper, data: DataSets, worker: Worker, reporter: Reporter, measure: Measure) -> None:
    """Take the steps from where a stepper's state stands to the last epoch, or until notice of the end.

    Args:
        stepper: Takes them.
        data: The images.
        worker: This process.
        reporter: Takes metrics and checkpoints.
        measure: Called by all workers at the end of each epoch.

    Raises:
        CheckpointError: If a checkpoint cannot be written.
        DataError: If too many training images, or any calibration image, cannot be read.
        TrainingError: If too many steps in a row had a loss or gradients that are no numbers.
    """
    recipe, state = stepper.recipe, stepper.state
    steps_per_epoch = count_steps_per_epoch(recipe, len(data.train), worker.world_size)
    bind(step=state.step)
    logger.info("training goes from step %d to %d", state.step, steps_per_epoch * recipe.optimizer.total_epochs)
    ranks = gather(worker.node_rank, worker).count(worker.node_rank)
    if worker.local_rank == 0 and recipe.data.engine == "local":
        warn_of_too_many_readers(recipe.data.loader_workers, ranks)
    start = state.position or Position.after(state.step, steps_per_epoch, images_per_step(recipe, worker.world_size))
    watch = StragglerWatch(recipe.cluster.straggler_factor, recipe.cluster.straggler_logs)
    with StepTrace(recipe.train.trace_steps, worker, reporter.keep) as trace:
        for epoch in range(start.epoch, recipe.optimizer.total_epochs):
            begun = start if epoch == start.epoch else Position(epoch=epoch)
            metrics = _run_epoch(stepper, data, begun, steps_per_epoch, worker, reporter, watch, trace)
            if metrics is None:
                return
            metrics |= measure(epoch + 1)
            state.position = Position(epoch=epoch + 1)
            _report_checkpoint(metrics | {"epoch": epoch + 1}, stepper, worker, reporter)


def _report_checkpoint(metrics: Mapping[str, float], stepper: Stepper, worker: Worker, reporter: Reporter) -> None:
    state = stepper.state
    with scratch_folder() as scratch:
        folder = scratch / "checkpoint"
        if worker.rank == 0:
            save_checkpoint(folder, state, stepper.recipe, stepper.texts)
        reporter.report(metrics, state.step, checkpoint=folder)


def count_steps_per_epoch(recipe: Recipe, num_images: int, world_size: int) -> int:
    """Optimizer steps of an epoch; what does not fill a step on each worker is left out.

    Raises:
        ConfigError: If there are not enough images for one step.
    """
    batches = batches_per_epoch(num_images, world_size=world_size, batch_size=recipe.train.micro_batch_size)
    accum = accum_steps(recipe, world_size)
    if accum > batches:
        rule = f"must be at most {batches}, the micro-batches of each worker in an epoch, got {accum}"
        raise ConfigError([Problem("train.grad_accum_steps", rule)])
    return batches // accum


def _start(recipe: Recipe, steps_per_epoch: int, worker: Worker, reporter: Reporter) -> TrainingState:
    state = TrainingState.create(recipe, steps_per_epoch, worker.device)
    with reporter.latest() as folder:
        if folder is not None:
            restore(state, load_checkpoint(folder), recipe)
        elif recipe.train.init_from is not None:
            init_from(state.model, recipe.train.init_from)
            if state.ema is not None:
                state.ema.set(state.model)
    return state


def _wrap(model: nn.Module, worker: Worker) -> nn.Module:
    if worker.world_size == 1:
        return model
    # Every parameter takes part in every step, joint or not: no search for unused ones, and a graph that stays.
    devices = [worker.device] if worker.device.type == "cuda" else None
    wrapped = DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True, static_graph=True)
    # No buffer changes once all have those of the first. Sent again before each forward pass, they cost an exchange,
    # in which a worker's own time, which names stragglers, would be that of the slowest.
    wrapped.broadcast_buffers = False
    return wrapped


def _run_epoch(
    stepper: Stepper,
    data: DataSets,
    begun: Position,
    steps_per_epoch: int,
    worker: Worker,
    reporter: Reporter,
    watch: StragglerWatch,
    trace: StepTrace,
) -> dict[str, float] | None:
    """Take the epoch's remaining steps; returns the metrics that were not reported yet, None if the run is to end."""
    recipe, state = stepper.recipe, stepper.state
    accum, images_a_step = accum_steps(recipe, worker.world_size), images_per_step(recipe, worker.world_size)
    state.align_schedule(begun.epoch * steps_per_epoch + begun.images // images_a_step)
    batches = prefetched(_batches(recipe, data, begun, worker), worker.device)
    timed = Timed(batches)
    stepper.model.train()
    sums, skipped = stepper.sums(), set(begun.skipped)
    ends = range(begun.images + images_a_step, len(data.train) + 1, images_a_step)  # images seen after each step
    is_due = False  # a checkpoint
    for seen in ends:
        stepper.step([next(timed) for _ in range(accum)], sums)
        bind(step=state.step)
        trace.stepped()
        order = worker.notice.after(state.step)
        is_last, is_due = seen == ends[-1], is_due or _is_multiple(state.step, recipe.train.checkpoint_every_steps)
        if is_last or is_due or _is_multiple(state.step, recipe.train.log_every_steps) or order != Order.GO_ON:
            skipped |= gather_skipped(sums.skipped, worker)
            reached = replace(begun, images=seen, skipped=tuple(sorted(skipped)))
            metrics = train_metrics(stepper, sums, timed, worker, watch) | count_skipped(skipped)
            check_skipped(skipped, len(data.train))
            check_passed_over(stepper, sums, data, reached, worker, reporter.keep)
            if is_last and order == Order.GO_ON:
                return metrics
            # A checkpoint waits for the end of a row of bad steps: where the row ends the run, the same command
            # then takes the row's steps again, rather than going on with what they left undone.
            if order != Order.GO_ON or (is_due and not state.skipped_in_a_row):
                state.position, is_due = reached, False
                _report_checkpoint(metrics, stepper, worker, reporter)
            else:
                reporter.report(metrics, state.step, checkpoint=None)
            if order == Order.STOP:
                return None
            if is_last:
                break
            sums, timed = stepper.sums(), Timed(batches)
    return count_skipped(skipped)  # no step was left, or the last one's metrics were told with a checkpoint


def _batches(recipe: Recipe, data: DataSets, begun: Position, worker: Worker) -> Iterator[Batch]:
    return train_batches(
        data,
        epoch=begun.epoch,
        seen_images=begun.images,
        rank=worker.rank,
        world_size=worker.world_size,
        batch_size=recipe.train.micro_batch_size,
        seed=recipe.train.seed,
        num_workers=recipe.data.loader_workers,
    )


def _is_multiple(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0


def _measure(
    state: TrainingState, recipe: Recipe, data: DataSets, worker: Worker, on_scores: OnScores | None, epoch: int
) -> dict[str, float]:
    """Top-1 of every exit on the calibration images; the test images are not touched before the end."""
    top1, scores = measure_exits(state.evaluated_model, recipe, data, worker)
    metrics = {f"calibration/exit_{index}/top1": value for index, value in enumerate(top1, start=1)}
    metrics[BEST_METRIC] = sum(top1) / len(top1)
    if on_scores is not None:
        all_scores = ExitScores.join(gather(scores, worker))
        metrics |= on_scores(all_scores, epoch) if worker.rank == 0 else {}
    return metrics


def measure_exits(model: Cascade, recipe: Recipe, data: DataSets, worker: Worker) -> tuple[list[float], ExitScores]:
    """Top-1 of every exit on the calibration images, and the scores of this worker's share of them."""
    scores = score_images(model, data.calibration, recipe.data, worker.device, worker.rank, worker.world_size)
    correct = torch.from_numpy(scores.correct).sum(dim=1)
    totals = add_up(torch.cat((correct, correct.new_tensor([scores.num_images]))).double().to(worker.device), worker)
    *per_exit, images = totals.tolist()
    return [correct / images for correct in per_exit], scores
