"""From a checkpoint to a registered model: an MLflow LoggedModel with its metrics, a version of it, and an alias.

The order keeps a half-made model out of sight: files, metrics, then the registry. Every step looks first whether it was
done, so that the same call after a crash goes on where it stopped; a model is known again by the digest of its content.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Metric
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from dvt.config import flatten, to_dict
from dvt.models import macs_per_exit
from dvt.tracking.errors import one_sentence
from dvt.tracking.model_card import keep_card
from dvt.tracking.model_package import ModelContent, content_digest, quiet_mlflow, save_package, write_files
from dvt.tracking.runs import RunRecord

CONTENT_TAG = "content.sha256"


@dataclass(frozen=True, kw_only=True)
class ModelRecord:
    """Where a logged model is, and as what it is registered."""

    model_id: str
    model_uri: str  # models:/NAME/VERSION, or models:/MODEL_ID of a model that is not registered
    registered_name: str | None
    version: str | None


def log_and_register_model(
    record: RunRecord, content: ModelContent, *, registered_name: str | None, alias: str = "candidate"
) -> ModelRecord:
    """Log a model with its metrics, and register it last, described by its card.

    Calling it again finds what the first call made, complete or not. The alias stays on a newer version.

    Args:
        record: The run that made the model.
        content: What the model is made of.
        registered_name: Name in the registry; None registers nothing.
        alias: The alias that the version gets.

    Raises:
        TrackingError: If a file, a metric or the registration was refused.
    """
    with one_sentence("keep the model", record.tracking_uri), tempfile.TemporaryDirectory() as folder:
        client = MlflowClient(tracking_uri=record.tracking_uri)
        files = write_files(content, Path(folder) / "files")
        model = _logged_model(client, record, content, digest=content_digest(files))
        if model.status != LoggedModelStatus.READY:
            local = Path(folder) / "model"
            with quiet_mlflow():
                save_package(local, files, content, record, model)
                client.log_model_artifacts(model.model_id, str(local))
        _log_metrics(client, record, content, model)
        model = client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    if registered_name is None:
        uri = f"models:/{model.model_id}"
        return ModelRecord(model_id=model.model_id, model_uri=uri, registered_name=None, version=None)
    with one_sentence(f"register {registered_name}", record.tracking_uri):
        version = _model_version(client, record, model, registered_name)
        keep_card(client, version, content)
        _set_alias(client, version, alias)
    return ModelRecord(
        model_id=model.model_id,
        model_uri=f"models:/{registered_name}/{version.version}",
        registered_name=registered_name,
        version=str(version.version),
    )


def model_metrics(content: ModelContent) -> dict[str, float]:
    """A model's metrics: per exit cumulative `exit_<n>/macs` and `test/exit_<n>/top1`; per budget accuracy and cost.

    Exits and budgets count from 1, in the report's order. `test/front_optimism` tells how much better the front looks
    on the images it was chosen on, `calibration/area/<confidence>` what spoke for the confidence. Without a report
    there are the costs alone, and what an imported file says of its exits as `published/exit_<n>/top1`, so that nobody
    takes it for measured here.
    """
    costs = macs_per_exit(content.recipe.cascade)
    metrics = {f"exit_{number}/macs": float(macs) for number, macs in enumerate(costs, start=1)}
    metrics |= {f"published/exit_{exit}/top1": top1 for exit, top1 in enumerate(content.published_top1, start=1)}
    report = content.report
    if report is None:
        return metrics
    for row in report.exits:
        metrics[f"test/exit_{row.exit_index}/top1"] = row.test_top1
    for number, point in enumerate(report.budgets, start=1):
        metrics[f"budget_{number}/macs"] = point.budget_macs
        metrics[f"test/budget_{number}/top1"] = point.test.accuracy
        metrics[f"test/budget_{number}/macs"] = point.test.macs
    metrics["test/front_optimism"] = report.front_optimism
    metrics |= {f"calibration/area/{name}": area for name, area in report.confidence_areas.items()}
    if report.guarantee is not None:
        metrics["guarantee/tolerated_loss"] = report.guarantee.promise.tolerated_loss
        metrics["guarantee/level"] = report.guarantee.promise.level
        metrics["test/guarantee/top1"] = report.guarantee.test.accuracy
        metrics["test/guarantee/macs"] = report.guarantee.test.macs
    return metrics


def _logged_model(client: MlflowClient, record: RunRecord, content: ModelContent, digest: str) -> LoggedModel:
    """The model of this content that the run has, or a new one; linked to the run at the step."""
    found = client.search_logged_models(
        [record.experiment_id],
        filter_string=f"source_run_id = '{record.run_id}' AND tags.`{CONTENT_TAG}` = '{digest}'",
        max_results=1,
    )
    if found:
        model = found[0]
    else:
        params = {name: str(value) for name, value in flatten(to_dict(content.recipe.cascade)).items()}
        model = client.create_logged_model(
            record.experiment_id,
            name=f"dvt-{content.recipe.name}",
            source_run_id=record.run_id,
            tags={CONTENT_TAG: digest},
            params=params,
            model_type="dvt",
        )
    outputs = client.get_run(record.run_id).outputs
    linked = [] if outputs is None else [output.model_id for output in outputs.model_outputs]
    if model.model_id not in linked:
        client.log_outputs(record.run_id, [LoggedModelOutput(model.model_id, step=content.step)])
    return model


def _log_metrics(client: MlflowClient, record: RunRecord, content: ModelContent, model: LoggedModel) -> None:
    # The model's own time makes a repeated call log the same rows, which MLflow keeps once.
    batch = [
        Metric(name, value, model.creation_timestamp, content.step, model_id=model.model_id, run_id=record.run_id)
        for name, value in model_metrics(content).items()
    ]
    client.log_batch(record.run_id, metrics=batch)


def _model_version(client: MlflowClient, record: RunRecord, model: LoggedModel, name: str) -> ModelVersion:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    for version in client.search_model_versions(f"name = '{name}' AND run_id = '{record.run_id}'"):
        if version.source == model.artifact_location:  # MLflow 3.17's SQL registry does not keep model_id
            return version
    # The source is a plain place: MLflow 3.17's SQL registry looks models:/ID up at the process-wide tracking address.
    return client.create_model_version(
        name, source=model.artifact_location, run_id=record.run_id, model_id=model.model_id
    )


def _set_alias(client: MlflowClient, version: ModelVersion, alias: str) -> None:
    current = client.get_registered_model(version.name).aliases.get(alias)
    if current is None or int(current) < int(version.version):
        client.set_registered_model_alias(version.name, alias, version.version)
