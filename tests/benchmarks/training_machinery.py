"""What the machinery around the training loop costs: Ray Train, checkpoints, and the way from submission to first step.

By hand: PYTHONPATH=platform python -m tests.benchmarks.training_machinery [--only ratio|checkpoint|start] [--rounds 5].

`ratio`: the same loop, model, batch and threads on two processes, under Ray Train and under torchrun, taking turns;
steps a second from the first row of metrics to the last, reporting and all. A third side is torchrun beside a Ray that
does nothing, which tells what Ray's own processes take from cores that are all busy. Beside the clock it tells the
processor time of a worker's step, which weighs less what else the machine does. `checkpoint`: one run on two processes
under Ray Train, in stretches with a row of metrics in the middle; every other one has a checkpoint there. `start`: a
job submitted to a cluster of its own, with the time of each part of its way.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from dvt.cli.cluster import connected
from dvt.config import Recipe, load_recipe, recipe_from_dict, to_dict
from dvt.data import DataSets, open_data
from dvt.train.loop import Reporter, Worker, train_cascade
from dvt.train.ray_train import train_on_cluster
from dvt.train.storage import open_run_folder
from tests.benchmarks.first_step import print_way_to_first_step
from tests.integration.cluster import ray_environment, running_cluster

ROOT = Path(__file__).resolve().parents[2]
NUM_WORKERS = 2
SLOWEST, DEAREST = 0.98, 0.01  # steps a second beside torchrun; share of an epoch that a checkpoint may cost
TORCHRUN, BESIDE, RAY = "torchrun", "torchrun beside an idle Ray", "Ray Train"


@dataclass
class Recording:
    """A `Reporter` that notes when rows are told, then hands them on."""

    inner: Reporter
    rows: list[tuple[int, float, float, bool]] = field(default_factory=list)

    def latest(self) -> AbstractContextManager[Path | None]:
        return self.inner.latest()

    def report(self, metrics: Mapping[str, float], step: int, checkpoint: Path | None) -> None:
        if "epoch" not in metrics:
            self.rows.append((step, time.perf_counter(), time.process_time(), checkpoint is not None))
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
    """`train_cascade`, with the first worker's rows kept as JSON."""
    recording = Recording(reporter)
    train_cascade(recipe, data, worker, recording)
    if worker.rank == 0:
        out.write_text(json.dumps(recording.rows))


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


def run(side: str, recipe: Recipe) -> list[tuple[int, float, float, bool]]:
    """Train on one of the three sides; the rows that the first worker told."""
    with tempfile.TemporaryDirectory(prefix="dvt-machinery-") as name:
        out, asked = Path(name, "rows.json"), Path(name, "recipe.json")
        stored = replace(recipe, run=replace(recipe.run, storage_path=f"{name}/runs"))
        asked.write_text(json.dumps(to_dict(stored)))
        this = ("-m", "tests.benchmarks.training_machinery", "--side", side, str(asked), str(out))
        torchrun = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={recipe.cluster.num_workers}")
        env = ray_environment(Path(name)) | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "platform")}
        command = [sys.executable, *(() if side == RAY else torchrun), *this]
        with running_cluster(num_cpus=NUM_WORKERS) if side == BESIDE else nullcontext():
            done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        return [tuple(row) for row in json.loads(out.read_text())]


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


def ratio(rounds: int, steps: int, rows: int, width: int, num_workers: int) -> None:
    """Steps a second under Ray Train beside those under torchrun."""
    recipe = make_recipe(steps, rows, width, num_workers, None)
    rates: dict[str, list[tuple[float, float]]] = {TORCHRUN: [], BESIDE: [], RAY: []}
    for index in range(rounds):
        for side in list(rates) if index % 2 == 0 else reversed(rates):
            first, *_, last = run(side, recipe)
            taken = last[0] - first[0]
            rates[side].append((taken / (last[1] - first[1]), taken / (last[2] - first[2])))
            print(
                f"  {side}: {rates[side][-1][0]:.2f} steps/s, {1e3 / rates[side][-1][1]:.1f} ms CPU a step", flush=True
            )
    for one, other in ((RAY, TORCHRUN), (RAY, BESIDE), (BESIDE, TORCHRUN)):
        for place, name in enumerate(("by the clock", "by a worker's processor time")):
            ratios = [mine[place] / its[place] for mine, its in zip(rates[one], rates[other], strict=True)]
            spread = f"from {min(ratios):.3f} to {max(ratios):.3f}"
            bar = f" (bar {SLOWEST})" if (one, other) == (RAY, TORCHRUN) else ""
            print(f"{one} / {other}, {name}: {statistics.median(ratios):.3f}, {spread}{bar}")


def checkpoint(pairs: int, steps: int, width: int) -> None:
    """What a checkpoint costs the loop: stretches of `steps` with one in the middle beside those before them."""
    half = steps // 2
    rows = run(RAY, make_recipe(half, 4 * pairs + 2, width, NUM_WORKERS, 4 * half))
    told_s = {step // half: at for step, at, _, _ in rows}  # the odd ones bound stretches
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
    parser.add_argument("--steps", type=int, default=50, help="of a row of `ratio`")
    parser.add_argument("--rows", type=int, default=5, help="of a round of `ratio`")
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
        "ratio": partial(ratio, asked.rounds, asked.steps, asked.rows, asked.width, asked.workers),
        "checkpoint": partial(checkpoint, asked.rounds, asked.epoch_steps, asked.width),
        "start": partial(print_way_to_first_step, asked.rounds),
    }
    for name, part in parts.items():
        if asked.only in (None, name):
            part()


if __name__ == "__main__":
    main()
