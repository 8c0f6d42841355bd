"""`BlockCache`: blocks of objects on a local disk, of bounded size, shared by all processes of a node.

A block is a file, whole or not there: it is written under another name, which its writer holds locked, and renamed.
Whoever wants the same block meanwhile waits for that lock and finds the block, so that a node asks for it once. A
writer that was killed leaves an unlocked partial file, which the next takes over or removes.

What the blocks take is counted in the file `.lock`, changed by one process at a time; where the bound would be passed,
those that were not read for longest go, by the date of the file, which a read renews.

A file is a header (magic, size of the content, checksum of the table), a table of checksums, one for each `CHUNK` of
the content, and the content: a read checks what it takes and no more. They are XXH3 of 64 bits, ten times as fast as
CRC-32, which took more time than all else of a read.
"""

import contextlib
import fcntl
import logging
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from xxhash import xxh3_64_digest, xxh3_64_intdigest

from dvt.data.byte_ranges import Part

logger = logging.getLogger(__name__)

BLOCK_SIZE = 8 * 1024**2  # bytes of the largest block; a request costs as much as some megabytes
CHUNK = 32 * 1024  # bytes under one checksum
KEPT_SHARE = 0.95  # of the bound when room was made, so that it need not be made at each block
_HEADER = struct.Struct("<8sQQ")
_MAGIC = b"dvtblk02"
_SUM_BYTES = 8  # of a checksum in the table
_LONGEST_TABLE = _SUM_BYTES * (BLOCK_SIZE // CHUNK)
_BLOCK, _PARTIAL, _LOCK = ".block", ".partial", ".lock"
_told: dict[str, OSError] = {}  # folders that this process has warned of, and why


class BlockCache:
    """Blocks by their key; picklable, for any number of processes and threads at once.

    Args:
        folder: Where they lie; made if it is not there.
        limit_bytes: Most bytes of all blocks together; those being written come on top.
    """

    def __init__(self, folder: str, limit_bytes: int) -> None:
        self._folder = Path(folder)
        self._limit_bytes = limit_bytes
        self._is_counted = False  # whether this process has seen what lies there
        self.is_usable = True  # until the disk fails, for this process

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_is_counted": False, "is_usable": True}

    def read(self, key: str, offset: int, size: int | None) -> bytes | None:
        """Bytes of a block.

        Args:
            key: Names the block; letters, digits and - alone.
            offset: First byte in the block.
            size: Number of bytes, all of them in the block; None is to its end.

        Returns:
            The bytes; None if there is no such block, or it is damaged, and gone then.
        """
        found = self.read_parts(key, [(offset, size)])
        return None if found is None else found[0]

    def read_parts(self, key: str, parts: Sequence[Part]) -> list[bytes] | None:
        """Many stretches of a block, each as of `read`; None if any cannot be had."""
        path = self._folder / f"{key}{_BLOCK}"
        if not self.is_usable:
            return None
        try:
            with path.open("rb", buffering=0) as file:
                found = _read_checked(file.fileno(), parts)
                if found is not None:
                    with contextlib.suppress(PermissionError):  # another user's
                        os.utime(file.fileno())  # the date is when it was used last
                    return found
            path.unlink(missing_ok=True)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._give_up(error)
        return None

    def fill(self, key: str, fetch: Callable[[], bytes]) -> bytes:
        """The whole block: from the cache if it is there by now, else fetched and kept.

        Args:
            key: Names the block.
            fetch: Gets its content; called at most once, and by one process of the node at a time.
        """
        content: bytes | None = None
        if not self.is_usable:
            return fetch()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with self._writing(key) as partial:
                kept = self.read(key, 0, None)
                if kept is not None:
                    return kept
                content = fetch()
                self._keep(key, partial, content)
        except OSError as error:
            self._give_up(error)
        return fetch() if content is None else content

    @contextlib.contextmanager
    def _writing(self, key: str) -> Iterator[BinaryIO]:
        """The partial file of a block, locked; gone afterwards unless it was renamed."""
        path = self._folder / f"{key}{_PARTIAL}"
        while True:
            with _locked(path) as file:
                if not _is_at(file, path):  # its last holder has renamed or removed it
                    continue
                try:
                    yield file
                finally:
                    if _is_at(file, path):
                        path.unlink()
                return

    def _keep(self, key: str, partial: BinaryIO, content: bytes) -> None:
        table = _checksums(content)
        partial.truncate(0)
        partial.write(_HEADER.pack(_MAGIC, len(content), xxh3_64_intdigest(table)))
        partial.write(table)
        partial.write(content)
        partial.flush()
        size = os.fstat(partial.fileno()).st_size
        if size > self._limit_bytes:
            return
        with _locked(self._folder / _LOCK) as count:
            total = self._total(count)
            if total + size > self._limit_bytes:
                total = self._make_room(int(self._limit_bytes * KEPT_SHARE) - size)
            count.seek(0)
            count.truncate()
            count.write(str(total + size).encode())
            count.flush()
            # Before the lock ends, so that whoever counts next finds the block.
            (self._folder / f"{key}{_PARTIAL}").rename(self._folder / f"{key}{_BLOCK}")

    def _total(self, count: BinaryIO) -> int:
        """Bytes of all blocks: as they lie there the first time, then as all processes have counted on."""
        text = count.read()
        if self._is_counted and text.isdigit():
            return int(text)
        self._is_counted = True
        return sum(size for _, size, _ in self._blocks())

    def _make_room(self, most_bytes: int) -> int:
        """Remove the blocks that were not read for longest, and return what the others take."""
        blocks = sorted(self._blocks())
        total = sum(size for _, size, _ in blocks)
        for _, size, name in blocks:
            if total <= most_bytes:
                break
            (self._folder / name).unlink(missing_ok=True)
            total -= size
        return total

    def _blocks(self) -> list[tuple[int, int, str]]:
        """When each block was read last, its bytes and its name; what killed writers have left goes."""
        blocks = []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                    if entry.name.endswith(_BLOCK):
                        found = entry.stat()
                        blocks.append((found.st_mtime_ns, found.st_size, entry.name))
                    elif entry.name.endswith(_PARTIAL):
                        _remove_abandoned(Path(entry.path))
        return blocks

    def _give_up(self, error: OSError) -> None:
        """Go on without the cache, and say so once a process."""
        self.is_usable = False
        if _told.setdefault(str(self._folder), error) is error:  # in one step, as several threads may meet it at once
            logger.warning(
                "data.cache_dir must be a folder with room for data.cache_gib, got %s (%s); going on without a cache",
                self._folder,
                error.strerror or type(error).__name__,
            )


@contextlib.contextmanager
def _locked(path: Path, *, is_patient: bool = True) -> Iterator[BinaryIO]:
    """A file, made if it is not there, held by this process and thread alone.

    Raises:
        BlockingIOError: If another holds it and one is not to wait.
    """
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if is_patient else fcntl.LOCK_NB))
        try:
            yield file
        finally:
            # Closing is not enough: a child that was forked meanwhile would hold the lock on.
            fcntl.flock(file, fcntl.LOCK_UN)


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _remove_abandoned(path: Path) -> None:
    """Remove a partial file unless somebody writes it."""
    with contextlib.suppress(BlockingIOError), _locked(path, is_patient=False) as file:
        if _is_at(file, path):
            path.unlink()


