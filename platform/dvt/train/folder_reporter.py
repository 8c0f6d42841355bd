"""A `Reporter` for a training in this process alone: the newest checkpoint lies in a folder of this machine."""

import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

PREFIX = "checkpoint_"

OnMetrics = Callable[[Mapping[str, float], int], None]


class FolderReporter:
    """Keeps the newest checkpoint, whole at every moment, and hands metrics on.

    Args:
        folder: Where the checkpoint lies; made when there is one.
        on_metrics: Told metrics and the step they were reached at.
    """

    def __init__(self, folder: Path, on_metrics: OnMetrics = lambda metrics, step: None) -> None:
        self.folder = folder
        self.on_metrics = on_metrics

    @property
    def newest(self) -> Path | None:
        """The newest checkpoint; None if there is none yet."""
        return max(self.folder.glob(f"{PREFIX}*"), default=None)

    @contextmanager
    def latest(self) -> Iterator[Path | None]:
        """The newest checkpoint while the context lasts; None if there is none yet."""
        yield self.newest

    def report(self, metrics: Mapping[str, float], step: int, checkpoint: Path | None) -> None:
        """Hand metrics on, and let a checkpoint take the place of those before."""
        self.on_metrics(metrics, step)
        if checkpoint is None:
            return
        before = [path for pattern in (f"{PREFIX}*", ".*.partial") for path in self.folder.glob(pattern)]
        partial = self.folder / f".{uuid.uuid4().hex[:8]}.partial"
        try:
            shutil.copytree(checkpoint, partial)
            for path in partial.iterdir():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
            partial.rename(self.folder / f"{PREFIX}{step:09d}")
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        for old in before:
            shutil.rmtree(old)
