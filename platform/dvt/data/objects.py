"""`Objects`: files and byte ranges of files, alike from a local path and from `s3://`.

Ranges of one object that lie near each other are asked for together, since a request to a bucket costs as much time as
some hundred kilobytes; the rest are read by threads at once. What a training run opened must stay as it was: objects
that were given to `expect` and vanish or change are an error, never other images.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from dvt.config import DataConfig
from dvt.data.bucket import RETRY_LIMIT_S, ChangedError, MissingError, S3Reader, StoredObject
from dvt.data.byte_ranges import Part, Piece, Range, cover_with_blocks, merge_ranges, part_of
from dvt.data.cache import BLOCK_SIZE, BlockCache
from dvt.data.errors import DataError

__all__ = ["Objects", "Range", "StoredObject", "is_remote", "open_objects"]

NUM_THREADS = 16  # requests at once, a process; they wait for the server more than they work


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
        cache: Keeps what is read from buckets on a local disk; None keeps nothing.
        retry_limit_s: Seconds after which a bucket that does not answer is given up.
    """

    def __init__(self, cache: BlockCache | None = None, retry_limit_s: float = RETRY_LIMIT_S) -> None:
        self._cache = cache
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
        sizes, problems = self._find(ranges)
        parts: list[list[bytes]] = [[] for _ in ranges]
        places = [place for place in range(len(ranges)) if place not in problems]
        pieces = self._plan(ranges, places, sizes)
        for piece, found in zip(pieces, self._read_pieces(pieces, ranges), strict=True):
            for place, part in zip(piece.places, found, strict=True):
                if isinstance(part, str):
                    problems[place] = part
                else:
                    parts[place].append(part)
        return [problems.get(place, b"".join(parts[place])) for place in range(len(ranges))]

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

    def _here(self) -> _Process:
        """What this process reads with."""
        if self._process is None or self._process.pid != os.getpid():
            if self._process is not None:
                _inherited.append(self._process)
            pool = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="dvt-objects")
            self._process = _Process(os.getpid(), S3Reader(self._retry_limit_s, NUM_THREADS), pool)
        return self._process

    def _find(self, ranges: Sequence[Range]) -> tuple[dict[str, StoredObject], dict[int, str]]:
        """The objects that are known, or must be for the cache; and which ranges cannot be, and why."""
        addresses = {address for address, _, _ in ranges}
        found = {address: self._expected[address] for address in addresses if address in self._expected}
        reasons: dict[str, str] = {}
        asked = [address for address in addresses - found.keys() if self._is_cached(address)]
        for address, answer in zip(asked, self._here().pool.map(self._describe, asked) if asked else (), strict=True):
            if isinstance(answer, str):
                reasons[address] = answer
            else:
                found[address] = answer
        problems: dict[int, str] = {}
        for place, (address, offset, size) in enumerate(ranges):
            if address in reasons:
                problems[place] = reasons[address]
            elif address in found and offset + (size or 0) > found[address].size:
                problems[place] = _ends_at(found[address].size)
        return found, problems

    def _plan(self, ranges: Sequence[Range], places: Sequence[int], stored: dict[str, StoredObject]) -> list[Piece]:
        cached = [place for place in places if self._is_cached(ranges[place][0])]
        plain = [place for place in places if not self._is_cached(ranges[place][0])]
        return cover_with_blocks(ranges, cached, stored, BLOCK_SIZE) + merge_ranges(ranges, plain)

    def _is_cached(self, address: str) -> bool:
        return self._cache is not None and self._cache.is_usable and is_remote(address)

    def _read_pieces(self, pieces: Sequence[Piece], ranges: Sequence[Range]) -> list[Sequence[bytes | str]]:
        """For each piece the parts of its ranges, or why there are none."""
        parts = [[part_of(piece, ranges[place]) for place in piece.places] for piece in pieces]
        # What the cache holds comes at once: threads are for waiting.
        found = [self._read_kept(piece, spans) for piece, spans in zip(pieces, parts, strict=True)]
        missing = [number for number, contents in enumerate(found) if contents is None]
        is_waiting = len(missing) > 1 and any(is_remote(pieces[number].address) for number in missing)
        arguments = [pieces[number] for number in missing], [parts[number] for number in missing]
        read = self._here().pool.map(self._read_parts, *arguments) if is_waiting else map(self._read_parts, *arguments)
        rest = iter(read)
        return [next(rest) if contents is None else contents for contents in found]

    def _read_kept(self, piece: Piece, parts: Sequence[Part]) -> list[bytes] | None:
        """The parts of a piece if the cache holds it."""
        if piece.stored is None or self._cache is None:
            return None
        return self._cache.read_parts(_key(piece), parts)

    def _read_parts(self, piece: Piece, parts: Sequence[Part]) -> list[bytes | str]:
        try:
            if piece.stored is None or self._cache is None:
                content = self._read_piece(piece, self._expected.get(piece.address))
            else:
                content = self._cache.fill(_key(piece), lambda: self._read_piece(piece, piece.stored))
        except MissingError as error:
            return [str(error)] * len(parts)
        return [_cut(content, start, size, piece.offset) for start, size in parts]

    def _read_piece(self, piece: Piece, expected: StoredObject | None) -> bytes:
        """What is there of a piece.

        Raises:
            MissingError: If there is nothing, for all we knew.
        """
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
        if piece.address in self._expected:
            raise DataError(f"{piece.address} could be read before and cannot now: {reason}; put it back")
        raise MissingError(reason)

    def _describe(self, address: str) -> StoredObject | str:
        try:
            return self._here().reader.describe(address)
        except MissingError as error:
            return str(error)

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


def open_objects(config: DataConfig) -> Objects:
    """What reads the objects of a recipe, with its cache if it has one."""
    if config.cache_dir is None:
        return Objects()
    return Objects(BlockCache(str(Path(config.cache_dir).expanduser()), int(config.cache_gib * 1024**3)))


def is_remote(address: str) -> bool:
    """Whether an address is one of a bucket.

    Raises:
        DataError: If it is of a kind that cannot be read.
    """
    scheme, separator, _ = address.partition("://")
    if separator and scheme != "s3":
        raise DataError(f"{address} must be a path or an s3:// address")
    return bool(separator)


def _key(piece: Piece) -> str:
    """What the cache calls a block: of another version of an object it is another block."""
    stored = piece.stored
    return hashlib.sha256(f"{stored}\n{piece.offset}".encode()).hexdigest()


def _cut(content: bytes, start: int, size: int | None, offset: int) -> bytes | str:
    """The part of a piece's content that a range asked for."""
    if start == 0 and size in (None, len(content)):
        return content
    part = content[start:] if size is None else content[start : start + size]
    return part if size in (None, len(part)) else _ends_at(offset + len(content))


def _ends_at(size: int) -> str:
    return f"it ends at byte {size}"


def _read_local(piece: Piece, expected: StoredObject | None) -> bytes:
    with Path(piece.address).open("rb", buffering=0) as file:
        found = _described(piece.address, os.fstat(file.fileno()))
        if expected is not None and found != expected:
            raise ChangedError
        if piece.offset > found.size:
            raise MissingError(_ends_at(found.size))
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
