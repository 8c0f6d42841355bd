"""What is kept of a step whose loss or gradients are no numbers, to see why: its batch, its seeds and the weights.

`not_finite_<step>/` in the run's folder holds `checkpoint/`, the state that the step met; for each worker whose
own loss was no number (or the first one, if none was) `batch_rank_<rank>.safetensors` with images and targets as the
model was given them, of each micro-batch; and `batch.json`, with the seeds that dropout drew from, the images' indices
and their labels. Nothing is pickled. `docs/faults.md` shows how to take the step again.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from dvt.data import DataSets, train_indices
from dvt.train.checkpoint import save_checkpoint
from dvt.train.errors import TrainingError
from dvt.train.position import Position, accum_steps, images_per_step
from dvt.train.scratch import scratch_folder
from dvt.train.step import Stepper, StepSums
from dvt.train.worker import Worker, gather

NAME = "not_finite"
MOST_WORKERS = 4  # whose batches are kept; they rarely tell more than the first


def check_passed_over(
    stepper: Stepper, sums: StepSums, data: DataSets, reached: Position, worker: Worker, keep: Callable[[Path], str]
) -> None:
    """End the run if too many steps in a row were passed over; called by all workers at a log.

    Args:
        stepper: With the state after them, which knows how many in a row they were.
        sums: Of the last ones.
        data: The images.
        reached: The position after the last step.
        worker: This process.
        keep: Copies a folder into the run's storage and returns its address there.

    Raises:
        TrainingError: If it ends.
    """
    limit, row = stepper.recipe.train.max_skipped_steps, stepper.state.skipped_in_a_row
    if row <= limit:
        return
    own = gather(bool(sums.passed_over.is_own), worker)
    ranks = [rank for rank, is_own in enumerate(own) if is_own][:MOST_WORKERS] or [0]
    with scratch_folder() as scratch:
        place = scratch / f"{NAME}_{stepper.state.step:09d}"
        if worker.rank == 0:
            _write(place, stepper, data, reached, ranks, worker.world_size)
        address = gather(keep(place) if worker.rank == 0 else "", worker)[0]
    raise TrainingError(
        f"at most {limit} steps in a row may have a loss or gradients that are no numbers (train.max_skipped_steps), "
        f"got {row} up to step {stepper.state.step}; look at the last one in {address}, and lower optimizer.lr, set "
        f"optimizer.clip_grad or mend the images"
    )


def _write(
    place: Path, stepper: Stepper, data: DataSets, reached: Position, ranks: Sequence[int], world_size: int
) -> None:
    """The last step before `reached`: as images follow from the position alone, they are read once more."""
    recipe, step = stepper.recipe, stepper.state.step - 1
    place.mkdir()
    save_checkpoint(place / "checkpoint", stepper.state, recipe, stepper.texts)
    plan = train_indices(
        data,
        epoch=reached.epoch,
        seen_images=reached.images - images_per_step(recipe, world_size),
        world_size=world_size,
        batch_size=recipe.train.micro_batch_size,
        seed=recipe.train.seed,
    )  # (micro-batches, workers, B)
    workers: dict[str, list[dict[str, Any]]] = {}
    for rank in ranks:
        tensors, told = dict[str, Tensor](), list[dict[str, Any]]()
        for index in range(accum_steps(recipe, world_size)):
            indices = plan[index, rank].tolist()
            batch = data.train.read(indices, epoch=reached.epoch, seed=recipe.train.seed)
            images, targets, seed = stepper.prepared(batch, index, step, rank)
            tensors |= {f"images_{index}": images.cpu().contiguous(), f"targets_{index}": targets.cpu().contiguous()}
            told.append({"seed": seed, "indices": indices, "labels": batch.labels.tolist()})
        save_file(tensors, place / f"batch_rank_{rank:04d}.safetensors")
        workers[str(rank)] = told
    told_step = {"step": step, "epoch": reached.epoch, "world_size": world_size, "workers": workers}
    (place / "batch.json").write_text(json.dumps(told_step, indent=1), encoding="utf-8")
