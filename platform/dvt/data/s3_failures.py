"""What failures of S3 mean: whether they pass, and what a person is told of those that do not.

Their own words may hold an endpoint with a password, or a signature, so none of these is told: only what kind they are.
"""

import re

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSLError,
)
from botocore.exceptions import ConnectionError as NoConnectionError
from s3fs.core import S3_RETRYABLE_ERRORS

# Of a busy server or a broken line; s3fs 2026.9 does not count connections that are reset or refused among them.
PASSING: tuple[type[Exception], ...] = (
    *S3_RETRYABLE_ERRORS,
    NoConnectionError,
    HTTPClientError,
    IncompleteReadError,
    ConnectionError,
)
FAILURES: tuple[type[Exception], ...] = (*PASSING, ClientError, BotoCoreError)  # all that S3 adds to OSError
# All that opening a folder at an address that a person typed, and using it, may raise.
STORAGE_FAILURES: tuple[type[Exception], ...] = (OSError, ImportError, ValueError, *FAILURES)
CREDENTIALS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE"
_BUSY_STATUSES = (408, 429, 500, 502, 503, 504)
_BUSY_CODES = ("InternalError", "RequestTimeout", "ServiceUnavailable", "SlowDown", "Throttling", "ThrottlingException")
_MISSING_CODES = ("404", "NoSuchKey", "NotFound")


def is_passing(error: Exception) -> bool:
    """Whether asking again may help."""
    if isinstance(error, ClientError):
        return _status(error) in _BUSY_STATUSES or _code(error) in _BUSY_CODES
    return isinstance(error, PASSING) and not isinstance(error, SSLError)  # a certificate stays wrong


def is_missing(error: Exception) -> bool:
    """Whether there is no such object; a `HEAD` tells the same of a bucket that is not there."""
    return isinstance(error, ClientError) and _code(error) in _MISSING_CODES


def is_beyond_end(error: Exception) -> bool:
    """Whether an object ends before the range that was asked for begins."""
    return isinstance(error, ClientError) and _status(error) == 416


def is_bucket_missing(error: Exception) -> bool:
    """Whether there is no such bucket."""
    return isinstance(error, ClientError) and _code(error) == "NoSuchBucket"


def failure_name(error: Exception) -> str:
    """What a failure is called, without its own words."""
    if isinstance(error, ClientError):
        status, code = str(_status(error)), _code(error)
        return status if code in ("", status) else f"{status} {code}"
    return type(error).__name__


def why_refused(error: Exception) -> str:
    """What is wrong where asking again does not help, and what to look at."""
    if isinstance(error, ClientError) and _status(error) in (401, 403):
        return f"the server refused the credentials in use ({failure_name(error)}); check {CREDENTIALS}"
    if isinstance(error, ClientError):
        return f"the server refused ({failure_name(error)}); check the address, AWS_ENDPOINT_URL and AWS_REGION"
    if isinstance(error, NoCredentialsError):
        return f"no credentials were found; set {CREDENTIALS}, or FSSPEC_S3_ANON=true for a public bucket"
    if isinstance(error, (PartialCredentialsError, ProfileNotFound)):
        return f"the credentials are not complete ({failure_name(error)}); check {CREDENTIALS}"
    rule = "check the address, AWS_ENDPOINT_URL and AWS_REGION"
    return f"the request could not be sent ({failure_name(error)}); {rule}"


def why_failed(error: Exception) -> str:
    """Why reading or writing through fsspec failed; of S3 in words of our own, of others in theirs."""
    cause = error.__cause__  # s3fs makes an OSError of what a server answered, in the server's words
    of_s3 = cause if isinstance(cause, (ClientError, BotoCoreError)) else error
    if not isinstance(of_s3, FAILURES) or (isinstance(of_s3, OSError) and of_s3.errno is not None):
        return str(error)
    if is_missing(of_s3):
        return "there is no such file"
    if is_bucket_missing(of_s3):
        return "there is no such bucket; name another, or check AWS_ENDPOINT_URL and AWS_REGION"
    if is_passing(of_s3):
        return f"the server does not answer ({failure_name(of_s3)}); run again once it does"
    return why_refused(of_s3)


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _code(error: ClientError) -> str:
    return re.sub(r"[^A-Za-z0-9]", "", str(error.response.get("Error", {}).get("Code", "")))
