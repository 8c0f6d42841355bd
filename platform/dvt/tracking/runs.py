"""MLflow runs: one per training run, the same one after a restart, with what it takes to repeat it.

MLflow's fluent functions keep their state per thread and in the environment, so everything here goes through
`MlflowClient` and run ids.
"""

import getpass
import importlib.metadata
import json
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from mlflow import MlflowClient
from mlflow.entities import Param, Run, RunTag
from mlflow.exceptions import MlflowException

from dvt.config import ConfigError, Problem, Recipe, flatten, recipe_to_yaml, to_dict
from dvt.config.secrets import without_credentials_in
from dvt.tracking.address import artifact_folder, quiet_schema_creation
from dvt.tracking.errors import TrackingError, one_sentence, without_credentials
from dvt.tracking.git import UNKNOWN, CodeVersion, code_version

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]

CONFIG_FILE = "config.yaml"
_LONGEST_PARAM = 6000  # characters; MLflow 3.17 cuts what is longer and logs it whole as a warning
_CUT = " (cut, see config.yaml)"
_MISSING = "RESOURCE_DOES_NOT_EXIST"
_PACKAGES = ("torch", "timm", "ray", "mlflow")


@dataclass(frozen=True)
class RunRecord:
    """Which MLflow run a training run reports to; kept beside the checkpoints, so that a restart finds the same one."""

    tracking_uri: str = field(repr=False)  # may carry credentials; `to_json` leaves them out
    experiment_id: str
    run_id: str

    @property
    def address(self) -> str:
        """The tracking address without credentials, to show."""
        return without_credentials(self.tracking_uri)

    @property
    def page_path(self) -> str:
        """The run's page, to put behind the address of MLflow's web server."""
        return f"#/experiments/{self.experiment_id}/runs/{self.run_id}"

    def to_json(self) -> str:
        """The record as one line of JSON, without credentials."""
        return json.dumps(asdict(self) | {"tracking_uri": self.address})

    @classmethod
    def from_json(cls, text: str) -> "RunRecord":
        """Read what `to_json` gave; `open_run` takes credentials from today's tracking address.

        Raises:
            TrackingError: If it is something else.
        """
        try:
            tree = json.loads(text)
            return cls(**{name: str(tree[name]) for name in ("tracking_uri", "experiment_id", "run_id")})
        except (ValueError, KeyError, TypeError) as error:
            raise TrackingError(
                f"the record of the MLflow run must be JSON with tracking_uri, experiment_id and run_id, got {text!r}; "
                "start a new run under another run.name"
            ) from error


def open_run(
    recipe: Recipe,
    *,
    tracking_uri: str,
    run_name: str,
    resume: RunRecord | None = None,
    parent: RunRecord | None = None,
    tags: Mapping[str, str] | None = None,
) -> RunRecord:
    """Start an MLflow run for a recipe, or reopen exactly the one that was started before.

    Params are the flattened recipe, `config.yaml` is the whole of it, tags tell the code and the versions of what it
    runs on; none holds credentials. Where a reopened run differs from its start, the new value stands in the tag
    `resumed.<name>` (MLflow never changes a param) and `config.yaml` is the newest.

    Args:
        recipe: What is run.
        tracking_uri: What `resolve_tracking_uri` gave and `check_tracking` accepted.
        run_name: The name that people see.
        resume: The run to go on with; None starts one.
        parent: The run that the new one stands under, as a trial does under its search.
        tags: More tags of the run.

    Returns:
        The record of the run, which is RUNNING.

    Raises:
        ConfigError: If `run.experiment` names a deleted experiment.
        TrackingError: If the run to go on with is gone, or MLflow refuses.
    """
    params, config = _described(recipe)
    tags = _code_tags(code_version()) | dict(tags or {})
    with one_sentence("open the run", tracking_uri), quiet_schema_creation():
        client = MlflowClient(tracking_uri=tracking_uri)
        if resume is not None:
            record = _reopen(client, tracking_uri, resume, params, tags)
        else:
            record = _start(client, recipe, tracking_uri, run_name, tags, parent)
            client.log_batch(record.run_id, params=[Param(name, value) for name, value in params.items()])
        client.log_text(record.run_id, config, CONFIG_FILE)
    return record


def finish_run(record: RunRecord, status: RunStatus) -> None:
    """Close a run; it may be reopened with `open_run`.

    Raises:
        TrackingError: If MLflow refuses.
    """
    with one_sentence(f"close run {record.run_id}", record.tracking_uri):
        MlflowClient(tracking_uri=record.tracking_uri).set_terminated(record.run_id, status)


@contextmanager
def closed_as_it_ends(record: RunRecord) -> Iterator[None]:
    """Close a run with how the context ends: finished, killed by Ctrl-C, or failed.

    Raises:
        TrackingError: If MLflow refuses; of a context that failed, its own error is raised instead.
    """
    status: RunStatus = "FAILED"
    try:
        yield
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        # What ended the run must be told, not that MLflow could not be told of it.
        with suppress(TrackingError) if status != "FINISHED" else nullcontext():
            finish_run(record, status)


