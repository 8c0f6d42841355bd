"""`TrackingError`: what MLflow could not do, in one sentence, without secrets."""

from collections.abc import Iterator
from contextlib import contextmanager

from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from dvt.config.secrets import redacted, without_credentials

__all__ = ["TrackingError", "one_sentence", "without_credentials"]

_LONGEST_REASON = 300  # characters of MLflow's own words in our sentence


class TrackingError(RuntimeError):
    """MLflow could not be reached, or refused; one sentence."""


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
        lines = redacted(str(error).replace(uri, address)).strip().splitlines()
        reason = lines[0].strip().rstrip(".")[:_LONGEST_REASON] if lines else type(error).__name__
        raise TrackingError(f"MLflow at {address} must {action}, got an error ({reason})") from error
