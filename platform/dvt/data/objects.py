"""`Objects`: files and byte ranges of files, alike from a local path and from `s3://`.

Ranges of one object that lie near each other are asked for together, since a request to a bucket costs as much time as
some hundred kilobytes; the rest are read by threads at once. What a training run opened must stay as it was: objects
that were given to `expect` and vanish or change are an error, never other images.
"""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from dvt.data.bucket import RETRY_LIMIT_S, ChangedError, MissingError, S3Reader, StoredObject
from dvt.data.errors import DataError

__all__ = ["Objects", "Range", "StoredObject"]

NUM_THREADS = 16  # requests at once, a process; they wait for the server more than they work
MERGE_GAP = 256 * 1024  # bytes between two ranges that are rather read than asked for apart
MERGE_SIZE = 8 * 1024**2  # most bytes of ranges that are asked for together, so that the rest goes on beside them

Range = tuple[str, int, int | None]  # address, first byte, number of bytes; None is to the end


@dataclass(frozen=True)
class _Piece:
    """What is asked for at once."""

    address: str
    offset: int
    size: int | None
    places: tuple[int, ...]  # of the ranges that it holds


@dataclass(frozen=True, eq=False)
class _Process:
    """What lives in one process and must not be shared with another."""

    pid: int
    reader: S3Reader
    pool: ThreadPoolExecutor


_inherited: list[_Process] = []  # a parent's connections after a fork: closing them here would close them there


class Objects:
    """Reads whole objects and byte ranges; picklable, and safe over fork and spawn.

    Args:
        retry_limit_s: Seconds after which a bucket that does not answer is given up.
    """

    def __init__(self, retry_limit_s: float = RETRY_LIMIT_S) -> None:
        self._retry_limit_s = retry_limit_s
        self._expected: dict[str, StoredObject] = {}
        self._process: _Process | None = None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_process": None}

    def expect(self, objects: Iterable[StoredObject]) -> None:
        """From now on, of these objects, read those versions only."""
        self._expected.update({each.address: each for each in objects})

    def read(self, address: str) -> bytes:
        """A whole object.

        Args:
            address: A path or an `s3://` address.

        Raises:
            DataError: If it cannot be read, or is not as it was expected.
        """
        return self.read_range(address, 0, None)

    def read_range(self, address: str, offset: int, size: int | None) -> bytes:
        """Bytes of an object.

        Args:
            address: A path or an `s3://` address.
            offset: First byte.
            size: Number of bytes; None is to the end.

        Raises:
            DataError: If they cannot be read, or the object is not as it was expected.
        """
        (content,) = self.read_many([(address, offset, size)])
        if isinstance(content, str):
            raise DataError(f"{address} cannot be read: {content}; put it back or name another")
        return content

    def read_many(self, ranges: Sequence[Range]) -> list[bytes | str]:
        """Many ranges at once, in any order and of any objects.

        Returns:
            For each range its bytes, or why they could not be read in a few words: there is no such object, or it is
            too short.

        Raises:
            DataError: If a bucket cannot be read, or an object that was expected is gone or another.
        """
        contents: list[bytes | str] = [b""] * len(ranges)
        pieces = _merge(ranges)
        for piece, content in zip(pieces, self._read_pieces(pieces), strict=True):
            for place in piece.places:
                _, offset, size = ranges[place]
                contents[place] = _cut(content, offset - piece.offset, size, piece.offset)
        return contents

    def size_and_version(self, address: str) -> StoredObject:
        """An object's size and version, as it is now.

        Raises:
            DataError: If it is not there or cannot be read.
        """
        try:
            if is_remote(address):
                return self._here().reader.describe(address)
            return _described(address, Path(address).stat())
        except MissingError as error:
            raise DataError(f"{address} cannot be read: {error}; put it back or name another") from None
        except OSError as error:
            raise DataError(f"{address} cannot be read: {_reason(error)}; put it back or name another") from error

    def list(self, address: str) -> list[StoredObject]:
        """All objects below a folder, at any depth and by name; the object itself if it is one.

        Raises:
            DataError: If there is neither, or it cannot be read.
        """
        if is_remote(address):
            return self._here().reader.list(address) or [self.size_and_version(address)]
        if not Path(address).is_dir():
            return [self.size_and_version(address)]
        found = [Path(folder, name) for folder, _, names in os.walk(address, onerror=_cannot_list) for name in names]
        return [self.size_and_version(str(path)) for path in sorted(found)]

    def _here(self) -> _Process:
        """What this process reads with."""
        if self._process is None or self._process.pid != os.getpid():
            if self._process is not None:
                _inherited.append(self._process)
            pool = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="dvt-objects")
            self._process = _Process(os.getpid(), S3Reader(self._retry_limit_s, NUM_THREADS), pool)
        return self._process

    def _read_pieces(self, pieces: Sequence[_Piece]) -> Iterable[bytes | str]:
        if len(pieces) > 1 and any(is_remote(piece.address) for piece in pieces):
            return self._here().pool.map(self._read_piece, pieces)
        return map(self._read_piece, pieces)

    def _read_piece(self, piece: _Piece) -> bytes | str:
        """What is there of a piece, or why there is nothing."""
        expected = self._expected.get(piece.address)
        if expected is not None and piece.offset > expected.size:
            return _ends_at(expected.size)
        try:
            if is_remote(piece.address):
                return self._here().reader.read(piece.address, piece.offset, piece.size, expected)
            return _read_local(piece, expected)
        except ChangedError:
            raise DataError(
                f"{piece.address} is not the object that was opened: its content or size has changed since; "
                "run again to read it as it is now"
            ) from None
        except (MissingError, OSError) as error:
            reason = _reason(error)
        if expected is not None:
            raise DataError(f"{piece.address} could be read before and cannot now: {reason}; put it back")
        return reason


