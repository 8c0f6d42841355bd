"""Folders for what lies on a node's disk only while a process needs it, as checkpoints on their way do.

A process that is killed cannot remove what it was writing, and a worker of a long run may be killed many times on one
node. So each of these folders is locked by its process, and whoever makes one first removes those that nobody holds.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_PREFIX = "dvt-scratch-"


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new folder in the temporary folder, removed with the context, or by another process if this one is killed."""
    _remove_abandoned(Path(tempfile.gettempdir()))
    with contextlib.ExitStack() as held:
        folder = None
        while folder is None or not folder.exists():  # another process took it for abandoned, and removed it
            folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
            with contextlib.suppress(FileNotFoundError):
                held.enter_context(_locked(folder))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path, more_flags: int = 0) -> Iterator[bool]:
    """Hold a folder while the context lasts; whether it is held: on some file systems nothing can be locked."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | more_flags)
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)


def _remove_abandoned(parent: Path) -> None:
    for folder in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError), _locked(folder, fcntl.LOCK_NB) as is_mine:
            if is_mine:
                shutil.rmtree(folder, ignore_errors=True)