def log_artifacts(record: RunRecord, folder: Path, artifact_path: str | None = None) -> None:
    """Keep every file of a folder with the run, over older ones of the same name.

    Args:
        record: The run.
        folder: A local folder.
        artifact_path: Folder among the run's artifacts; None is their root.

    Raises:
        TrackingError: If a file cannot be kept.
    """
    with one_sentence(f"keep the files of {folder}", record.tracking_uri):
        MlflowClient(tracking_uri=record.tracking_uri).log_artifacts(record.run_id, str(folder), artifact_path)


def log_tags(record: RunRecord, tags: Mapping[str, str]) -> None:
    """Set tags of the run, over older ones of the same name.

    Raises:
        TrackingError: If MLflow refuses.
    """
    with one_sentence(f"tag run {record.run_id}", record.tracking_uri):
        client = MlflowClient(tracking_uri=record.tracking_uri)
        client.log_batch(record.run_id, tags=[RunTag(name, value) for name, value in tags.items()])


def _described(recipe: Recipe) -> tuple[dict[str, str], str]:
    """The recipe as params and as a file, without credentials."""
    tree = without_credentials_in(to_dict(recipe))
    return {name: _as_param(value) for name, value in flatten(tree).items()}, recipe_to_yaml(recipe)


def _as_param(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)  # null, true and lists as a recipe spells them
    return text if len(text) <= _LONGEST_PARAM else text[: _LONGEST_PARAM - len(_CUT)] + _CUT


def _code_tags(code: CodeVersion) -> dict[str, str]:
    tags = {
        "git.commit": code.commit,
        "git.dirty": code.is_dirty,
        "source.sha256": code.source_sha256,
        "version.python": platform.python_version(),
    }
    if code.commit != UNKNOWN:
        tags["mlflow.source.git.commit"] = code.commit  # MLflow's page shows this one
    for package in _PACKAGES:
        try:
            tags[f"version.{package}"] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            tags[f"version.{package}"] = UNKNOWN
    return tags


def _start(
    client: MlflowClient,
    recipe: Recipe,
    tracking_uri: str,
    run_name: str,
    tags: Mapping[str, str],
    parent: RunRecord | None,
) -> RunRecord:
    experiment_id = _experiment_id(client, recipe.run.experiment, tracking_uri)
    first = {"mlflow.user": _user_name(), "mlflow.source.name": "dvt", "mlflow.source.type": "LOCAL"}
    if parent is not None:
        first["mlflow.parentRunId"] = parent.run_id
    run = client.create_run(experiment_id, run_name=run_name, tags={**tags, **first})
    return RunRecord(tracking_uri, experiment_id, run.info.run_id)


def _experiment_id(client: MlflowClient, name: str, tracking_uri: str) -> str:
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        folder = artifact_folder(tracking_uri)
        try:
            return str(client.create_experiment(name, artifact_location=None if folder is None else folder.as_uri()))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            experiment = client.get_experiment_by_name(name)  # another process was faster
    if experiment is None or experiment.lifecycle_stage != "active":
        rule = f"must be an active MLflow experiment, got {name!r}, which is deleted; restore it or choose another name"
        raise ConfigError([Problem("run.experiment", rule)])
    return str(experiment.experiment_id)


def _reopen(
    client: MlflowClient, tracking_uri: str, resume: RunRecord, params: Mapping[str, str], tags: Mapping[str, str]
) -> RunRecord:
    run = _existing_run(client, tracking_uri, resume)
    held = run.data.params | {name: value for name, value in run.data.tags.items() if name in tags}
    changed = {
        f"resumed.{name}": value for name, value in {**params, **tags}.items() if name in held and held[name] != value
    }
    missing = {name: value for name, value in tags.items() if name not in held}
    client.log_batch(
        resume.run_id,
        # A run whose start was cut short lacks params.
        params=[Param(name, value) for name, value in params.items() if name not in held],
        tags=[RunTag(name, value) for name, value in {**missing, **changed}.items()],
    )
    client.update_run(resume.run_id, status="RUNNING")
    return RunRecord(tracking_uri, str(run.info.experiment_id), resume.run_id)


def _existing_run(client: MlflowClient, tracking_uri: str, resume: RunRecord) -> Run:
    advice = "or start a new run under another run.name"
    address = without_credentials(tracking_uri)
    try:
        run = client.get_run(resume.run_id)
    except MlflowException as error:
        if error.error_code != _MISSING:
            raise
        raise TrackingError(
            f"the MLflow run to go on with must exist, got {resume.run_id}, which is not at {address}; "
            f"give the tracking address that it was started with ({resume.address}) {advice}"
        ) from error
    if run.info.lifecycle_stage != "active":
        raise TrackingError(
            f"the MLflow run to go on with must exist, got {resume.run_id}, which was deleted at {address}; "
            f"restore it (mlflow runs restore --run-id {resume.run_id}) {advice}"
        )
    return run


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user number without a name
        return UNKNOWN
