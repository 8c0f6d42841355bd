"""Objects of S3 buckets, asked for until they come or are known not to.

A server that is busy or a line that breaks is asked again, after waits that double and are random, so that a thousand
readers do not come back at once (as AWS recommends: exponential backoff with full jitter). What asking again cannot
change, as credentials that are refused or an object that is not there, is told at once.
"""

import contextlib
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from dvt.data.errors import DataError
from dvt.data.s3_client import open_client
from dvt.data.s3_failures import (
    CREDENTIALS,
    FAILURES,
    failure_name,
    is_beyond_end,
    is_bucket_missing,
    is_missing,
    is_passing,
    why_refused,
)

RETRY_LIMIT_S = 120.0  # from the first try of a request to the last
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 20.0  # most seconds before the second try; of any wait

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
        self._num_connections = num_connections
        self._opening = threading.Lock()
        self._opened: tuple[Any, dict[str, Any]] | None = None

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

        def get(client: Any, options: dict[str, Any]) -> bytes:
            span = {}
            if offset or size is not None:
                span["Range"] = f"bytes={offset}-{'' if size is None else offset + size - 1}"
            answer = client.get_object(Bucket=bucket, Key=key, **span, **options)
            with contextlib.closing(answer["Body"]) as body:
                if expected is not None and _described(address, answer) != expected:
                    raise ChangedError
                content: bytes = body.read()
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

        def head(client: Any, options: dict[str, Any]) -> StoredObject:
            return _described(address, client.head_object(Bucket=bucket, Key=key, **options))

        def head_bucket(client: Any, _: dict[str, Any]) -> None:
            client.head_bucket(Bucket=bucket)

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

    def _ask(self, address: str, request: Callable[[Any, dict[str, Any]], Answer]) -> Answer:
        start, tries = time.monotonic(), 0
        while True:
            tries += 1
            try:
                return request(*self._client())
            except FAILURES as error:
                # Their own words may hold an endpoint with a password, or a signature: only ours are told, `from None`.
                failure = error
            if not is_passing(failure):
                _refuse(address, failure)
            waited = time.monotonic() - start
            wait = random.SystemRandom().uniform(0, min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** (tries - 1)))
            if waited + wait > self._retry_limit_s:
                times = f"{waited:.3g} s and {tries} {'try' if tries == 1 else 'tries'}"
                rule = f"the last ended with {failure_name(failure)}; run again once the server answers"
                raise DataError(f"{address} could not be read in {times}, {rule}") from None
            time.sleep(wait)

    def _client(self) -> tuple[Any, dict[str, Any]]:
        """The client, made with the first request, and what goes with each."""
        with self._opening:
            if self._opened is None:
                self._opened = open_client(self._num_connections)
            return self._opened


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
            f"{where} must be given as s3://BUCKET/KEY, without credentials or settings; set {CREDENTIALS} instead"
        )
    if not bucket:
        raise DataError(f"{where} must name a bucket, as in s3://BUCKET/KEY")
    return bucket, key


def _page_getter(bucket: str, prefix: str, token: dict[str, str]) -> Callable[[Any, dict[str, Any]], dict[str, Any]]:
    def get_page(client: Any, options: dict[str, Any]) -> dict[str, Any]:
        page: dict[str, Any] = client.list_objects_v2(Bucket=bucket, Prefix=prefix, **token, **options)
        return page

    return get_page


def _described(address: str, answer: dict[str, Any]) -> StoredObject:
    size = answer["ContentLength"]
    if "ContentRange" in answer:  # bytes 0-99/1234
        size = int(answer["ContentRange"].rpartition("/")[2])
    return StoredObject(address, size, _version(answer.get("ETag"), answer.get("LastModified")))


def _version(etag: str | None, modified: Any) -> str:
    return etag.removeprefix("W/").strip('"') if etag else str(modified)


def _refuse(address: str, error: Exception) -> None:
    """Tell of a failure that trying again does not change."""
    if is_missing(error):
        raise MissingError("there is no such file") from None
    if is_beyond_end(error):
        raise MissingError("it ends before what was asked for begins") from None
    if is_bucket_missing(error):
        raise DataError(_no_bucket(address)) from None
    raise DataError(f"{address} cannot be read: {why_refused(error)}") from None


def _no_bucket(address: str) -> str:
    bucket, _ = split_address(address)
    return (
        f"{address} cannot be read: there is no bucket {bucket}; name another, or check AWS_ENDPOINT_URL and AWS_REGION"
    )
