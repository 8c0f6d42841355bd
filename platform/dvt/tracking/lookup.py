"""Finding what MLflow holds: a run by its id, where it kept its checkpoints, and the files of a logged model."""

import difflib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import unquote, urlsplit

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException

from dvt.tracking.address import check_tracking, sqlite_path
from dvt.tracking.errors import TrackingError, one_sentence, without_credentials
from dvt.tracking.runs import RunRecord

_MODEL = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>[0-9]+))?")
_PROGRESS_BAR = "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"
_MAX_TOLD = 5  # names in one message
_NOT_THERE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


@dataclass(frozen=True)
class ModelAddress:
    """What `models:/NAME@ALIAS`, `models:/NAME/VERSION` or `models:/MODEL_ID` name."""

    name: str  # of the registered model; of one that is not registered its id
    alias: str | None = None
    version: str | None = None

    @classmethod
    def parse(cls, address: str) -> "ModelAddress":
        """Read an address.

        Raises:
            ValueError: If it is of another form.
        """
        match = _MODEL.fullmatch(address)
        if match is None:
            raise ValueError(f"a model's address must be models:/NAME@ALIAS or models:/NAME/VERSION, got {address!r}")
        return cls(match["name"], match["alias"], match["version"])

    def __str__(self) -> str:
        if self.alias is not None:
            return f"models:/{self.name}@{self.alias}"
        return f"models:/{self.name}" + (f"/{self.version}" if self.version is not None else "")


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Keep MLflow 3.17's bar for each file that it moves off the terminal, unless a person asked for it."""
    was_set = _PROGRESS_BAR in os.environ
    os.environ.setdefault(_PROGRESS_BAR, "false")
    try:
        yield
    finally:
        if not was_set:
            os.environ.pop(_PROGRESS_BAR, None)


def check_store(uri: str) -> None:
    """Make sure that there is an MLflow at an address, without making one.

    Raises:
        TrackingError: If there is none, or it does not answer.
    """
    path = sqlite_path(uri)
    if path is not None and not path.is_file():  # opening it would make an empty one
        raise TrackingError(f"--tracking-uri must name MLflow's SQLite file, got {uri}, where there is none")
    check_tracking(uri)


def find_run(uri: str, run_id: str) -> RunRecord:
    """The record of a run that is there.

    Args:
        uri: The tracking address.
        run_id: The run.

    Raises:
        TrackingError: If MLflow does not answer, or does not know the run.
    """
    check_store(uri)
    with one_sentence(f"find run {run_id}", uri):
        try:
            run = MlflowClient(tracking_uri=uri).get_run(run_id)
        except MlflowException as error:
            if error.error_code not in _NOT_THERE:
                raise
            address = without_credentials(uri)
            raise TrackingError(f"the run must be known to MLflow at {address}, got {run_id!r}") from error
    return RunRecord(uri, str(run.info.experiment_id), run_id)


def run_folder_of(record: RunRecord) -> str:
    """Where a training run said that its folder is: below its storage path, under its own name.

    Raises:
        TrackingError: If the run is not one of `dvt train`.
    """
    with one_sentence(f"read run {record.run_id}", record.tracking_uri):
        run = MlflowClient(tracking_uri=record.tracking_uri).get_run(record.run_id)
    storage = run.data.params.get("run.storage_path")
    if storage is None:
        raise TrackingError(
            f"run {record.run_id} must be one of dvt train, got one without run.storage_path; give a checkpoint folder"
        )
    return f"{storage.rstrip('/')}/{run.info.run_name}"


@contextmanager
def model_folder(uri: str, address: ModelAddress) -> Iterator[Path]:
    """The files of a logged model as a local folder while the context lasts: copied here if they are elsewhere.

    Args:
        uri: The tracking address.
        address: The model.

    Raises:
        TrackingError: If MLflow does not know the model, or its files cannot be had.
    """
    check_store(uri)
    with one_sentence(f"find {address}", uri):
        source = _source(MlflowClient(tracking_uri=uri), uri, address)
    local = _local_folder(source)
    if local is not None:
        yield local
        return
    with TemporaryDirectory(prefix="dvt-") as scratch:
        with one_sentence(f"hand over the files of {address}", uri), no_progress_bars():
            folder = download_artifacts(artifact_uri=source, dst_path=scratch, tracking_uri=uri)
        yield Path(folder)


def find_version(uri: str, address: ModelAddress) -> ModelVersion | None:
    """The version of a registered model that an address names; None of one that is not registered.

    Args:
        uri: The tracking address.
        address: The model.

    Raises:
        TrackingError: If MLflow does not know the model.
    """
    check_store(uri)
    with one_sentence(f"find {address}", uri):
        return _version(MlflowClient(tracking_uri=uri), uri, address)


def find_registered(uri: str, name: str) -> RegisteredModel:
    """A registered model with its aliases and tags.

    Args:
        uri: The tracking address.
        name: Its name.

    Raises:
        TrackingError: If MLflow does not answer, or does not know the model.
    """
    check_store(uri)
    with one_sentence(f"find the registered model {name}", uri):
        client = MlflowClient(tracking_uri=uri)
        try:
            return client.get_registered_model(name)
        except MlflowException as error:
            if error.error_code not in (*_NOT_THERE, "NOT_FOUND"):
                raise
            known = [model.name for model in client.search_registered_models()]
            near = difflib.get_close_matches(name, known, n=1)
            advice = f"did you mean {near[0]}?" if near else f"there are {', '.join(known[:_MAX_TOLD]) or 'none'}"
            at = without_credentials(uri)
            raise TrackingError(
                f"the registered model must be known to MLflow at {at}, got {name!r}; {advice}"
            ) from error


def _source(client: MlflowClient, uri: str, address: ModelAddress) -> str:
    """Where the files of a model are."""
    version = _version(client, uri, address)
    if version is not None:
        return str(client.get_model_version_download_uri(version.name, version.version))
    with _known(uri, address):
        return str(client.get_logged_model(address.name).artifact_location)


def _version(client: MlflowClient, uri: str, address: ModelAddress) -> ModelVersion | None:
    with _known(uri, address):
        if address.alias is not None:
            return client.get_model_version_by_alias(address.name, address.alias)
        if address.version is not None:
            return client.get_model_version(address.name, address.version)
    return None


@contextmanager
def _known(uri: str, address: ModelAddress) -> Iterator[None]:
    """Turn what MLflow says of a model that it does not know into one sentence."""
    try:
        yield
    except MlflowException as error:
        if error.error_code not in (*_NOT_THERE, "NOT_FOUND"):
            raise
        at = without_credentials(uri)
        raise TrackingError(f"the model must be known to MLflow at {at}, got {address}") from error


def _local_folder(source: str) -> Path | None:
    parts = urlsplit(source)
    path = Path(unquote(parts.path)) if parts.scheme in ("", "file") else None
    return path if path is not None and path.is_dir() else None
