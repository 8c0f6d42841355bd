"""Objects of S3 buckets, asked for until they come or are known not to.

A server that is busy or a line that breaks is asked again, after waits that double and are random, so that a thousand
readers do not come back at once (as AWS recommends: exponential backoff with full jitter). What asking again cannot
change, as credentials that are refused or an object that is not there, is told at once.

Credentials, endpoint, region and profile come from where every AWS tool takes them: AWS_ACCESS_KEY_ID and
AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, AWS_REGION or AWS_DEFAULT_REGION, AWS_PROFILE and its files, or the machine's
role. FSSPEC_S3_ANON=true reads public buckets without any, as everywhere in fsspec.
"""

import os
import random
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import s3fs
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSLError,
)
from botocore.exceptions import ConnectionError as NoConnectionError
from fsspec.asyn import sync
from s3fs.core import S3_RETRYABLE_ERRORS

from dvt.data.errors import DataError

RETRY_LIMIT_S = 120.0  # from the first try of a request to the last
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 20.0  # most seconds before the second try; of any wait
CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 10, 30  # of one try; of READ a pause in an answer
# Of a busy server or a broken line; s3fs 2026.9 does not count connections that are reset or refused among them.
_PASSING = (*S3_RETRYABLE_ERRORS, NoConnectionError, IncompleteReadError, ConnectionError)
_FAILURES = (*_PASSING, ClientError, BotoCoreError)
_BUSY_STATUSES = (408, 429, 500, 502, 503, 504)
_BUSY_CODES = ("InternalError", "RequestTimeout", "ServiceUnavailable", "SlowDown", "Throttling", "ThrottlingException")
_MISSING_CODES = ("404", "NoSuchKey", "NotFound")
_CREDENTIALS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE"

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class StoredObject:
    """An object as it was when it was asked about."""

    address: str  # a path or an s3:// address
    size: int  # bytes
    version: str  # differs where the content does: an ETag, or when a file was changed


class MissingError(Exception):
    """An object or a part of it that is not there; the message is the reason, in a few words."""


class ChangedError(Exception):
    """An object is another than was expected."""


class S3Reader:
    """Reads objects of any bucket; for one process, and any of its threads.

    Args:
        retry_limit_s: Seconds after which a server that does not answer is given up.
        num_connections: Most requests at once.
    """

    def __init__(self, retry_limit_s: float = RETRY_LIMIT_S, num_connections: int = 16) -> None:
        self._retry_limit_s = retry_limit_s
        region = os.environ.get("AWS_REGION")  # botocore reads AWS_DEFAULT_REGION alone
        self._filesystem = s3fs.S3FileSystem(
            client_kwargs={"region_name": region} if region else {},
            config_kwargs={
                "connect_timeout": CONNECT_TIMEOUT_S,
                "read_timeout": READ_TIMEOUT_S,
                "max_pool_connections": num_connections,
                "retries": {"total_max_attempts": 1},  # trying again is ours alone, or it would multiply
            },
            skip_instance_cache=True,  # it depends on the environment, which the cache does not look at
        )

    def read(self, address: str, offset: int, size: int | None, expected: StoredObject | None) -> bytes:
        """Bytes of an object, fewer where it ends before they do.

        Args:
            address: An `s3://` address.
            offset: First byte.
            size: Number of bytes; None is to the end.
            expected: The object as it must still be.

        Raises:
            MissingError: If there is no such object, or the range begins behind its end.
            ChangedError: If it is not the expected one.
            DataError: If the bucket cannot be read.
        """
        bucket, key = split_address(address)

        async def get(client: Any, options: dict[str, Any]) -> bytes:
            if offset or size is not None:
                options["Range"] = f"bytes={offset}-{'' if size is None else offset + size - 1}"
            answer = await client.get_object(Bucket=bucket, Key=key, **options)
            async with answer["Body"] as body:
                if expected is not None and _described(address, answer) != expected:
                    raise ChangedError
                content: bytes = await body.read()
            if len(content) != answer["ContentLength"]:
                raise ConnectionError("the answer ended early")
            return content

        return b"" if size == 0 else self._ask(address, get)

    def describe(self, address: str) -> StoredObject:
        """Size and version of an object.

        Raises:
            MissingError: If there is no such object.
            DataError: If the bucket cannot be read.
        """
        bucket, key = split_address(address)

        async def head(client: Any, options: dict[str, Any]) -> StoredObject:
            return _described(address, await client.head_object(Bucket=bucket, Key=key, **options))

        async def head_bucket(client: Any, _: dict[str, Any]) -> None:
            await client.head_bucket(Bucket=bucket)

        try:
            return self._ask(address, head)
        except MissingError:  # the answer is the same if there is no such bucket
            try:
                self._ask(address, head_bucket)
            except MissingError:
                raise DataError(_no_bucket(address)) from None
            raise

    def list(self, address: str) -> list[StoredObject]:
        """All objects below a folder, at any depth, by name; none if there is no such folder.

        Raises:
            DataError: If the bucket cannot be read.
        """
        bucket, key = split_address(address)
        prefix = f"{key.rstrip('/')}/" if key else ""
        found: list[StoredObject] = []
        token: dict[str, str] | None = {}
        while token is not None:
            page = self._ask(address, _page_getter(bucket, prefix, token))
            for entry in page.get("Contents", []):
                if not entry["Key"].endswith("/"):  # a folder that some tool has made visible
                    version = _version(entry.get("ETag"), entry.get("LastModified"))
                    found.append(StoredObject(f"s3://{bucket}/{entry['Key']}", entry["Size"], version))
            token = {"ContinuationToken": page["NextContinuationToken"]} if page.get("IsTruncated") else None
        return found

    def _ask(self, address: str, request: Callable[[Any, dict[str, Any]], Awaitable[Answer]]) -> Answer:
        start, tries = time.monotonic(), 0
        while True:
            tries += 1
            try:
                answer: Answer = sync(self._filesystem.loop, self._send, address, request)
                return answer
            except _FAILURES as error:
                # Their own words may hold an endpoint with a password, or a signature: only ours are told, `from None`.
                failure = error
            if not _is_passing(failure):
                _refuse(address, failure)
            waited = time.monotonic() - start
            wait = random.SystemRandom().uniform(0, min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** (tries - 1)))
            if waited + wait > self._retry_limit_s:
                times = f"{waited:.3g} s and {tries} {'try' if tries == 1 else 'tries'}"
                rule = f"the last ended with {_named(failure)}; run again once the server answers"
                raise DataError(f"{address} could not be read in {times}, {rule}") from None
            time.sleep(wait)

    async def _send(self, address: str, request: Callable[[Any, dict[str, Any]], Awaitable[Answer]]) -> Answer:
        await self._filesystem.set_session()
        client = await self._filesystem.get_s3(split_address(address)[0])
        return await request(client, dict(self._filesystem.req_kw))


