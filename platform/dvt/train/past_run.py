"""A run that was trained before: its folder, which of its checkpoints is the best, and that one on this machine.

Read from files alone, so that no cluster is needed: `checkpoint_manager_snapshot.json` is Ray Train's own list.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import fsspec

from dvt.train.errors import CheckpointError
from dvt.train.loop import BEST_METRIC
from dvt.train.storage import RECIPE, RunFolder

CHECKPOINTS = "checkpoints"
SNAPSHOT = "checkpoint_manager_snapshot.json"  # as Ray Train 2.60 writes it


def find_past_run(address: str) -> RunFolder | None:
    """The folder of a run that was started before; None where there is none.

    Args:
        address: A path or an `s3://` address, as the run printed it.

    Raises:
        CheckpointError: If the storage cannot be reached.
    """
    try:
        filesystem, path = fsspec.core.url_to_fs(address, use_listings_cache=False)
        folder = RunFolder(filesystem, path.rstrip("/"), path.rstrip("/").rpartition("/")[2])
        return folder if folder.has(RECIPE) else None
    except (OSError, ImportError, ValueError) as error:
        raise CheckpointError(f"the run's storage must be readable, got {address} ({error})") from error


@contextmanager
def best_checkpoint(folder: RunFolder) -> Iterator[Path]:
    """The run's best checkpoint as a local folder while the context lasts: copied here if it is in a bucket.

    Raises:
        CheckpointError: If the run has none yet, or it cannot be read.
    """
    path = f"{folder.path}/{CHECKPOINTS}/{_best_name(folder)}"
    if folder.is_local:
        yield Path(path)
        return
    with TemporaryDirectory(prefix="dvt-") as scratch:
        local = Path(scratch) / "checkpoint"
        try:
            folder.filesystem.get(f"{path}/", f"{local}/", recursive=True)
        except OSError as error:
            raise CheckpointError(
                f"{folder.filesystem.unstrip_protocol(path)} must be readable, got: {error}"
            ) from error
        yield local


def _best_name(folder: RunFolder) -> str:
    """The checkpoint with the highest calibration accuracy, averaged over exits."""
    place = f"{folder.address}/{CHECKPOINTS}/{SNAPSHOT}"
    if not folder.has(f"{CHECKPOINTS}/{SNAPSHOT}"):
        raise CheckpointError(f"run {folder.address} must have a checkpoint, got none; train it to the end first")
    try:
        results = json.loads(folder.read(f"{CHECKPOINTS}/{SNAPSHOT}"))["checkpoint_results"]
        best = max(results, key=lambda result: float(result["metrics"][BEST_METRIC]))
        return str(best["checkpoint_dir_name"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{place} must list the run's checkpoints, got a file that cannot be read") from error
