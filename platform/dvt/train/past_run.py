"""A run that was trained before: its folder, which of its checkpoints is the best, and that one on this machine.

Read from files alone, so that no cluster is needed: `checkpoint_manager_snapshot.json` is Ray Train's own list.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvt.data.s3_client import open_filesystem
from dvt.data.s3_failures import STORAGE_FAILURES, why_failed
from dvt.train.errors import CheckpointError
from dvt.train.loop import BEST_METRIC
from dvt.train.scratch import scratch_folder
from dvt.train.storage import RECIPE, RunFolder

CHECKPOINTS = "checkpoints"
# What Ray Train is told of a checkpoint that no accuracy was measured of: below any, and finite, as Ray Train 2.60
# writes null for what is not, and then cannot go on.
UNMEASURED = -1.0
ROWS = "rows"  # of a report, beside what was measured with the checkpoint that it is of
SNAPSHOT = "checkpoint_manager_snapshot.json"  # as Ray Train 2.60 writes it
SAVED_SNAPSHOT = "checkpoints.json"  # in the run's folder, Ray Train's list as it was last whole


@dataclass(frozen=True, kw_only=True)
class KeptCheckpoint:
    """A checkpoint that a run keeps, and what was measured on it."""

    address: str  # of its folder
    step: int  # optimizer updates
    is_best: bool  # whether its calibration accuracy, averaged over exits, is the highest
    metrics: Mapping[str, float]  # as reported with it


def find_past_run(address: str) -> RunFolder | None:
    """The folder of a run that was started before; None where there is none.

    Args:
        address: A path or an `s3://` address, as the run printed it.

    Raises:
        CheckpointError: If the storage cannot be reached.
    """
    return find_past_folder(address, RECIPE)


def find_past_folder(address: str, file: str) -> RunFolder | None:
    """A folder that holds the file with what was asked for; None where there is none.

    Args:
        address: A path or an `s3://` address.
        file: Its name.

    Raises:
        CheckpointError: If the storage cannot be reached.
    """
    try:
        filesystem, path = open_filesystem(address)
        folder = RunFolder(filesystem, path.rstrip("/"), path.rstrip("/").rpartition("/")[2])
        return folder if folder.has(file) else None
    except STORAGE_FAILURES as error:
        raise CheckpointError(f"the run's storage must be readable, got {address} ({why_failed(error)})") from error


@contextmanager
def best_checkpoint(folder: RunFolder) -> Iterator[Path]:
    """The run's best checkpoint as a local folder while the context lasts: copied here if it is in a bucket.

    Raises:
        CheckpointError: If the run has none yet, or it cannot be read.
    """
    with local_checkpoint(folder, best_name(folder)) as place:
        yield place


@contextmanager
def local_checkpoint(folder: RunFolder, name: str) -> Iterator[Path]:
    """A checkpoint of a run as a local folder while the context lasts: copied here if it is in a bucket.

    Raises:
        CheckpointError: If it cannot be read.
    """
    path = f"{folder.path}/{CHECKPOINTS}/{name}"
    if folder.is_local:
        yield Path(path)
        return
    with scratch_folder() as scratch:
        local = scratch / "checkpoint"
        try:
            folder.filesystem.get(f"{path}/", f"{local}/", recursive=True)
        except STORAGE_FAILURES as error:
            raise CheckpointError(
                f"{folder.filesystem.unstrip_protocol(path)} must be readable, got: {why_failed(error)}"
            ) from error
        yield local


def best_name(folder: RunFolder) -> str:
    """The checkpoint with the highest calibration accuracy, averaged over exits; those within epochs have none."""
    place = f"{folder.address}/{CHECKPOINTS}/{SNAPSHOT}"
    if not folder.has(f"{CHECKPOINTS}/{SNAPSHOT}"):
        raise CheckpointError(f"run {folder.address} must have a checkpoint, got none; train it to the end first")
    try:
        results = json.loads(folder.read(f"{CHECKPOINTS}/{SNAPSHOT}"))["checkpoint_results"]
        best = max(results, key=lambda result: float(result["metrics"][BEST_METRIC]))
        name, score = str(best["checkpoint_dir_name"]), float(best["metrics"][BEST_METRIC])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{place} must list the run's checkpoints, got a file that cannot be read") from error
    if score == UNMEASURED:
        raise CheckpointError(f"run {folder.address} must have ended an epoch, got none; train it to the end first")
    return name


def kept_checkpoints(folder: RunFolder) -> tuple[KeptCheckpoint, ...]:
    """The checkpoints that a run keeps, the last and the best, by step; one where both are the same.

    Raises:
        CheckpointError: If Ray Train's list of them cannot be read.
    """
    place = f"{CHECKPOINTS}/{SNAPSHOT}"
    try:
        snapshot = json.loads(folder.read(place))
        results = [*snapshot["checkpoint_results"], snapshot["latest_checkpoint_result"]]
        found = {str(each["checkpoint_dir_name"]): each["metrics"] for each in results if each is not None}
        best = max(found, key=lambda name: float(found[name][BEST_METRIC]), default=None)
        kept = [
            KeptCheckpoint(
                address=f"{folder.address}/{CHECKPOINTS}/{name}",
                step=int(metrics["step"]),
                is_best=name == best and metrics[BEST_METRIC] != UNMEASURED,
                metrics=metrics_of(metrics),
            )
            for name, metrics in found.items()
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{folder.address}/{place} must list the run's checkpoints, got a file that cannot be read"
        ) from error
    return tuple(sorted(kept, key=lambda each: each.step))


def last_report(folder: RunFolder) -> Mapping[str, Any] | None:
    """What was reported with the last checkpoint that a run keeps; None if that is not known."""
    restore_snapshot(folder)
    if not folder.has(f"{CHECKPOINTS}/{SNAPSHOT}"):
        return None
    try:
        last = json.loads(folder.read(f"{CHECKPOINTS}/{SNAPSHOT}"))["latest_checkpoint_result"]
        metrics: dict[str, Any] = last["metrics"]
    except (ValueError, KeyError, TypeError):  # `remove_orphans` tells it, before training goes on
        return None
    return metrics if ROWS in metrics else None


def metrics_of(report: Mapping[str, Any]) -> dict[str, float]:
    """What was measured when a checkpoint was reported, from the report."""
    return {
        name: float(value)
        for name, value in report.items()
        if name not in ("step", "time_ms", ROWS) and (name, value) != (BEST_METRIC, UNMEASURED)
    }


def keep_snapshot(folder: RunFolder) -> None:
    """Save Ray Train's list of checkpoints beside them, where a run writes it into a folder of a disk.

    Ray Train 2.60 writes it in place: a kill or a full disk at that moment leaves half of it, and a run that cannot go
    on. It removes older checkpoints only after the write, so all that the saved list names are still there then.
    """
    if folder.is_local:  # an object appears in a bucket when it is complete
        folder.write(SAVED_SNAPSHOT, folder.read(f"{CHECKPOINTS}/{SNAPSHOT}"))


def restore_snapshot(folder: RunFolder) -> None:
    """Put the saved list of checkpoints back if Ray Train's own was cut off while it was written."""
    place = f"{CHECKPOINTS}/{SNAPSHOT}"
    if not folder.is_local or not folder.has(place) or _is_json(folder.read(place)):
        return
    if folder.has(SAVED_SNAPSHOT):
        folder.write(place, folder.read(SAVED_SNAPSHOT))
    else:  # it was the first
        folder.filesystem.rm(f"{folder.path}/{place}")


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def remove_orphans(folder: RunFolder) -> None:
    """Remove checkpoints whose writer died: Ray Train neither lists nor removes them. Nobody may be writing one."""
    path, filesystem = f"{folder.path}/{CHECKPOINTS}", folder.filesystem
    if not filesystem.exists(path):
        return
    kept = _committed(folder) if folder.has(f"{CHECKPOINTS}/{SNAPSHOT}") else set()
    for entry in filesystem.ls(path, detail=False):
        name = entry.rstrip("/").split("/")[-1]
        if name.startswith("checkpoint_") and name != SNAPSHOT and name not in kept:
            filesystem.rm(entry, recursive=True)


def _committed(folder: RunFolder) -> set[str]:
    """Names of the checkpoint folders that Ray Train knows to be complete."""
    try:
        snapshot = json.loads(folder.read(f"{CHECKPOINTS}/{SNAPSHOT}"))
        results = [*snapshot["checkpoint_results"], snapshot["latest_checkpoint_result"]]
        return {result["checkpoint_dir_name"] for result in results if result is not None}
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{folder.address}/{CHECKPOINTS}/{SNAPSHOT} must list the run's checkpoints, got a file that cannot be "
            f"read; restore it, or choose a new run.name and set train.init_from to one of the folders beside it"
        ) from error
