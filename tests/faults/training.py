"""A training run on a cluster of hosts that faults are done to, and what its steps tell of it."""

import itertools
import json
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from tests.integration.cluster import ROOT
from tests.integration.hosts import RayHost
from tests.integration.site import BUCKET, DIGITS, Site

NUM_WORKERS = 3
EVERY = 5  # steps from a checkpoint to the next
WAIT_S = 600
LOSS, TOP1 = "train/loss", "calibration/top1_mean"


@dataclass(frozen=True)
class Length:
    """Of a run: its epochs, and the micro-batches of each worker in a step."""

    epochs: int
    micro_batches: int = 1

    def __str__(self) -> str:
        return f"{self.epochs} epochs of steps of {self.micro_batches}"


SHORT = Length(3)  # 42 steps
LONG = Length(12)  # 168 steps
# 80 steps, each seven times as long, for faults that take minutes. No more: rounding, which is another with another
# number of workers, changes an accuracy by 0.007 in 100 steps, and by 0.03 in 560.
SLOW = Length(40, 7)


@dataclass(frozen=True)
class Row:
    """A step as MLflow has it."""

    step: int
    time_s: float


@dataclass(frozen=True)
class Course:
    """What a run's steps tell of a fault.

    Attributes:
        pause_s: The longest time without a step from the fault on, less the usual time of a step.
        steps_lost: Steps that were taken twice.
    """

    pause_s: float
    steps_lost: int


def course(rows: Sequence[Row], fault_s: float) -> Course:
    """Read it from the steps of a run, in the order that they were told.

    Args:
        rows: The steps; those that a restart repeated stand there twice.
        fault_s: When the fault was done.
    """
    pairs = list(itertools.pairwise(rows))
    pauses = sorted(after.time_s - before.time_s for before, after in pairs)
    usual = pauses[len(pauses) // 2]
    longest = max((after.time_s - before.time_s for before, after in pairs if after.time_s >= fault_s), default=usual)
    highest, lost = 0, 0
    for row in rows:
        lost += row.step <= highest
        highest = max(highest, row.step)
    return Course(max(longest - usual, 0.0), lost)


@dataclass
class Training:
    """One run, submitted as a job; run again by the same command."""

    site: Site
    name: str
    words: tuple[str, ...] = ()
    length: Length = SHORT
    logs: list[Path] = field(default_factory=list)
    process: "subprocess.Popen[str] | None" = None

    def submit(self) -> None:
        """Submit the job, as a user does; the process lasts as long as the job."""
        cluster = self.site.hosts.cluster
        command = [
            *(str(cluster.python), "-m", "ray.scripts.scripts", "job", "submit", "--address", cluster.jobs_address),
            *("--working-dir", ".", "--", "jobs/train_imagenet.py", "--recipe", "jobs/recipes/embedded.yaml", *DIGITS),
            *("--run.name", self.name, "--cluster.num-workers", str(NUM_WORKERS)),
            *("--optimizer.epochs", str(self.length.epochs)),
            *("--train.grad-accum-steps", str(self.length.micro_batches)),
            *("--train.checkpoint-every-steps", str(EVERY), "--train.log-every-steps", "1"),
            *("--run.is-registered", "false", "--exits.static-reference", "false", *self.words),
        ]  # fmt: skip
        with tempfile.NamedTemporaryFile("w", suffix=".log", dir=cluster.folder, delete=False) as log:
            self.logs.append(Path(log.name))
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=cluster.env, stdout=log, stderr=subprocess.STDOUT, text=True
            )

    @property
    def text(self) -> str:
        """What the newest job printed."""
        return self.logs[-1].read_text()

    def ended(self, meanwhile: Callable[[], None] = lambda: None) -> int:
        """Wait for the job's end, doing something again and again meanwhile; its exit code."""
        assert self.process is not None
        end = time.monotonic() + WAIT_S
        while self.process.poll() is None:
            assert time.monotonic() < end, f"the job did not end in {WAIT_S} s:\n{self.text}"
            meanwhile()
            time.sleep(0.2)
        return self.process.returncode

    def wait_for(self, is_so: Callable[[], bool], what: str) -> None:
        """Wait until something is so, while the job runs."""
        assert self.process is not None
        end = time.monotonic() + WAIT_S
        while not is_so():
            assert self.process.poll() is None, f"the job ended before {what}:\n{self.text}"
            assert time.monotonic() < end, f"{what} did not come in {WAIT_S} s:\n{self.text}"
            time.sleep(0.2)

    def wait_for_step(self, step: int) -> None:
        """Wait until a step was told."""
        self.wait_for(lambda: any(row.step >= step for row in self.rows()), f"step {step}")

    def rows(self) -> list[Row]:
        """The steps so far, in the order that they were told."""
        return sorted(
            (Row(each.step, each.timestamp / 1000) for each in self._points(LOSS)), key=lambda row: row.time_s
        )

    def highest(self, metric: str) -> float:
        """The highest value of a metric so far; 0 before the first."""
        return max((each.value for each in self._points(metric)), default=0.0)

    def last(self, metric: str) -> float:
        """The newest value of a metric."""
        return max(self._points(metric), key=lambda each: each.timestamp).value

    def results(self) -> dict[str, float]:
        """The last loss, the last accuracy in training, and that of the test images at each exit."""
        run_id = self._run_id()
        assert run_id is not None
        metrics = MlflowClient(tracking_uri=self.site.tracking_uri).get_run(run_id).data.metrics
        measured = {name: value for name, value in metrics.items() if name.startswith("test/exit_")}
        return {LOSS: metrics[LOSS], TOP1: metrics[TOP1], **dict(sorted(measured.items()))}

    def files(self, start: str) -> list[str]:
        """The files of the run in the bucket whose names start with `start`."""
        client = self.site.s3.client()
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"runs/{self.name}/{start}")
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", ())]
        client.close()
        return keys

    def worker(self, rank: int) -> tuple[RayHost, int]:
        """The host of a worker, and its process as that host counts processes."""
        address, process = self.workers()[rank]
        (ray_host,) = (host for host in self.site.hosts.hosts if host.address == address)
        return ray_host, process

    def workers(self) -> dict[int, tuple[str, int]]:
        """By rank the address of a worker's host, and its process there."""
        cluster = self.site.hosts.cluster
        request = urllib.request.Request(
            f"{cluster.jobs_address}/api/train/v2/runs/v1",
            headers={"Authorization": f"Bearer {cluster.env['RAY_AUTH_TOKEN']}"},
        )
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(request, timeout=30) as answer:
            runs: list[dict[str, Any]] = json.load(answer)["train_runs"]
        newest = max(runs, key=lambda run: run["start_time_ns"])
        attempt = max(newest["attempts"], key=lambda each: each["start_time_ns"])
        return {each["world_rank"]: (each["node_ip"], each["pid"]) for each in attempt["workers"]}

    def _run_id(self) -> str | None:
        client = MlflowClient(tracking_uri=self.site.tracking_uri)
        experiment = client.get_experiment_by_name("dvt")
        if experiment is None:
            return None
        found = client.search_runs([experiment.experiment_id], f"tags.`mlflow.runName` = '{self.name}'")
        return found[0].info.run_id if found else None

    def _points(self, metric: str) -> list[Metric]:
        run_id = self._run_id()
        if run_id is None:
            return []
        try:
            return MlflowClient(tracking_uri=self.site.tracking_uri).get_metric_history(run_id, metric)
        except MlflowException:
            return []