def typed_address(given: str) -> str:
    """An address as a person typed it: `~` is the home folder, and a slash at the end of an `s3://` one is none."""
    return given.rstrip("/") if "://" in given else str(Path(given).expanduser())


def split_address(address: str) -> tuple[str, str]:
    """Bucket and key of an `s3://` address.

    Raises:
        DataError: If it names no bucket, or carries more than bucket and key.
    """
    rest = address.removeprefix("s3://")
    bucket, _, key = rest.partition("/")
    where = f"s3://{rest.rpartition('@')[2]}".partition("?")[0]  # what may be told
    if "@" in bucket or ":" in bucket or "?" in rest:
        where = where if ":" not in where.removeprefix("s3:") else "s3://..."
        raise DataError(
            f"{where} must be given as s3://BUCKET/KEY, without credentials or settings; set {_CREDENTIALS} instead"
        )
    if not bucket:
        raise DataError(f"{where} must name a bucket, as in s3://BUCKET/KEY")
    return bucket, key


def _page_getter(
    bucket: str, prefix: str, token: dict[str, str]
) -> Callable[[Any, dict[str, Any]], Awaitable[dict[str, Any]]]:
    async def get_page(client: Any, options: dict[str, Any]) -> dict[str, Any]:
        page: dict[str, Any] = await client.list_objects_v2(Bucket=bucket, Prefix=prefix, **token, **options)
        return page

    return get_page


def _described(address: str, answer: dict[str, Any]) -> StoredObject:
    size = answer["ContentLength"]
    if "ContentRange" in answer:  # bytes 0-99/1234
        size = int(answer["ContentRange"].rpartition("/")[2])
    return StoredObject(address, size, _version(answer.get("ETag"), answer.get("LastModified")))


def _version(etag: str | None, modified: Any) -> str:
    return etag.removeprefix("W/").strip('"') if etag else str(modified)


def _is_passing(error: Exception) -> bool:
    if isinstance(error, ClientError):
        return _status(error) in _BUSY_STATUSES or _code(error) in _BUSY_CODES
    return isinstance(error, _PASSING) and not isinstance(error, SSLError)  # a certificate stays wrong


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _code(error: ClientError) -> str:
    return re.sub(r"[^A-Za-z0-9]", "", str(error.response.get("Error", {}).get("Code", "")))


def _named(error: Exception) -> str:
    """What a failure is called, without its own words."""
    if isinstance(error, ClientError):
        status, code = str(_status(error)), _code(error)
        return status if code in ("", status) else f"{status} {code}"
    return type(error).__name__


def _refuse(address: str, error: Exception) -> None:
    """Tell of a failure that trying again does not change."""
    if isinstance(error, ClientError) and _code(error) in _MISSING_CODES:
        raise MissingError("there is no such file") from None
    if isinstance(error, ClientError) and _status(error) == 416:
        raise MissingError("it ends before what was asked for begins") from None
    if isinstance(error, ClientError) and _code(error) == "NoSuchBucket":
        raise DataError(_no_bucket(address)) from None
    if isinstance(error, ClientError) and _status(error) in (401, 403):
        rule = f"the server refused the credentials in use ({_named(error)}); check {_CREDENTIALS}"
    elif isinstance(error, ClientError):
        rule = f"the server refused ({_named(error)}); check the address, AWS_ENDPOINT_URL and AWS_REGION"
    elif isinstance(error, NoCredentialsError):
        rule = f"no credentials were found; set {_CREDENTIALS}, or FSSPEC_S3_ANON=true for a public bucket"
    elif isinstance(error, (PartialCredentialsError, ProfileNotFound)):
        rule = f"the credentials are not complete ({_named(error)}); check {_CREDENTIALS}"
    else:
        rule = f"the request could not be sent ({_named(error)}); check the address, AWS_ENDPOINT_URL and AWS_REGION"
    raise DataError(f"{address} cannot be read: {rule}") from None


def _no_bucket(address: str) -> str:
    bucket, _ = split_address(address)
    return (
        f"{address} cannot be read: there is no bucket {bucket}; name another, or check AWS_ENDPOINT_URL and AWS_REGION"
    )
