"""A `Reporter` for a training in this process alone: the last checkpoint lies in the run's folder, whole or not there.

`checkpoints/<step>/` is written first, on a disk under another name, then `latest.json`, which names it; then the one
before is removed. What a killed process or a full disk left of one is not named, and written anew.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from dvt.train.failures import not_kept
from dvt.train.past_run import CHECKPOINTS, local_checkpoint
from dvt.train.storage import RunFolder

LATEST = "latest.json"
OnMetrics = Callable[[Mapping[str, float], int], None]


class FolderReporter:
    """Keeps the last checkpoint, then hands metrics on.

    Args:
        folder: The run's, on a disk or in a bucket.
        on_metrics: Told metrics and the step they were reached at, once the checkpoint that comes with them is kept.
    """

    def __init__(self, folder: RunFolder, on_metrics: OnMetrics = lambda metrics, step: None) -> None:
        self._folder = folder
        self._on_metrics = on_metrics

    @contextmanager
    def latest(self) -> Iterator[Path | None]:
        """The last checkpoint as a local folder while the context lasts; None if there is none yet."""
        name = last_checkpoint(self._folder)
        if name is None:
            yield None
        else:
            with local_checkpoint(self._folder, name) as place:
                yield place

    def report(self, metrics: Mapping[str, float], step: int, checkpoint: Path | None) -> None:
        """Let a checkpoint take the place of the one before, and hand metrics on.

        Raises:
            CheckpointError: If the storage does not take it; the one before is still there.
        """
        if checkpoint is not None and checkpoint.exists():
            self._keep(f"{step:09d}", checkpoint, metrics.get("epoch"))
        self._on_metrics(metrics, step)

    def keep(self, folder: Path) -> str:
        """Copy a folder into the run's own; returns its address there."""
        self._folder.put(folder)
        return f"{self._folder.address}/{folder.name}"

    def _keep(self, name: str, checkpoint: Path, epoch: float | None) -> None:
        filesystem, root = self._folder.filesystem, f"{self._folder.path}/{CHECKPOINTS}"
        try:
            filesystem.makedirs(root, exist_ok=True)
            self._put(checkpoint, f"{root}/{name}")
            self._folder.write(LATEST, json.dumps({"checkpoint": name, "epoch": epoch}))
            for old in filesystem.ls(root, detail=False):
                if old.rstrip("/").rpartition("/")[2] != name:
                    filesystem.rm(old, recursive=True)
        except OSError as error:
            raise not_kept(error) from error

    def _put(self, checkpoint: Path, place: str) -> None:
        filesystem = self._folder.filesystem
        if filesystem.exists(place):
            filesystem.rm(place, recursive=True)
        if not self._folder.is_local:
            filesystem.put(f"{checkpoint}/", f"{place}/", recursive=True)
            return
        partial = Path(f"{place}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            shutil.copytree(checkpoint, partial)
            partial.rename(place)
        except OSError:
            shutil.rmtree(partial, ignore_errors=True)  # gives its space back
            raise


def last_checkpoint(folder: RunFolder) -> str | None:
    """Name of the last checkpoint that a `FolderReporter` kept whole; None if there is none."""
    return str(json.loads(folder.read(LATEST))["checkpoint"]) if folder.has(LATEST) else None


def last_epoch(folder: RunFolder) -> float | None:
    """The epoch that ended with the last checkpoint that a `FolderReporter` kept; None if none did."""
    return json.loads(folder.read(LATEST))["epoch"] if folder.has(LATEST) else None
