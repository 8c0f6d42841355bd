import hashlib
import logging
import traceback
from collections.abc import Iterator

import fsspec
import pytest

from dvt.data import bucket, s3_client
from dvt.data.bucket import ChangedError, MissingError, S3Reader, StoredObject, split_address
from dvt.data.errors import DataError
from tests.unit.data.s3_faults import BUCKET, KEY, SECRET, TOKEN, Fault, FaultyS3, environment, faulty_s3

ADDRESS = f"s3://{BUCKET}/train/a.tar"
CONTENT = bytes(range(256)) * 40
SET = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE"


@pytest.fixture(scope="module")
def server() -> Iterator[FaultyS3]:
    with faulty_s3() as started:
        yield started


@pytest.fixture(autouse=True)
def settings(server: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> None:
    server.objects = {"train/a.tar": CONTENT, "train/empty": b"", "train/sub/": b"", "training": b"x"}
    server.faults, server.always, server.asked = [], None, []
    for name, value in environment(server).items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(bucket, "FIRST_WAIT_S", 0.01)


@pytest.fixture
def reader() -> S3Reader:
    return S3Reader(retry_limit_s=20)


@pytest.mark.parametrize(
    ("offset", "size", "content"),
    [(0, None, CONTENT), (3, 4, b"\x03\x04\x05\x06"), (10230, None, CONTENT[10230:]), (10230, 50, CONTENT[10230:])],
)
def test_content_and_ranges(reader: S3Reader, offset: int, size: int | None, content: bytes) -> None:
    assert reader.read(ADDRESS, offset, size, None) == content


def test_nothing_is_asked_for_no_bytes(server: FaultyS3, reader: S3Reader) -> None:
    assert reader.read(ADDRESS, 3, 0, None) == b""
    assert server.asked == []


def test_size_version_and_list_agree(reader: S3Reader) -> None:
    found = StoredObject(ADDRESS, 10240, hashlib.md5(CONTENT).hexdigest())
    listed = reader.list(f"s3://{BUCKET}/train")
    assert [(each.address, each.size) for each in listed] == [(ADDRESS, 10240), (f"s3://{BUCKET}/train/empty", 0)]
    assert reader.describe(ADDRESS) == listed[0] == found
    assert reader.read(ADDRESS, 5, 1, listed[0]) == b"\x05"  # of a range, too, the size is the object's


@pytest.mark.parametrize("fault", ["busy", "slow-down", "internal", "reset", "cut"])
def test_what_passes_is_asked_again(server: FaultyS3, reader: S3Reader, fault: Fault) -> None:
    server.faults = [fault] * 3
    assert reader.read(ADDRESS, 0, 1000, None) == CONTENT[:1000]
    assert server.asked == ["GET train/a.tar 0-999"] * 4
    server.faults = [fault] * 2 if fault != "cut" else []
    assert reader.describe(ADDRESS).size == 10240
    assert len(reader.list(f"s3://{BUCKET}/train")) == 2


def test_an_answer_that_does_not_come_is_asked_again(server: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_client, "READ_TIMEOUT_S", 0.2)
    server.faults = ["hang"]
    assert S3Reader(20).read(ADDRESS, 0, 2, None) == b"\x00\x01"


def test_waits_double_and_are_random(server: FaultyS3, reader: S3Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(bucket, "LONGEST_WAIT_S", 0.05)
    monkeypatch.setattr(bucket.random.SystemRandom, "uniform", lambda _, low, high: waits.append(high) or low)
    server.faults = ["busy"] * 5
    reader.read(ADDRESS, 0, 2, None)
    assert waits == [0.01, 0.02, 0.04, 0.05, 0.05]


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("busy", "503 ServiceUnavailable"),
        ("internal", "500 InternalError"),
        ("reset", "ConnectionClosedError"),
        ("cut", "ResponseStreamingError"),
    ],
)
def test_a_server_that_stays_away_is_given_up(
    server: FaultyS3, reader: S3Reader, monkeypatch: pytest.MonkeyPatch, fault: Fault, told: str
) -> None:
    monkeypatch.setattr(bucket, "FIRST_WAIT_S", 0.5)
    monkeypatch.setattr(bucket, "time", Clock())
    monkeypatch.setattr(bucket.random.SystemRandom, "uniform", lambda _, low, high: high)
    server.always = fault
    with pytest.raises(DataError) as raised:
        reader.read(ADDRESS, 0, 100, None)
    # 0.5 + 1 + 2 + 4 + 8 s of waiting; 16 s more would pass 20 s.
    rule = f"could not be read in 15.5 s and 6 tries, the last ended with {told}; run again once the server answers"
    assert str(raised.value) == f"{ADDRESS} {rule}"
    assert len(server.asked) == 6


REFUSED = "the server refused the credentials in use"


