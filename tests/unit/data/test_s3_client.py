"""The one way of opening S3: the environment's settings, and what passes asked for again, through s3fs too."""

import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.exceptions import ClientError, NoCredentialsError

from dvt.config import ConfigError, Problem, RunConfig
from dvt.data.image_files import find_files, reason_of
from dvt.data.s3_client import open_client, open_filesystem
from dvt.data.s3_failures import CREDENTIALS, why_failed
from dvt.train.storage import Asked, RunFolder, open_folder
from tests.unit.data.s3_faults import BUCKET, KEY, SECRET, TOKEN, Fault, FaultyS3, environment, faulty_s3

ADDRESS = f"s3://{BUCKET}/run/recipe.yaml"


@pytest.fixture(scope="module")
def server() -> Iterator[FaultyS3]:
    with faulty_s3() as started:
        yield started


@pytest.fixture(autouse=True)
def settings(server: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> None:
    server.objects = {"run/recipe.yaml": b"name: tiny"}
    server.faults, server.always, server.asked, server.regions = [], None, [], set()
    for name, value in environment(server).items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("fault", ["busy", "slow-down", "internal", "reset", "cut"])
def test_a_file_is_read_though_the_server_fails_twice(server: FaultyS3, fault: Fault) -> None:
    filesystem, path = open_filesystem(ADDRESS)
    server.faults = [fault] * 2
    assert filesystem.cat_file(path) == b"name: tiny"
    assert server.faults == []  # the two, of four requests: s3fs asks for the size first
    assert len(server.asked) >= 3


@pytest.mark.parametrize("fault", ["busy", "reset"])
def test_a_run_folder_is_written_though_the_server_fails_twice(server: FaultyS3, fault: Fault) -> None:
    filesystem, path = open_filesystem(f"s3://{BUCKET}/run")
    folder = RunFolder(filesystem, path, "run")
    server.faults = [fault] * 2
    folder.write("run.json", "{}")
    assert server.asked == ["PUT run/run.json"] * 3
    assert folder.read("run.json") == "{}"


def test_every_request_is_signed_for_the_region_of_the_environment(server: FaultyS3) -> None:
    filesystem, path = open_filesystem(ADDRESS)
    again = pickle.loads(pickle.dumps(filesystem))  # noqa: S301 - as another process gets it
    for each in (filesystem, again):
        each.cat_file(path)
    assert next(find_files(f"s3://{BUCKET}/run", (".yaml",))).address == ADDRESS
    client, options = open_client()
    client.head_object(Bucket=BUCKET, Key="run/recipe.yaml", **options)
    client.close()
    assert server.regions == {"eu-test-1"}


def test_a_listing_tells_what_others_have_written_since(server: FaultyS3) -> None:
    filesystem, path = open_filesystem(f"s3://{BUCKET}/run")
    assert len(filesystem.find(path)) == 1
    server.objects["run/other.yaml"] = b""
    assert len(filesystem.find(path)) == 2


def asked_for(storage: str) -> str:
    run = RunConfig(storage_path=storage)
    with pytest.raises(ConfigError) as raised:
        open_folder(Asked("tiny", "recipe.yaml", {}, ()), run)
    return str(raised.value)


def test_storage_that_refuses_is_told_without_a_secret(server: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> None:
    server.always = "bad-signature"
    rule = f"must be a folder or s3:// address that can be written, got s3://{BUCKET}/runs"
    told = asked_for(f"s3://{BUCKET}/runs")
    refused = f"the server refused the credentials in use (403 SignatureDoesNotMatch); check {CREDENTIALS}"
    assert told == str(ConfigError([Problem("run.storage_path", f"{rule} ({refused})")]))
    assert not any(secret in told for secret in (KEY, SECRET, TOKEN))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    open_filesystem(ADDRESS)[0].clear_instance_cache()
    none = f"no credentials were found; set {CREDENTIALS}, or FSSPEC_S3_ANON=true for a public bucket"
    assert asked_for(f"s3://{BUCKET}/runs") == str(ConfigError([Problem("run.storage_path", f"{rule} ({none})")]))


def answered(status: int, code: str) -> OSError:
    """What s3fs makes of an answer."""
    answer = {"Error": {"Code": code, "Message": f"{SECRET} is wrong"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    error = OSError(5, f"{SECRET} is wrong")
    error.__cause__ = ClientError(answer, "GetObject")
    return error


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (answered(503, "SlowDown"), "the server does not answer (503 SlowDown); run again once it does"),
        (answered(404, "NoSuchKey"), "there is no such file"),
        (
            answered(404, "NoSuchBucket"),
            "there is no such bucket; name another, or check AWS_ENDPOINT_URL and AWS_REGION",
        ),
        (
            answered(400, "InvalidRequest"),
            "the server refused (400 InvalidRequest); check the address, AWS_ENDPOINT_URL and AWS_REGION",
        ),
        (
            NoCredentialsError(),
            f"no credentials were found; set {CREDENTIALS}, or FSSPEC_S3_ANON=true for a public bucket",
        ),
        (NotADirectoryError(20, "Not a directory", "/x"), "[Errno 20] Not a directory: '/x'"),
        (ImportError("Protocol not known: what"), "Protocol not known: what"),
    ],
)
def test_failures_are_told_in_words_of_our_own(error: Exception, told: str) -> None:
    assert why_failed(error) == told
    if not isinstance(error, NotADirectoryError):
        assert reason_of(error) == told


def test_another_environment_opens_another_server(server: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> None:
    first, path = open_filesystem(ADDRESS)
    assert first.cat_file(path) == b"name: tiny"  # only then it reads the environment
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    second, _ = open_filesystem(ADDRESS)
    assert second is not first


def test_a_kind_of_address_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ImportError, match=r"^Protocol not known: what$"):
        open_filesystem("what://x")
    assert open_filesystem(str(tmp_path))[1] == str(tmp_path)
