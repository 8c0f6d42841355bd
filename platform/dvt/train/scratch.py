"""Folders for what is as large as a checkpoint and lies on a node's disk for a while.

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
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        while not held.enter_context(_locked(folder)):  # another process took it for abandoned, and removed it
            folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Hold a folder while the context lasts; whether it is there and no other process holds it."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        yield False
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_held = True
    except BlockingIOError:
        is_held = False
    try:
        yield is_held and folder.exists()
    finally:
        os.close(handle)


def _remove_abandoned(parent: Path) -> None:
    for folder in parent.glob(f"{_PREFIX}*"):
        with _locked(folder) as is_mine:
            if is_mine:
                shutil.rmtree(folder, ignore_errors=True)
