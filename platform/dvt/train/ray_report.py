"""How training workers report to Ray Train: metrics in order, and checkpoints that are uploaded while training goes on.

Ray Train 2.60 takes one report each time that it looks after the workers, every two seconds, and holds up whoever
reports more often. So rows that come closer are sent together, each with the time that it was measured at.

A checkpoint lies whole on the worker's disk before it is reported. A thread copies it to the run's storage; Ray Train
lists it once it is there, so a run never goes on from a part of one. No more than one is on its way: training waits for
it before it hands over the next, and before it ends in whichever way. A worker that is killed loses what came after the
last checkpoint that had arrived.
"""

import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from ray import train as ray_train
from ray.train import CheckpointUploadMode
from ray.train.v2._internal.constants import DEFAULT_HEALTH_CHECK_INTERVAL_S, HEALTH_CHECK_INTERVAL_S_ENV_VAR

from dvt.train.cost import ELAPSED
from dvt.train.errors import CheckpointError
from dvt.train.failures import not_kept
from dvt.train.loop import BEST_METRIC
from dvt.train.past_run import ROWS, UNMEASURED, last_report, metrics_of
from dvt.train.ray_checkpoint import local_copy
from dvt.train.scratch import scratch_folder
from dvt.train.sink import MetricSinkFactory
from dvt.train.storage import RunFolder

# A little longer than from one look of Ray Train's to the next.
SENT_EVERY_S = 1.25 * float(os.environ.get(HEALTH_CHECK_INTERVAL_S_ENV_VAR, DEFAULT_HEALTH_CHECK_INTERVAL_S))


class Row(TypedDict):
    """What was measured at a step, and when, in milliseconds since 1970."""

    metrics: dict[str, float]
    step: int
    time_ms: int


@dataclass
class _Upload:
    """A checkpoint on its way to the run's storage, and the folder that it lies in."""

    scratch: ExitStack = field(default_factory=ExitStack)
    ended: threading.Event = field(default_factory=threading.Event)
    failure: CheckpointError | None = None

    def end(self) -> None:
        """Remove the folder, and let those that wait for the upload go on."""
        self.scratch.close()
        self.ended.set()


class RayReporter:
    """The loop's `Reporter` over Ray Train's session, and the run's folder."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._held: list[Row] = []
        self._sent_s = float("-inf")  # by the first worker's clock, so that all send the same rows
        self._upload: _Upload | None = None  # of the last checkpoint

    @contextmanager
    def latest(self) -> Iterator[Path | None]:
        """The folder of the run's last checkpoint while the context lasts; None if there is none yet."""
        checkpoint = ray_train.get_checkpoint()
        if checkpoint is None:
            yield None
        else:
            with local_copy(checkpoint) as folder:
                yield folder

    def report(self, metrics: Mapping[str, float], step: int, checkpoint: Path | None) -> None:
        """Tell metrics, and take a checkpoint's folder away to upload it.

        Raises:
            CheckpointError: If the checkpoint before it could not be uploaded.
        """
        time_ms = time.time_ns() // 1_000_000
        if checkpoint is None:
            self._held.append(Row(metrics=dict(metrics), step=step, time_ms=time_ms))
            if metrics[ELAPSED] - self._sent_s >= SENT_EVERY_S:
                self._sent_s = metrics[ELAPSED]
                # Reports keep their order, so behind a checkpoint they wait for its upload: not here. Else they do wait
                # here for the one before to be taken, so that they never pile up.
                is_behind = self._upload is not None and not self._upload.ended.is_set()
                mode = CheckpointUploadMode.ASYNC if is_behind else CheckpointUploadMode.SYNC
                ray_train.report({ROWS: self._taken()}, checkpoint_upload_mode=mode)
            return
        self.join()
        # Of a checkpoint within an epoch no accuracy is measured. Without a score Ray Train 2.60 logs an error; with
        # this one it keeps it as the last one, and never in place of the best.
        told = {BEST_METRIC: UNMEASURED, **metrics, "step": step, "time_ms": time_ms, ROWS: self._taken()}
        if not checkpoint.exists():
            ray_train.report(told, checkpoint_upload_mode=CheckpointUploadMode.ASYNC)
            return
        upload = self._upload = _Upload()
        with ExitStack() as unless_handed_over:
            unless_handed_over.callback(upload.end)  # else nobody would end the wait for it
            mine = upload.scratch.enter_context(scratch_folder()) / checkpoint.name
            shutil.move(checkpoint, mine)  # what stays there is removed when this returns
            ray_train.report(
                told,
                checkpoint=ray_train.Checkpoint.from_directory(mine),
                checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
                checkpoint_upload_fn=lambda local, name: _keep(local, name, upload),
            )
            unless_handed_over.pop_all()

    def keep(self, folder: Path) -> str:
        """Copy a local folder into the run's own; returns its address there."""
        self._folder.put(folder)
        return f"{self._folder.address}/{folder.name}"

    def join(self) -> None:
        """Wait until the last checkpoint is in the run's storage.

        Raises:
            CheckpointError: If it could not be uploaded.
        """
        if self._upload is not None:
            self._upload.ended.wait()
            if self._upload.failure is not None:
                raise self._upload.failure

    def _taken(self) -> list[Row]:
        """The rows that were held, which are no longer."""
        rows, self._held = self._held, []
        return rows


def rows_of(report: Mapping[str, Any]) -> list[Row]:
    """The rows of one of a worker's reports, by time."""
    rows: list[Row] = list(report[ROWS])
    if "step" in report:  # it came with a checkpoint
        rows.append(Row(metrics=metrics_of(report), step=report["step"], time_ms=report["time_ms"]))
    return rows


def tell_last_rows(folder: RunFolder, make_sink: MetricSinkFactory) -> None:
    """Tell again what came with the last checkpoint of a run, as a driver that was killed just then may not have."""
    report = last_report(folder)
    if report is not None:
        with closing(make_sink()) as sink:
            for row in rows_of(report):
                sink.log_metrics(row["metrics"], row["step"], row["time_ms"])


def _keep(local: ray_train.Checkpoint, name: str, upload: _Upload) -> ray_train.Checkpoint:
    """Copy a checkpoint to the run's storage, and remove it here."""
    try:
        kept: ray_train.Checkpoint = ray_train.get_context().get_storage().persist_current_checkpoint(local, name)
    except OSError as error:
        upload.failure = not_kept(error)
        raise upload.failure from error
    finally:
        upload.end()
    return kept