@pytest.mark.parametrize(
    ("fault", "rule"),
    [
        ("denied", f"{REFUSED} (403 AccessDenied); check {SET}"),
        ("bad-signature", f"{REFUSED} (403 SignatureDoesNotMatch); check {SET}"),
        ("invalid", "the server refused (400 InvalidRequest); check the address, AWS_ENDPOINT_URL and AWS_REGION"),
    ],
)
def test_what_is_refused_is_told_at_once(server: FaultyS3, reader: S3Reader, fault: Fault, rule: str) -> None:
    server.always = fault
    with pytest.raises(DataError) as raised:
        reader.read(ADDRESS, 0, 100, None)
    assert str(raised.value) == f"{ADDRESS} cannot be read: {rule}"
    assert len(server.asked) == 1


def test_what_is_not_there(server: FaultyS3, reader: S3Reader) -> None:
    for act in (lambda: reader.read(f"s3://{BUCKET}/none", 0, 1, None), lambda: reader.describe(f"s3://{BUCKET}/none")):
        with pytest.raises(MissingError, match=r"^there is no such file$"):
            act()
    with pytest.raises(MissingError, match=r"^it ends before what was asked for begins$"):
        reader.read(ADDRESS, 10240, 1, None)
    assert reader.list(f"s3://{BUCKET}/none") == []
    assert len(server.asked) == 5  # of nothing twice; a missing object's bucket is looked for
    rule = "cannot be read: there is no bucket other; name another, or check AWS_ENDPOINT_URL and AWS_REGION"
    for act in (
        lambda: reader.read("s3://other/x", 0, 1, None),
        lambda: reader.describe("s3://other/x"),
        lambda: reader.list("s3://other/x"),
    ):
        with pytest.raises(DataError) as raised:
            act()
        assert str(raised.value) == f"s3://other/x {rule}"


def test_a_list_of_many_pages(server: FaultyS3, reader: S3Reader) -> None:
    server.objects = {f"many/{number}": b"" for number in range(5)}
    assert [each.address[-1] for each in reader.list(f"s3://{BUCKET}/many")] == list("01234")
    assert len(server.asked) == 3


def test_a_changed_object(server: FaultyS3, reader: S3Reader) -> None:
    before = reader.describe(ADDRESS)
    server.objects["train/a.tar"] = CONTENT[:-1] + b"x"
    with pytest.raises(ChangedError):
        reader.read(ADDRESS, 0, 1, before)
    server.objects["train/a.tar"] = CONTENT
    assert reader.read(ADDRESS, 0, 1, before) == b"\x00"


def test_missing_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    for name, value, rule in (
        ("AWS_ACCESS_KEY_ID", KEY, f"the credentials are not complete (PartialCredentialsError); check {SET}"),
        ("AWS_PROFILE", "nobody", f"the credentials are not complete (ProfileNotFound); check {SET}"),
        ("", "", f"no credentials were found; set {SET}, or FSSPEC_S3_ANON=true for a public bucket"),
    ):
        for other in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE"):
            monkeypatch.delenv(other, raising=False)
        if name:
            monkeypatch.setenv(name, value)
        with pytest.raises(DataError) as raised:
            S3Reader().read(ADDRESS, 0, 1, None)
        assert str(raised.value) == f"{ADDRESS} cannot be read: {rule}"


def test_a_public_bucket(server: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fsspec.config.conf, "s3", {"anon": "true"})  # as FSSPEC_S3_ANON at the process's start
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    assert S3Reader().read(ADDRESS, 0, 1, None) == b"\x00"


@pytest.mark.parametrize(
    ("address", "told"),
    [
        (f"s3://{KEY}:{SECRET}@images/a", "s3://images/a must be given as s3://BUCKET/KEY, without credentials"),
        (f"s3://images/a?secret_key={SECRET}", "s3://images/a must be given as s3://BUCKET/KEY, without credentials"),
        ("s3:///a", "s3:///a must name a bucket, as in s3://BUCKET/KEY"),
    ],
)
def test_addresses_hold_a_bucket_and_no_more(address: str, told: str) -> None:
    with pytest.raises(DataError) as raised:
        split_address(address)
    assert str(raised.value).startswith(told)


@pytest.mark.parametrize("fault", ["busy", "reset", "cut", "denied", "bad-signature", "invalid"])
def test_nothing_secret_is_told(server: FaultyS3, caplog: pytest.LogCaptureFixture, fault: Fault) -> None:
    caplog.set_level(logging.INFO)
    server.always = fault
    with pytest.raises(DataError) as raised:
        S3Reader(retry_limit_s=0.05).read(ADDRESS, 0, 100, None)
    told = "".join(traceback.format_exception(raised.value)) + caplog.text
    assert ADDRESS in told
    assert server.asked  # its answer holds the request's signature
    for secret in (KEY, SECRET, TOKEN, "Signature="):
        assert secret not in told
