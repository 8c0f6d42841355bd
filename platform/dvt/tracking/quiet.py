"""Keeping MLflow's own words off the terminal where ours say enough."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_PROGRESS_BAR = "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"


@contextmanager
def quiet_mlflow() -> Iterator[None]:
    """No progress bar for each small file, and no call for an input example: the signature says what it would."""
    was_set = _PROGRESS_BAR in os.environ
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="mlflow")
        os.environ.setdefault(_PROGRESS_BAR, "false")
        try:
            yield
        finally:
            if not was_set:
                del os.environ[_PROGRESS_BAR]
