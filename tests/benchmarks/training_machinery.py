"""What the machinery around the training loop costs: Ray Train, checkpoints, and the way from submission to first step.

By hand: PYTHONPATH=platform python -m tests.benchmarks.training_machinery [--only ratio|checkpoint|start] [--rounds 5].

`ratio`: the same loop, model, batch and threads on two processes, under Ray Train and under torchrun, which take turns
of seconds; steps a second, reporting and all. A third turn is torchrun's beside all of the Ray run but its workers,
which tells what Ray's other processes take from cores that are all busy. Beside the clock it tells the processor time
of a worker's step. `checkpoint`: one run on two processes under Ray Train, in stretches with a row of metrics in the
middle; every other one has a checkpoint there. `start`: a job submitted to a cluster of its own, with the time of each
part of its way.
"""

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

import psutil
import torch
from torch import distributed

from dvt.cli.cluster import connected
from dvt.config import Recipe, load_recipe, recipe_from_dict, to_dict
from dvt.data import DataSets, open_data
from dvt.train.loop import Reporter, Worker, train_cascade
from dvt.train.ray_train import train_on_cluster
from dvt.train.storage import open_run_folder
from tests.benchmarks.first_step import print_way_to_first_step
from tests.benchmarks.taking_turns import ROOT, family, started, take_turns
from tests.integration.cluster import ray_environment

NUM_WORKERS = 2
SLOWEST, DEAREST = 0.98, 0.01  # steps a second beside torchrun; share of an epoch that a checkpoint may cost
MOST_STEPS_PER_S = 20  # no side must come to its end
TORCHRUN, BESIDE, RAY = "torchrun", "torchrun beside Ray's processes", "Ray Train"


class Row(NamedTuple):
    """When a step was told, by the clock and by the first worker's processor time."""

    step: int
    at_s: float
    cpu_s: float


@dataclass
class Recording:
    """A `Reporter` that writes down when rows are told, then hands them on."""

    inner: Reporter
    rows: IO[str]

    def latest(self) -> AbstractContextManager[Path | None]:
        return self.inner.latest()

    def report(self, metrics: Mapping[str, float], step: int, checkpoint: Path | None) -> None:
        if "epoch" not in metrics:
            print(json.dumps([step, time.perf_counter(), time.process_time()]), file=self.rows, flush=True)
        self.inner.report(metrics, step, checkpoint)

    def keep(self, folder: Path) -> str:
        return self.inner.keep(folder)


class Nowhere:
    """Keeps nothing."""

    @contextmanager
    def latest(self) -> Iterator[Path | None]:
        yield None

    def report(self, metrics: Mapping[str, float], step: int, checkpoint: Path | None) -> None:
        """Tell nobody."""

    def keep(self, folder: Path) -> str:
        return "nowhere"

    def log_metrics(self, metrics: Mapping[str, float], step: int, time_ms: int | None = None) -> None:
        """Tell nobody."""

    def close(self) -> None:
        """Nothing is open."""


def recorded(out: Path, recipe: Recipe, data: DataSets, worker: Worker, reporter: Reporter) -> None:
    """`train_cascade`, with the first worker's rows written to a file, one on a line."""
    with (out if worker.rank == 0 else Path(os.devnull)).open("w") as rows:
        train_cascade(recipe, data, worker, Recording(reporter, rows))


def rows_in(out: Path) -> list[Row]:
    """What `recorded` has written so far."""
    text = out.read_text() if out.exists() else ""
    return [Row(*json.loads(line)) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def make_recipe(steps: int, rows: int, width: int, num_workers: int, checkpoint_every_steps: int | None) -> Recipe:
    """The embedded recipe as one epoch of `rows` rows of `steps` each."""
    recipe = load_recipe(ROOT / "jobs" / "recipes" / "embedded.yaml")
    images = steps * rows * recipe.train.micro_batch_size * recipe.train.grad_accum_steps * num_workers
    return replace(
        recipe,
        cascade=replace(recipe.cascade, embed_dim=width, num_heads=width // 32),
        data=replace(recipe.data, train_images=images, calibration_images=64, test_images=64, loader_workers=0),
        optimizer=replace(recipe.optimizer, epochs=1, warmup_epochs=0, cooldown_epochs=0),
        train=replace(recipe.train, log_every_steps=steps, checkpoint_every_steps=checkpoint_every_steps),
        cluster=replace(recipe.cluster, num_workers=num_workers, use_gpu=False, cpus_per_worker=1),
    )


@contextmanager
def running(side: str, recipe: Recipe) -> Iterator[tuple[psutil.Process, Path]]:
    """Train on one of the two sides, while the context lasts; its process, and the file of the first worker's rows."""
    with tempfile.TemporaryDirectory(prefix="dvt-machinery-") as name:
        out, asked, log = Path(name, "rows"), Path(name, "recipe.json"), Path(name, "log")
        stored = replace(recipe, run=replace(recipe.run, storage_path=f"{name}/runs"))
        asked.write_text(json.dumps(to_dict(stored)))
        this = ("-m", "tests.benchmarks.training_machinery", "--side", side, str(asked), str(out))
        torchrun = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={recipe.cluster.num_workers}")
        env = ray_environment(Path(name)) | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "platform")}
        with started([sys.executable, *(() if side == RAY else torchrun), *this], env, log) as process:
            try:
                yield process, out
            except AssertionError:
                print(log.read_text()[-4000:], file=sys.stderr)
                raise


