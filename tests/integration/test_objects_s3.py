"""Objects of a real S3 server: ranges, what is refused, what vanishes or changes, and a cache shared by processes."""

import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dvt.data.cache import BLOCK_SIZE, BlockCache
from dvt.data.errors import DataError
from dvt.data.objects import Objects, Range
from tests.integration.s3_server import S3Server

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("s3_settings")]

BUCKET = "dvt-objects"
SHARD = np.random.default_rng(0).bytes(2 * BLOCK_SIZE + 12_345)
NO_FILE = "there is no such file"


@pytest.fixture(scope="module")
def client(s3: S3Server) -> Iterator[Any]:
    opened = s3.client()
    opened.create_bucket(Bucket=BUCKET)
    yield opened
    opened.close()


def put(client: Any, key: str, content: bytes) -> str:
    client.put_object(Bucket=BUCKET, Key=key, Body=content)
    return f"s3://{BUCKET}/{key}"


def random_ranges(address: str, count: int) -> list[Range]:
    draws = np.random.default_rng(1)
    starts, sizes = draws.integers(0, len(SHARD) - 100_000, count), draws.integers(1, 100_000, count)
    return [(address, int(start), int(size)) for start, size in zip(starts, sizes, strict=True)]


def cut(wanted: Range) -> bytes:
    _, start, size = wanted
    assert size is not None
    return SHARD[start : start + size]


@pytest.mark.parametrize("is_cached", [False, True])
def test_ranges_and_whole_objects(client: Any, tmp_path: Path, is_cached: bool) -> None:
    address, empty = put(client, "read/a+b ü.tar", SHARD), put(client, "read/sub/empty", b"")
    objects = Objects(BlockCache(str(tmp_path), 10 * BLOCK_SIZE) if is_cached else None)
    listed = objects.list(f"s3://{BUCKET}/read")
    assert [(each.address, each.size) for each in listed] == [(address, len(SHARD)), (empty, 0)]
    assert listed == [objects.size_and_version(each.address) for each in listed]
    objects.expect(listed)
    ranges = random_ranges(address, 50)
    for _ in range(2):
        assert objects.read_many([*ranges, (f"{address}x", 0, 1)]) == [*map(cut, ranges), NO_FILE]
        assert objects.read(address) == SHARD
        assert objects.read(empty) == b""


def test_a_shard_in_parts_keeps_its_version(client: Any) -> None:
    """Of an upload in parts an ETag is no hash of the content; it must still be the same however one asks."""
    key, half = "parts/a.tar", 5 * 1024**2
    upload = client.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"]
    where = {"Bucket": BUCKET, "Key": key, "UploadId": upload}
    bodies = (SHARD[:half], SHARD[half:])
    tags = [client.upload_part(PartNumber=part, Body=body, **where)["ETag"] for part, body in enumerate(bodies, 1)]
    parts = [{"PartNumber": part, "ETag": tag} for part, tag in enumerate(tags, 1)]
    client.complete_multipart_upload(MultipartUpload={"Parts": parts}, **where)
    objects = Objects()
    objects.expect(objects.list(f"s3://{BUCKET}/parts"))
    across = (f"s3://{BUCKET}/{key}", half - 10, 20)
    assert objects.read_range(*across) == cut(across)


def test_what_changes_or_vanishes_mid_run(client: Any) -> None:
    address = put(client, "run/a.tar", SHARD)
    objects = Objects()
    objects.expect(objects.list(f"s3://{BUCKET}/run"))
    assert objects.read_range(address, 7, 9) == SHARD[7:16]
    put(client, "run/a.tar", SHARD[:-1] + b"?")
    rule = "is not the object that was opened: its content or size has changed since; run again to read it as it is now"
    with pytest.raises(DataError) as raised:
        objects.read_range(address, 7, 9)
    assert str(raised.value) == f"{address} {rule}"
    client.delete_object(Bucket=BUCKET, Key="run/a.tar")
    with pytest.raises(DataError) as raised:
        objects.read_range(address, 7, 9)
    assert str(raised.value) == f"{address} could be read before and cannot now: {NO_FILE}; put it back"


def test_what_is_refused(client: Any, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    address, other = put(client, "refused/a.tar", SHARD), "s3://dvt-no-bucket/a.tar"
    wrong = "a-wrong-secret"
    cases = {
        other: "there is no bucket dvt-no-bucket; name another, or check AWS_ENDPOINT_URL and AWS_REGION",
        address: (
            "the server refused the credentials in use (403 SignatureDoesNotMatch); check AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY or AWS_PROFILE"
        ),
    }
    for where, rule in cases.items():
        if where == address:
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", wrong)
        with pytest.raises(DataError) as raised:
            Objects().read(where)
        assert str(raised.value) == f"{where} cannot be read: {rule}"
        assert wrong not in str(raised.value)
        assert s3.access_key not in str(raised.value)


def read_all(objects: Objects, ranges: list[Range], answers: Any) -> None:
    answers.put([content == cut(wanted) for content, wanted in zip(objects.read_many(ranges), ranges, strict=True)])


def test_processes_share_a_cache(client: Any, tmp_path: Path) -> None:
    address = put(client, "shared/a.tar", SHARD)
    objects = Objects(BlockCache(str(tmp_path), 10 * BLOCK_SIZE))
    objects.expect(objects.list(f"s3://{BUCKET}/shared"))
    assert objects.read_range(address, 0, 10) == SHARD[:10]  # a connection that children must not use
    ranges = [*random_ranges(address, 40), (address, len(SHARD) - 5, 5)]
    for method in ("fork", "spawn"):
        context = multiprocessing.get_context(method)
        answers = context.Queue()
        children = [context.Process(target=read_all, args=(objects, ranges, answers)) for _ in range(2)]
        for child in children:
            child.start()
        assert [answers.get(timeout=120) for _ in children] == [[True] * len(ranges)] * 2
        for child in children:
            child.join(60)
        assert len(list(tmp_path.glob("*.block"))) == 3
        # From here on nothing is asked: the object could be gone.
        client.delete_object(Bucket=BUCKET, Key="shared/a.tar")
    assert [child.exitcode for child in children] == [0, 0]
