"""`TrackingError`: what MLflow could not do, in one sentence, without secrets."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import parse_qsl, urlencode, urlsplit

from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

_SECRET = re.compile(r"secret|token|passw|credential|signature|access_?key|api_?key", re.IGNORECASE)
_LONGEST_REASON = 300  # characters of MLflow's own words in our sentence


class TrackingError(RuntimeError):
    """MLflow could not be reached, or refused; one sentence."""


def without_credentials(uri: str) -> str:
    """An address without user name, password and those query fields that carry secrets."""
    parts = urlsplit(uri)
    if "@" in parts.netloc:
        uri = uri.replace(f"{parts.netloc}", parts.netloc.rpartition("@")[2], 1)
    fields = parse_qsl(parts.query, keep_blank_values=True)
    if any(_SECRET.search(name) for name, _ in fields):
        kept = urlencode([(name, value) for name, value in fields if not _SECRET.search(name)])
        uri = uri.replace(f"?{parts.query}", f"?{kept}" if kept else "", 1)
    return uri


@contextmanager
def one_sentence(action: str, uri: str) -> Iterator[None]:
    """Tell a failure of MLflow, of its database or of its artifact store as a `TrackingError`.

    Args:
        action: What is being done, as in `MLflow must <action>`.
        uri: The tracking address; its credentials appear in no message.
    """
    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError, BotoCoreError, ClientError, Boto3Error) as error:
        address = without_credentials(uri)
        lines = str(error).replace(uri, address).strip().splitlines()
        reason = lines[0].strip().rstrip(".")[:_LONGEST_REASON] if lines else type(error).__name__
        raise TrackingError(f"MLflow at {address} must {action}, got an error ({reason})") from error
