"""One trial: a candidate trained to the end or until it is stopped, with its front measured after each epoch.

A trial's folder holds `epochs/<epoch>.json`, what it was worth then, and its checkpoints. A trial that is run again
goes on from the last one: nothing that was measured is lost, and at most one epoch is trained twice.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from dvt.config import Recipe
from dvt.config.logs import bind
from dvt.data import open_data
from dvt.exits import ExitScores
from dvt.inference import measure_latency
from dvt.models import Cascade, macs_per_exit
from dvt.search.choices import BudgetRange
from dvt.search.objective import EpochFront, validation_front
from dvt.train.folder_reporter import FolderReporter, last_checkpoint, last_epoch
from dvt.train.loop import train_cascade
from dvt.train.past_run import best_name, last_report
from dvt.train.storage import RUN, RunFolder
from dvt.train.worker import Worker

logger = logging.getLogger(__name__)

EPOCHS, COSTS = "epochs", "costs.json"
Report = Callable[[Mapping[str, float]], None]


def trial_folder(search: RunFolder, number: int) -> RunFolder:
    """The folder of a trial below its search's; not held by a process, so that it can be sent to another."""
    return replace(search.child(f"trials/{number:04d}"), lock=None)


def tell_logs(folder: RunFolder, number: int) -> None:
    """Have this process's log records name the trial, and the MLflow run that the driver opened for it."""
    run_id = str(json.loads(folder.read(RUN))["run_id"]) if folder.has(RUN) else None
    bind(trial=number, run_id=run_id, step=None)
    logger.info("the trial begins on this node, or goes on")


def read_epochs(folder: RunFolder) -> tuple[EpochFront, ...]:
    """What a trial was worth after each epoch so far."""
    place = f"{folder.path}/{EPOCHS}"
    if not folder.filesystem.exists(place):
        return ()
    names = sorted(path.rpartition("/")[2] for path in folder.filesystem.ls(place, detail=False))
    return tuple(_read_epoch(folder, name) for name in names if name.endswith(".json"))


def is_trained(folder: RunFolder, epochs: int) -> bool:
    """Whether a trial's checkpoint of its last epoch is kept, which is measured before."""
    return (last_epoch(folder) or (last_report(folder) or {}).get("epoch")) == epochs


def metrics_of(epoch: EpochFront) -> dict[str, float]:
    """What a searcher and a scheduler are told of an epoch."""
    return {name: getattr(epoch, name) for name in ("epoch", "hypervolume", "top1", "cost", "train_s")}


class FrontKeeper:
    """Makes a front of each epoch's scores and keeps it in the trial's folder; the loop's `OnScores`.

    Args:
        folder: The trial's.
        recipe: The candidate.
        budgets: Those that count.
        costs: (E,), what an image costs that leaves at each exit, in the budgets' unit.
        budget: At which top-1 and mean cost are told; None is the largest.
    """

    def __init__(
        self,
        folder: RunFolder,
        recipe: Recipe,
        budgets: BudgetRange,
        costs: Sequence[float],
        budget: float | None = None,
    ) -> None:
        self._folder = folder
        self._num_workers = recipe.cluster.most_workers
        self._budgets = budgets
        self._costs = tuple(costs)
        self._budget = budget
        past = read_epochs(folder)
        self._spent_s = past[-1].train_s if past else 0.0
        self._asked: float | None = None

    def __call__(self, scores: ExitScores, epoch: int) -> dict[str, float]:
        """The epoch's metrics, kept with its front."""
        now = time.time()
        if self._asked is not None:
            self._spent_s += (now - self._asked) * self._num_workers
        self._asked = now
        front = validation_front(scores, self._costs)
        measured = EpochFront.of(front, self._budgets, epoch=epoch, train_s=self._spent_s, budget=self._budget)
        self._folder.filesystem.makedirs(f"{self._folder.path}/{EPOCHS}", exist_ok=True)
        self._folder.write(f"{EPOCHS}/{epoch:05d}.json", json.dumps(measured.to_dict()))
        return metrics_of(measured)

    def start_clock(self) -> "FrontKeeper":
        """Count seconds from now on."""
        self._asked = time.time()
        return self


def exit_costs(recipe: Recipe, budgets: BudgetRange, folder: RunFolder, name: str = COSTS) -> tuple[float, ...]:
    """What an image costs that leaves at each exit, (E,): multiply-adds, or milliseconds of an image by itself.

    Milliseconds are measured here, once a cascade: they are kept in the folder, under the name.
    """
    if budgets.unit == "macs":
        return tuple(map(float, macs_per_exit(recipe.cascade)))
    if not folder.has(name):
        profile = measure_latency(Cascade(recipe.cascade).to(trial_device(recipe)), batch_sizes=(1,))
        folder.write(name, json.dumps([1000 * seconds for seconds in profile.seconds_per_exit(1)]))
    return tuple(map(float, json.loads(folder.read(name))))


def trial_device(recipe: Recipe) -> torch.device:
    """Where a worker of a trial computes."""
    return torch.device("cuda" if recipe.cluster.use_gpu else "cpu")


def train_alone(recipe: Recipe, folder: RunFolder, keeper: FrontKeeper, report: Report) -> None:
    """Train a trial of one worker in this process, from its last checkpoint on.

    Args:
        recipe: The candidate.
        folder: The trial's.
        keeper: Measures each epoch.
        report: Told each epoch's metrics once its checkpoint is kept; may end the process.
    """
    bind(rank=0, world_size=1)
    data = open_data(recipe.data, recipe.cascade)
    reporter = FolderReporter(folder, lambda metrics, step: report(metrics) if "hypervolume" in metrics else None)
    train_cascade(recipe, data, Worker(trial_device(recipe)), reporter, keeper.start_clock())


def checkpoint_name(folder: RunFolder) -> str:
    """The checkpoint that a finished trial is measured by: its last, or the best where Ray Train keeps them.

    Raises:
        CheckpointError: If it has none.
    """
    return last_checkpoint(folder) or best_name(folder)


def _read_epoch(folder: RunFolder, name: str) -> EpochFront:
    tree: dict[str, Any] = json.loads(folder.read(f"{EPOCHS}/{name}"))
    return EpochFront.from_dict(tree)
