import contextlib
import errno
import fcntl
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dvt.data import cache
from dvt.data.cache import BLOCK_SIZE, CHUNK, BlockCache

BLOCK = bytes(range(256)) * (3 * CHUNK // 256) + b"end"  # three chunks and a bit
FILE_SIZE = len(BLOCK) + 24 + 4 * 8  # a header of 24 bytes and four checksums of 8


def refuse() -> bytes:
    raise AssertionError("nothing was to be fetched")


def taken(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.block"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def kept(folder: Path) -> BlockCache:
    return BlockCache(str(folder), 10 * FILE_SIZE)


@pytest.fixture(autouse=True)
def untold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_told", {})


def test_a_block_is_fetched_once_and_read_in_parts(kept: BlockCache, folder: Path) -> None:
    assert kept.read("a", 0, 1) is None
    assert kept.fill("a", lambda: BLOCK) == BLOCK
    assert kept.fill("a", refuse) == BLOCK
    for offset, size in ((0, 1), (CHUNK - 1, 2), (CHUNK, CHUNK), (5, 2 * CHUNK), (3 * CHUNK, 3), (7, 0)):
        assert kept.read("a", offset, size) == BLOCK[offset : offset + size]
    assert kept.read("a", 3 * CHUNK + 1, None) == b"nd"
    assert kept.read_parts("a", [(5, 7), (CHUNK, 2), (0, 1)]) == [BLOCK[5:12], BLOCK[CHUNK : CHUNK + 2], BLOCK[:1]]
    assert kept.read("b", 0, 1) is None
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "a.block"]
    assert (taken(folder), (folder / ".lock").read_text()) == (FILE_SIZE, str(FILE_SIZE))


def test_the_largest_block_and_an_empty_one(folder: Path) -> None:
    kept = BlockCache(str(folder), 3 * BLOCK_SIZE)
    for content in (bytes(BLOCK_SIZE), b""):
        kept.fill(f"of{len(content)}", lambda content=content: content)  # type: ignore[misc]
        assert kept.fill(f"of{len(content)}", refuse) == content


def test_what_was_not_read_for_longest_goes_first(kept: BlockCache, folder: Path) -> None:
    for number in range(10):
        kept.fill(str(number), lambda: BLOCK)
        os.utime(folder / f"{number}.block", (number, number))
    assert taken(folder) == 10 * FILE_SIZE  # to the byte
    assert kept.read("0", 0, 1) is not None
    kept.fill("new", lambda: BLOCK)
    # 95 % of ten, with the new one: nine in all, and block 0 was read just now.
    left = {path.stem for path in folder.glob("*.block")}
    assert left == {"new", "0", *"3456789"}
    assert int((folder / ".lock").read_text()) == taken(folder) == 9 * FILE_SIZE


def test_a_block_beyond_the_bound_is_not_kept(folder: Path) -> None:
    small = BlockCache(str(folder), FILE_SIZE - 1)
    assert small.fill("a", lambda: BLOCK) == BLOCK
    assert list(folder.glob("*.*")) == []


def test_what_lies_there_counts(kept: BlockCache, folder: Path) -> None:
    for number in range(10):
        kept.fill(str(number), lambda: BLOCK)
    (folder / ".lock").write_text("5")
    other = pickle.loads(pickle.dumps(kept))  # noqa: S301 - as another process gets it
    other.fill("new", lambda: BLOCK)
    assert taken(folder) <= 10 * FILE_SIZE
    (folder / ".lock").write_text("damaged")
    for number in range(20):
        other.fill(f"more{number}", lambda: BLOCK)
        assert taken(folder) <= 10 * FILE_SIZE


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip_last(content: bytes) -> bytes:
    return content[:-1] + b"?"


def flip_table(content: bytes) -> bytes:
    return content[:28] + bytes([content[28] ^ 1]) + content[29:]


def flip_magic(content: bytes) -> bytes:
    return b"?" + content[1:]


def flip_size(content: bytes) -> bytes:
    return content[:8] + b"\xff" * 8 + content[16:]


def zeros(content: bytes) -> bytes:
    return bytes(len(content))


def nothing(_: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("damage", [cut, flip_last, flip_table, flip_magic, flip_size, zeros, nothing])
def test_a_damaged_block_is_fetched_again(kept: BlockCache, folder: Path, damage: Callable[[bytes], bytes]) -> None:
    kept.fill("a", lambda: BLOCK)
    path = folder / "a.block"
    path.write_bytes(damage(path.read_bytes()))
    assert kept.read("a", len(BLOCK) - 1, 1) is None
    assert not path.exists()
    assert kept.fill("a", lambda: BLOCK) == BLOCK
    assert kept.read("a", len(BLOCK) - 1, 1) == b"d"
    assert kept.is_usable


def test_a_fetch_that_fails_leaves_nothing(kept: BlockCache, folder: Path) -> None:
    with pytest.raises(ValueError, match="gone"):
        kept.fill("a", lambda: (_ for _ in ()).throw(ValueError("gone")))
    assert list(folder.iterdir()) == []
    assert kept.fill("a", lambda: BLOCK) == BLOCK


def test_who_waited_for_a_fetch_that_failed_fetches(kept: BlockCache, folder: Path) -> None:
    is_writing, waiter = threading.Event(), ThreadPoolExecutor(1)

    def fail() -> bytes:
        is_writing.set()
        time.sleep(0.3)  # the other opens the same partial file meanwhile, and waits for its lock
        raise ValueError("gone")

    with waiter:
        second = waiter.submit(lambda: is_writing.wait() and kept.fill("a", lambda: BLOCK))
        with pytest.raises(ValueError, match="gone"):
            kept.fill("a", fail)
        assert second.result() == BLOCK
    assert kept.fill("a", refuse) == BLOCK
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "a.block"]


def test_what_a_killed_writer_left_goes(kept: BlockCache, folder: Path) -> None:
    folder.mkdir()
    for name in ("a", "b", "c"):
        (folder / f"{name}.partial").write_bytes(b"half")
    with (folder / "c.partial").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # somebody writes it
        assert kept.fill("a", lambda: BLOCK) == BLOCK
        assert sorted(path.name for path in folder.iterdir()) == [".lock", "a.block", "c.partial"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_disk_that_fails_is_left_alone(
    kept: BlockCache, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    def fail(*_: Any) -> bytes:
        raise OSError(code, os.strerror(code))

    kept.fill("a", lambda: BLOCK)
    monkeypatch.setattr(cache, "_checksums", fail)
    fetched = []
    for key in ("b", "c", "a"):
        assert kept.fill(key, lambda key=key: fetched.append(key) or BLOCK) == BLOCK  # type: ignore[misc,func-returns-value]
    assert fetched == ["b", "c", "a"]
    assert not kept.is_usable
    assert kept.read("a", 0, 1) is None
    told = (
        f"data.cache_dir must be a folder with room for data.cache_gib, got {folder} ({os.strerror(code)}); "
        "going on without a cache"
    )
    assert [record.getMessage() for record in caplog.records] == [told]
    assert list(folder.glob("*.partial")) == []


@contextlib.contextmanager
def tiny_disk(folder: Path) -> Iterator[None]:
    """A file system of 256 KiB."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with tiny_disk(folder):
        kept = BlockCache(str(folder), 10 * FILE_SIZE)
        for number in range(5):
            assert kept.fill(str(number), lambda: BLOCK) == BLOCK
        assert [record.getMessage() for record in caplog.records] == [
            (
                f"data.cache_dir must be a folder with room for data.cache_gib, got {folder} "
                "(No space left on device); going on without a cache"
            )
        ]
        assert not kept.is_usable
        assert sorted(path.name for path in folder.iterdir()) == [".lock", "0.block", "1.block"]
        again = pickle.loads(pickle.dumps(kept))  # noqa: S301 - as another process gets it
        assert again.fill("1", refuse) == BLOCK


def test_a_folder_that_cannot_be(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    kept = BlockCache(str(tmp_path / "file" / "cache"), FILE_SIZE)
    assert kept.read("a", 0, 1) is None
    assert kept.fill("a", lambda: BLOCK) == BLOCK
    assert len(caplog.records) == 1


def fill_all(folder: str, limit: int, log: str, largest: Any) -> None:
    """Read blocks as a worker does; note each fetch, and the most that lay there."""
    kept = BlockCache(folder, limit)
    for number in [*range(12), *range(12)]:
        content = bytes([number]) * (CHUNK + number)

        def fetch(number: int = number, content: bytes = content) -> bytes:
            with Path(log).open("a") as file:
                file.write(f"{number}\n")
            time.sleep(0.005)
            return content

        found = kept.read(str(number), 1, 10)
        assert found in (None, content[:10])
        assert kept.fill(str(number), fetch) == content
        with largest.get_lock():
            largest.value = max(largest.value, taken_now(Path(folder)))


def taken_now(folder: Path) -> int:
    total = 0
    for path in folder.glob("*.block"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


@pytest.mark.parametrize(("num_blocks", "is_whole"), [(20, True), (4, False)])
def test_many_processes_fill_and_evict_at_once(tmp_path: Path, num_blocks: int, is_whole: bool) -> None:
    context = multiprocessing.get_context("fork")
    limit, log, largest = num_blocks * (CHUNK + 100), tmp_path / "log", context.Value("q", 0)
    workers = [
        context.Process(target=fill_all, args=(str(tmp_path / "cache"), limit, str(log), largest)) for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert 0 < largest.value <= limit
    fetched = log.read_text().splitlines()
    if is_whole:  # four processes, twice each: still one fetch a block
        assert sorted(fetched, key=int) == [str(number) for number in range(12)]
    assert list((tmp_path / "cache").glob("*.partial")) == []


def test_a_killed_writer_hands_over(tmp_path: Path) -> None:
    program = (
        "import sys, time; from dvt.data.cache import BlockCache\n"
        "def fetch():\n    print('writing', flush=True); time.sleep(60); return b''\n"
        f"BlockCache({str(tmp_path)!r}, 10**6).fill('a', fetch)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "writing\n"
        assert (tmp_path / "a.partial").exists()
        writer.kill()
    assert BlockCache(str(tmp_path), 10**6).fill("a", lambda: BLOCK) == BLOCK
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "a.block"]