def is_remote(address: str) -> bool:
    """Whether an address is one of a bucket.

    Raises:
        DataError: If it is of a kind that cannot be read.
    """
    scheme, separator, _ = address.partition("://")
    if separator and scheme != "s3":
        raise DataError(f"{address} must be a path or an s3:// address")
    return bool(separator)


def _merge(ranges: Sequence[Range]) -> list[_Piece]:
    """The requests that bring all ranges, most of them one."""
    pieces: list[_Piece] = []
    in_order = sorted(range(len(ranges)), key=lambda place: (ranges[place][0], ranges[place][1]))
    for place in in_order:
        address, offset, size = ranges[place]
        last = pieces[-1] if pieces else None
        if last is not None and last.address == address and last.size is not None and size is not None:
            start, end = last.offset, max(last.offset + last.size, offset + size)
            if offset <= start + last.size + MERGE_GAP and end - start <= MERGE_SIZE:
                pieces[-1] = _Piece(address, start, end - start, (*last.places, place))
                continue
        pieces.append(_Piece(address, offset, size, (place,)))
    return pieces


def _cut(content: bytes | str, start: int, size: int | None, offset: int) -> bytes | str:
    """The part of a piece's content that a range asked for."""
    if isinstance(content, str) or (start == 0 and size in (None, len(content))):
        return content
    part = content[start:] if size is None else content[start : start + size]
    return part if size in (None, len(part)) else _ends_at(offset + len(content))


def _ends_at(size: int) -> str:
    return f"it ends at byte {size}"


def _read_local(piece: _Piece, expected: StoredObject | None) -> bytes:
    with Path(piece.address).open("rb", buffering=0) as file:
        if expected is not None and _described(piece.address, os.fstat(file.fileno())) != expected:
            raise ChangedError
        file.seek(piece.offset)
        return file.read() if piece.size is None else file.read(piece.size)


def _described(address: str, found: os.stat_result) -> StoredObject:
    return StoredObject(address, found.st_size, str(found.st_mtime_ns))


def _reason(error: MissingError | OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, PermissionError):
        return "it may not be read"
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else str(error)


def _cannot_list(error: OSError) -> None:
    raise DataError(f"{error.filename} cannot be read: {_reason(error)}; make it readable") from error