def one_side(side: str, asked: Path, out: Path) -> None:
    """This process's part of a training."""
    recipe = recipe_from_dict(json.loads(asked.read_text()))
    loop = partial(recorded, out)
    if side == RAY:
        with connected(recipe.cluster):
            train_on_cluster(recipe, open_run_folder(recipe, recipe.run), Nowhere, loop)
        return
    distributed.init_process_group("gloo")
    try:
        worker = Worker(torch.device("cpu"), distributed.get_rank(), distributed.get_world_size())
        loop(recipe, open_data(recipe.data, recipe.cascade), worker, Nowhere())
    finally:
        distributed.destroy_process_group()


def ratio(rounds: int, turn_s: float, steps: int, width: int, num_workers: int) -> None:
    """Steps a second under Ray Train beside those under torchrun."""
    rows = math.ceil(rounds * turn_s * MOST_STEPS_PER_S / steps)
    recipe = make_recipe(steps, rows, width, num_workers, None)
    with running(RAY, recipe) as (ray_train, ray_rows), running(TORCHRUN, recipe) as (torchrun, torch_rows):
        while not (rows_in(ray_rows) and rows_in(torch_rows)):
            assert all(each.status() != psutil.STATUS_ZOMBIE for each in (ray_train, torchrun)), "a side has ended"
            time.sleep(1)
        ray_only = partial(family, ray_train)
        torch_only = partial(family, torchrun)
        whose = {RAY: ray_only, BESIDE: lambda: torch_only() | _without_workers(ray_only()), TORCHRUN: torch_only}
        turns = take_turns(whose, rounds, turn_s)
        told = {RAY: rows_in(ray_rows), BESIDE: rows_in(torch_rows), TORCHRUN: rows_in(torch_rows)}
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in whose}
    for name, begun, ended in turns:
        within = [row for row in told[name] if begun < row.at_s < ended]
        assert len(within) > 1, (
            f"a turn must hold two rows: raise --turn-s from {turn_s:g} or lower --steps from {steps}"
        )
        first, last = within[0], within[-1]
        taken = last.step - first.step
        rates[name].append((taken / (last.at_s - first.at_s), taken / (last.cpu_s - first.cpu_s)))
    for name, both in rates.items():
        clock, cpu = (statistics.median(each[place] for each in both) for place in (0, 1))
        print(f"  {name}: {clock:.2f} steps/s, {1e3 / cpu:.1f} ms CPU a step")
    for one, other in ((RAY, TORCHRUN), (RAY, BESIDE), (BESIDE, TORCHRUN)):
        for place, name in enumerate(("by the clock", "by a worker's processor time")):
            ratios = [mine[place] / its[place] for mine, its in zip(rates[one], rates[other], strict=True)]
            error = statistics.stdev(ratios) / math.sqrt(rounds) if rounds > 1 else math.nan
            bar = f" (bar {SLOWEST})" if (one, other) == (RAY, TORCHRUN) else ""
            print(
                f"{one} / {other}, {name}: mean {statistics.mean(ratios):.3f} with a standard error of {error:.3f}, "
                f"median {statistics.median(ratios):.3f}, from {min(ratios):.3f} to {max(ratios):.3f}{bar}"
            )


def _without_workers(processes: set[psutil.Process]) -> set[psutil.Process]:
    return {each for each in processes if not each.cmdline()[0].startswith("ray::RayTrainWorker")}


def checkpoint(pairs: int, steps: int, width: int) -> None:
    """What a checkpoint costs the loop: stretches of `steps` with one in the middle beside those before them."""
    half = steps // 2
    recipe = make_recipe(half, 4 * pairs + 2, width, NUM_WORKERS, 4 * half)
    with running(RAY, recipe) as (process, out):
        assert process.wait() == 0, "the run has failed"
        told_s = {row.step // half: row.at_s for row in rows_in(out)}  # the odd ones bound stretches
    bounds = range(1, 4 * pairs, 4)
    without = [told_s[index + 2] - told_s[index] for index in bounds]
    costs = [told_s[index + 4] - told_s[index + 2] - free for index, free in zip(bounds, without, strict=True)]
    print(f"  {', '.join(f'{cost:+.3f}' for cost in costs)} s")
    epoch_s, cost = statistics.median(without), statistics.median(costs)
    print(
        f"a checkpoint costs {cost:.3f} s, from {min(costs):.3f} to {max(costs):.3f}: {100 * cost / epoch_s:.2f} % "
        f"of an epoch of {epoch_s:.1f} s (bar {100 * DEAREST:g} %)"
    )


def main() -> None:
    """Measure, and print a line for each bar."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("ratio", "checkpoint", "start"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="of a row of `ratio`")
    parser.add_argument("--turn-s", type=float, default=25, help="seconds of a turn of `ratio`")
    parser.add_argument("--epoch-steps", type=int, default=300, help="of a stretch of `checkpoint`")
    parser.add_argument("--workers", type=int, default=NUM_WORKERS, help="of `ratio`; one leaves Ray a core of two")
    parser.add_argument("--width", type=int, default=64, help="of the embedded cascade")
    parser.add_argument("--side", nargs=3, metavar=("SIDE", "RECIPE", "OUT"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.side is not None:
        one_side(asked.side[0], Path(asked.side[1]), Path(asked.side[2]))
        return
    load = os.getloadavg()[0]
    print(f"torch {torch.__version__}, {os.cpu_count()} cores, load {load:.1f}", flush=True)
    parts: dict[str, Any] = {
        "ratio": partial(ratio, asked.rounds, asked.turn_s, asked.steps, asked.width, asked.workers),
        "checkpoint": partial(checkpoint, asked.rounds, asked.epoch_steps, asked.width),
        "start": partial(print_way_to_first_step, asked.rounds),
    }
    for name, part in parts.items():
        if asked.only in (None, name):
            part()


if __name__ == "__main__":
    main()
