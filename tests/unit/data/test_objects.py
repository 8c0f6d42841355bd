import logging
import multiprocessing
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dvt.config import DataConfig
from dvt.data import bucket
from dvt.data.cache import BLOCK_SIZE, BlockCache
from dvt.data.errors import DataError
from dvt.data.objects import Objects, Range, StoredObject, is_remote, open_objects
from tests.unit.data.s3_faults import BUCKET, FaultyS3, environment, faulty_s3

CONTENT = bytes(range(256)) * 40
LARGE = bytes(range(255)) * (2 * BLOCK_SIZE // 255 + 1000)  # two blocks and a bit


@pytest.fixture(scope="module")
def started() -> Iterator[FaultyS3]:
    with faulty_s3() as server:
        yield server


@pytest.fixture
def server(started: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> FaultyS3:
    started.objects, started.faults, started.always, started.asked = {}, [], None, []
    for name, value in environment(started).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.setattr(bucket, "FIRST_WAIT_S", 0.01)
    return started


class Place:
    """Somewhere objects can be put, taken away and changed: a folder or a bucket."""

    def __init__(self, root: str, server: FaultyS3) -> None:
        self.root, self._server = root, server

    def put(self, name: str, content: bytes) -> str:
        if is_remote(self.root):
            self._server.objects[f"set/{name}"] = content
        else:
            path = Path(self.root, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            os.utime(path, ns=(0, len(content)))  # a second write is a later one
        return f"{self.root}/{name}"

    def remove(self, name: str) -> None:
        if is_remote(self.root):
            del self._server.objects[f"set/{name}"]
        else:
            Path(self.root, name).unlink()


@pytest.fixture(params=["local", "remote", "cached"])
def place(request: pytest.FixtureRequest, server: FaultyS3, tmp_path: Path) -> Place:
    return Place(str(tmp_path / "set") if request.param == "local" else f"s3://{BUCKET}/set", server)


@pytest.fixture
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Objects:
    is_cached = "cached" in request.node.name
    return Objects(BlockCache(str(tmp_path / "cache"), 4 * BLOCK_SIZE) if is_cached else None, retry_limit_s=20)


def test_whole_objects_and_ranges(place: Place, objects: Objects) -> None:
    address, empty, large = place.put("a.tar", CONTENT), place.put("b/empty", b""), place.put("large", LARGE)
    for _ in range(2):
        assert objects.read(address) == CONTENT
        assert objects.read(empty) == b""
        assert objects.read(large) == LARGE
        assert objects.read_range(address, 5, 3) == b"\x05\x06\x07"
        assert objects.read_range(address, 10239, None) == b"\xff"
        across = (large, BLOCK_SIZE - 10, BLOCK_SIZE + 20)  # a whole block and the ends of its neighbours
        assert objects.read_range(*across) == LARGE[across[1] :][: across[2]]


def test_many_at_once_keep_their_places(place: Place, objects: Objects) -> None:
    address, large = place.put("a.tar", CONTENT), place.put("large", LARGE)
    none = f"{place.root}/none"
    ranges: list[Range] = [
        (large, BLOCK_SIZE - 1, 2),
        (address, 300, 2),
        (none, 0, 10),
        (address, 10238, 3),
        (address, 0, 2),
        (address, 10240, 0),
        (large, 0, 1),
        (address, 299, 3),
        (none, 0, None),
        (large, len(LARGE) - 1, None),
    ]
    no_file = "there is no such file"
    expected = [
        LARGE[BLOCK_SIZE - 1 : BLOCK_SIZE + 1],
        b"\x2c\x2d",
        no_file,
        "it ends at byte 10240",
        b"\x00\x01",
        b"",
        b"\x00",
        b"\x2b\x2c\x2d",
        no_file,
        LARGE[-1:],
    ]
    for _ in range(2):
        assert objects.read_many(ranges) == expected
    assert objects.read_many([]) == []


def test_a_range_behind_the_end(place: Place, objects: Objects) -> None:
    address = place.put("a.tar", CONTENT)
    (told,) = objects.read_many([(address, 20000, 5)])
    assert told in ("it ends at byte 10240", "it ends before what was asked for begins")  # S3 does not say where
    objects.expect([objects.size_and_version(address)])
    assert objects.read_many([(address, 20000, 5), (address, 10240, 5)]) == ["it ends at byte 10240"] * 2


def test_lists_are_by_name_and_agree_with_single_objects(place: Place, objects: Objects) -> None:
    addresses = [place.put(name, CONTENT[:size]) for name, size in (("b.tar", 3), ("a/c.tar", 2), ("a.tar", 1))]
    listed = objects.list(place.root)
    assert sorted((each.address, each.size) for each in listed) == sorted(zip(addresses, (3, 2, 1), strict=True))
    assert listed == [objects.size_and_version(each.address) for each in listed]
    assert objects.list(addresses[0]) == [objects.size_and_version(addresses[0])]
    for act in (objects.list, objects.size_and_version, objects.read):
        with pytest.raises(DataError) as raised:
            act(f"{place.root}/none")
        rule = "cannot be read: there is no such file; put it back or name another"
        assert str(raised.value) == f"{place.root}/none {rule}"


@pytest.mark.parametrize("content", [CONTENT[:-1] + b"x", CONTENT[:1]], ids=["other", "shorter"])
def test_what_was_opened_and_changed(place: Place, objects: Objects, content: bytes, tmp_path: Path) -> None:
    address = place.put("a.tar", CONTENT)
    objects.expect(objects.list(place.root))
    sent = pickle.loads(pickle.dumps(objects))  # noqa: S301 - as workers get it
    assert sent.read_range(address, 0, 2) == b"\x00\x01"
    place.put("a.tar", content)
    if not is_remote(address):
        os.utime(address, ns=(0, 1))
    for path in (tmp_path / "cache").glob("*.block"):
        path.unlink()  # what is kept is still what was opened
    rule = "is not the object that was opened: its content or size has changed since; run again to read it as it is now"
    for reader in (objects, sent):
        with pytest.raises(DataError) as raised:
            reader.read_many([(address, 0, 2), (address, 1, 2)])
        assert str(raised.value) == f"{address} {rule}"
    place.put("a.tar", CONTENT)
    assert objects.read_range(address, 0, 2) == b"\x00\x01"


def test_what_was_opened_and_vanished(place: Place, objects: Objects) -> None:
    address = place.put("a.tar", CONTENT)
    objects.expect(objects.list(place.root))
    place.remove("a.tar")
    with pytest.raises(DataError) as raised:
        objects.read_many([(address, 0, 2)])
    assert str(raised.value) == f"{address} could be read before and cannot now: there is no such file; put it back"


def test_a_cache_never_gives_old_content(server: FaultyS3, tmp_path: Path) -> None:
    address = Place(f"s3://{BUCKET}/set", server).put("a", CONTENT)
    for content in (CONTENT, CONTENT[::-1]):
        server.objects["set/a"] = content
        assert Objects(BlockCache(str(tmp_path), BLOCK_SIZE)).read(address) == content


def test_few_requests(server: FaultyS3, tmp_path: Path) -> None:
    """What it is all for: neighbours in one request, and none at all for what is kept."""
    address = Place(f"s3://{BUCKET}/set", server).put("large", LARGE)
    ranges: list[Range] = [(address, place * 1000, 900) for place in range(100)]
    Objects().read_many(ranges)
    assert server.asked == ["GET set/large 0-99899"]
    server.asked.clear()
    cached = Objects(BlockCache(str(tmp_path), 4 * BLOCK_SIZE))
    cached.expect(cached.list(f"s3://{BUCKET}/set"))
    server.asked.clear()
    for _ in range(3):
        cached.read_many(ranges)
        pickle.loads(pickle.dumps(cached)).read_many(ranges)  # noqa: S301 - as workers get it
    assert server.asked == [f"GET set/large 0-{BLOCK_SIZE - 1}"]


def test_a_bucket_that_fails_ends_it(server: FaultyS3, tmp_path: Path) -> None:
    address = Place(f"s3://{BUCKET}/set", server).put("a", CONTENT)
    server.always = "busy"
    for cache in (None, BlockCache(str(tmp_path), BLOCK_SIZE)):
        with pytest.raises(
            DataError, match=rf"^{address}b? could not be read in .* s and 1 try, the last ended with 503"
        ):
            Objects(cache, retry_limit_s=0.01).read_many([(address, 0, 2), (f"{address}b", 0, 2)])
    assert list(tmp_path.iterdir()) == []


def test_a_full_cache_disk_does_not_stop_reading(
    server: FaultyS3, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    address = Place(f"s3://{BUCKET}/set", server).put("large", LARGE)
    (tmp_path / "file").touch()
    objects = Objects(BlockCache(str(tmp_path / "file"), BLOCK_SIZE))
    for start in (0, 10, 20):
        assert objects.read_many([(address, start, 5), (address, BLOCK_SIZE, 2)])[0] == LARGE[start : start + 5]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    # Side by side, so in either order.
    assert sorted(server.asked[-2:]) == ["GET set/large 20-24", f"GET set/large {BLOCK_SIZE}-{BLOCK_SIZE + 1}"]


def read_in_child(objects: Objects, address: str, answers: Any) -> None:
    answers.put(objects.read_many([(address, 5, 3), (f"{address}/none", 0, 3)]))


def test_forked_processes_have_connections_of_their_own(server: FaultyS3) -> None:
    address = Place(f"s3://{BUCKET}/set", server).put("a", CONTENT)
    objects = Objects(retry_limit_s=20)
    expected = [b"\x05\x06\x07", "there is no such file"]
    assert objects.read_many([(address, 5, 3), (f"{address}/none", 0, 3)]) == expected
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    children = [context.Process(target=read_in_child, args=(objects, address, answers)) for _ in range(2)]
    for child in children:
        child.start()
    assert [answers.get(timeout=60) for _ in children] == [expected] * len(children)
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0] * len(children)
    assert objects.read_range(address, 5, 3) == b"\x05\x06\x07"  # the parent's still stand


def test_a_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def walk(folder: str, onerror: Callable[[OSError], None]) -> Iterator[Any]:
        onerror(PermissionError(13, "Permission denied", folder))
        yield from ()

    monkeypatch.setattr("dvt.data.objects.os.walk", walk)
    with pytest.raises(DataError) as raised:
        Objects().list(str(tmp_path))
    assert str(raised.value) == f"{tmp_path} cannot be read: it may not be read; make it readable"


def test_other_kinds_of_addresses() -> None:
    with pytest.raises(DataError, match=r"^gs://b/a must be a path or an s3:// address$"):
        Objects().read("gs://b/a")


def test_a_recipe_decides_on_the_cache(server: FaultyS3, tmp_path: Path) -> None:
    address = Place(f"s3://{BUCKET}/set", server).put("a", CONTENT)
    assert open_objects(DataConfig()).read(address) == CONTENT
    assert list(tmp_path.iterdir()) == []
    opened = open_objects(DataConfig(cache_dir=str(tmp_path / "kept"), cache_gib=1))
    assert opened.read(address) == CONTENT
    assert len(list((tmp_path / "kept").glob("*.block"))) == 1
    assert StoredObject(address, 10240, opened.size_and_version(address).version) == opened.list(address)[0]
