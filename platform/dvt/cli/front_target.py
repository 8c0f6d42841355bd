"""What `dvt front` is asked about: a run by its MLflow id or its folder, or a checkpoint folder."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dvt.config import ConfigError, Problem
from dvt.exits import FrontReport
from dvt.tracking import RunRecord, tracking_address
from dvt.tracking.address import VARIABLE
from dvt.tracking.front_files import front_report_of
from dvt.tracking.lookup import find_run, run_folder_of
from dvt.train.checkpoint import STATE
from dvt.train.errors import CheckpointError
from dvt.train.past_run import best_checkpoint, find_past_run
from dvt.train.storage import RUN, RunFolder

FRONT = "front"
_RUN_ID = re.compile(r"[0-9a-f]{32}")
_ARGUMENT = "RUN_OR_CHECKPOINT"


@dataclass(frozen=True)
class Target:
    """Where the weights are, and where the front belongs."""

    checkpoint: Path  # a local folder
    folder: RunFolder | None  # of the run; None for a checkpoint on its own
    record: RunRecord | None  # the MLflow run to record the front with; None records nothing

    def earlier_report(self) -> FrontReport | None:
        """The report that the run made at its end, if it came so far.

        Raises:
            CheckpointError: If its file holds something else.
        """
        name = f"{FRONT}/front.json"
        if self.folder is None or not self.folder.has(name):
            return None
        try:
            return front_report_of(self.folder.read(name), f"{self.folder.address}/{name}")
        except ValueError as error:
            raise CheckpointError(f"{error}; remove it to do without its static reference") from error


@contextmanager
def open_target(what: str, tracking_uri: str | None, is_recorded: bool) -> Iterator[Target]:
    """Find what was asked for; its checkpoint lies on this machine while the context lasts.

    Args:
        what: A run's id or folder, or a checkpoint folder.
        tracking_uri: What was typed behind `--tracking-uri`.
        is_recorded: Whether the front is to be recorded in MLflow.

    Raises:
        CheckpointError: If the run has no checkpoint that can be read.
        ConfigError: If it is none of these.
        TrackingError: If MLflow does not know the run.
    """
    if (Path(what) / STATE).is_file():
        yield Target(Path(what), folder=None, record=None)
        return
    record: RunRecord | None = None
    folder: RunFolder | None
    if _RUN_ID.fullmatch(what) and not Path(what).exists():
        record = find_run(tracking_address(tracking_uri), what)
        folder = _folder_of(record)
    else:
        folder = find_past_run(what)
        if folder is None:
            rule = f"must be a run's id or folder, or a checkpoint folder, got {what!r}, which is none of them"
            raise ConfigError([Problem(_ARGUMENT, rule)])
        if is_recorded and folder.has(RUN):
            record = _record_in(folder, tracking_uri)
    with best_checkpoint(folder) as checkpoint:
        yield Target(checkpoint, folder, record if is_recorded else None)


def _folder_of(record: RunRecord) -> RunFolder:
    address = run_folder_of(record)
    folder = find_past_run(address)
    if folder is None:
        raise CheckpointError(
            f"run {record.run_id} must have its folder at {address}, got none there; give the folder or a checkpoint"
        )
    return folder


def _record_in(folder: RunFolder, tracking_uri: str | None) -> RunRecord:
    """The MLflow run that a run's folder names, at the address that counts today."""
    kept = RunRecord.from_json(folder.read(RUN))
    is_told = tracking_uri is not None or os.environ.get(VARIABLE, "").strip()
    return find_run(tracking_address(tracking_uri) if is_told else kept.tracking_uri, kept.run_id)