def _checksums(content: bytes) -> bytes:
    """The table of a block's content."""
    view = memoryview(content)
    return b"".join(xxh3_64_digest(view[start : start + CHUNK]) for start in range(0, len(content), CHUNK))


def _read_checked(file: int, parts: Sequence[Part]) -> list[bytes] | None:
    """Stretches of a block's content from its file; None if it is damaged where they lie."""
    head = os.pread(file, _HEADER.size + _LONGEST_TABLE, 0)
    if len(head) < _HEADER.size:
        return None
    magic, length, checksum = _HEADER.unpack_from(head)
    num_chunks = -(-length // CHUNK)
    table = head[_HEADER.size : _HEADER.size + _SUM_BYTES * num_chunks]
    if magic != _MAGIC or length > BLOCK_SIZE or xxh3_64_intdigest(table) != checksum:
        return None
    start, found = _HEADER.size + len(table), []  # where the content begins
    for offset, size in parts:
        end = length if size is None else offset + size
        first, last = offset // CHUNK, -(-end // CHUNK)  # the chunks that hold the bytes
        content = os.pread(file, min(last * CHUNK, length) - first * CHUNK, start + first * CHUNK)
        if _checksums(content) != table[_SUM_BYTES * first : _SUM_BYTES * last]:
            return None
        found.append(content[offset - first * CHUNK : end - first * CHUNK])
    return found
