"""Image files as a person names them: files, folders and `s3://` addresses, read ahead by threads, in order.

What lies inside another file, as in a shard, comes with its content.

What cannot be read comes through in its place, with the reason, and stops nothing.

Shapes: `C` channels, `S` image side in pixels.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from torch import Tensor

from dvt.data.folder import IMAGE_SUFFIXES, is_shown
from dvt.data.s3_client import open_filesystem
from dvt.data.s3_failures import FAILURES, why_failed
from dvt.data.transforms import UNREADABLE, Transform, read_image
from dvt.inference.preparation import why_unreadable

NUM_THREADS = 8  # Pillow decodes without the interpreter's lock; a bucket answers slowly
_REMOTE: tuple[type[Exception], ...] = (
    ImportError,
    *FAILURES,
)  # what a bucket, or a kind of address we lack, adds to OSError
CANNOT_READ: tuple[type[Exception], ...] = (*UNREADABLE, *_REMOTE)  # what reading a file by its address may raise


@dataclass(frozen=True)
class FoundFile:
    """A file that was named or lies in a folder that was."""

    address: str  # a path or an s3:// address
    problem: str = ""  # why it is none, if it is
    content: bytes | None = field(default=None, repr=False)  # the encoded image, where it was read already


@dataclass(frozen=True, eq=False)
class ReadFile:
    """An image file, ready for the model, or why it is not."""

    address: str
    image: Tensor | None  # (C, S, S), normalised; None if it could not be read
    problem: str = ""


def find_files(address: str, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> Iterator[FoundFile]:
    """The file of an address, or all image files of a folder, at any depth and by name; hidden ones are passed over.

    Args:
        address: A path or an `s3://` address.
        suffixes: How the names of files in a folder end that are meant, in lower case.
    """
    is_empty = True
    try:
        for file in _remote_files(address, suffixes) if "://" in address else _local_files(address, suffixes):
            is_empty = False
            yield FoundFile(file)
        if is_empty:
            yield FoundFile(address, f"it holds no images ({', '.join(suffixes)})")
    except CANNOT_READ as error:
        yield FoundFile(address, reason_of(error))


def read_files(found: Iterable[FoundFile], transform: Transform, in_chans: int, ahead: int) -> Iterator[ReadFile]:
    """Read image files in order, some of them ahead of their turn.

    Args:
        found: The files; taken only as far as they are read.
        transform: From a decoded image to the model's input.
        in_chans: Channels of the model: 1 is grey, 3 is colour.
        ahead: Most images in memory besides those handed out, at least 1.
    """
    waiting: deque[Future[ReadFile]] = deque()
    with ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="dvt-read") as pool:
        for file in found:
            waiting.append(pool.submit(_read, file, transform, in_chans))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _read(file: FoundFile, transform: Transform, in_chans: int) -> ReadFile:
    if file.problem:
        return ReadFile(file.address, None, file.problem)
    try:
        image = read_image(_opened(file), in_chans)
        return ReadFile(file.address, transform(image))
    except CANNOT_READ as error:
        return ReadFile(file.address, None, reason_of(error))


def _opened(file: FoundFile) -> str | BytesIO:
    if file.content is not None:
        return BytesIO(file.content)
    if "://" not in file.address:
        return file.address
    filesystem, path = open_filesystem(file.address)
    return BytesIO(filesystem.cat_file(path))


def _local_files(address: str, suffixes: tuple[str, ...]) -> Iterator[str]:
    if not Path(address).is_dir():
        yield address
        return
    for folder, folders, files in os.walk(address, onerror=_raise):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if is_shown(name, suffixes):
                yield str(Path(folder, name))


def _remote_files(address: str, suffixes: tuple[str, ...]) -> Iterator[str]:
    filesystem, path = open_filesystem(address)
    if not filesystem.isdir(path):
        yield address
        return
    for found in sorted(filesystem.find(path)):
        inside = found[len(path.rstrip("/")) + 1 :].split("/")
        if is_shown(inside[-1], suffixes) and not any(part.startswith(".") for part in inside):
            yield str(filesystem.unstrip_protocol(found))


def _raise(error: OSError) -> None:
    raise error


def reason_of(error: Exception) -> str:
    """Why a file cannot be read, in a few words, of one of `CANNOT_READ`."""
    known: tuple[tuple[type[Exception], str], ...] = (
        (FileNotFoundError, "there is no such file"),
        (PermissionError, "it may not be read"),
    )
    told = next((reason for kind, reason in known if isinstance(error, kind)), None)
    if told is not None:
        return told
    if isinstance(error, _REMOTE) or (isinstance(error, OSError) and error.errno is not None):
        is_local = isinstance(error, OSError) and not isinstance(error.__cause__, FAILURES)
        lines = str((is_local and getattr(error, "strerror", None)) or why_failed(error)).splitlines()
        return lines[0].strip().rstrip(".") if lines else type(error).__name__
    return why_unreadable(error)
