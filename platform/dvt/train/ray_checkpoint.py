"""A run's checkpoints as Ray Train hands them around, and a copy of one on this machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.fs
from ray import train as ray_train

from dvt.train.past_run import CHECKPOINTS
from dvt.train.scratch import scratch_folder
from dvt.train.storage import RunFolder


def kept_checkpoint(folder: RunFolder, name: str) -> ray_train.Checkpoint:
    """A checkpoint that a run keeps, to measure it on the cluster."""
    return ray_train.Checkpoint(f"{folder.path}/{CHECKPOINTS}/{name}", arrow_filesystem(folder))


def arrow_filesystem(folder: RunFolder) -> pyarrow.fs.FileSystem | None:
    """The file system of a run's folder as Ray Train takes it; None for this machine's."""
    return None if folder.is_local else pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(folder.filesystem))


@contextmanager
def local_copy(checkpoint: ray_train.Checkpoint) -> Iterator[Path]:
    """The checkpoint's folder on this machine while the context lasts, copied here if it is elsewhere.

    Each process has a copy of its own: Ray Train 2.60 gives those of a node one, and hands out half of it where the
    process that was copying it was killed, or copies it again while another process reads it.
    """
    if isinstance(checkpoint.filesystem, pyarrow.fs.LocalFileSystem):
        yield Path(checkpoint.path)
    else:
        with scratch_folder() as scratch:
            yield Path(checkpoint.to_directory(scratch / "checkpoint"))
