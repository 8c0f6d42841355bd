"""From a checkpoint to a registered model: an MLflow LoggedModel with its metrics, a version of it, and an alias.

The order keeps a half-made model out of sight: files, metrics, then the registry. Every step looks first whether it was
done, so that the same call after a crash goes on where it stopped; a model is known again by the digest of its content.
"""

import hashlib
import importlib.metadata
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Metric
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec

from dvt.config import CascadeConfig, Recipe, cascade_to_yaml, flatten, to_dict
from dvt.exits import FrontReport, ThresholdTable
from dvt.models import macs_per_exit
from dvt.tracking.errors import one_sentence
from dvt.tracking.git import package_folder
from dvt.tracking.model_card import keep_card
from dvt.tracking.runs import RunRecord

CONTENT_TAG = "content.sha256"
CORE = ("config", "models", "exits", "inference")  # the rooms that a served model needs; they ship with it
_PROGRESS_BAR = "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"
_REQUIREMENTS = ("mlflow", "numpy", "pandas", "pydantic", "pyyaml", "safetensors", "timm", "torch", "torchvision")


@dataclass(frozen=True, kw_only=True)
class ModelContent:
    """Everything that a registered model is made of."""

    recipe: Recipe  # what it was trained with
    weights: Path  # the safetensors file to serve, averaged weights if there are any
    step: int  # the optimizer update that the weights are from
    thresholds: ThresholdTable  # to leave early with, by what they cost
    report: FrontReport | None  # what exits and budgets reached on the test images; None where nothing was measured
    published_top1: Sequence[float] = ()  # (E,) from 0 to 1; what an imported file says of its exits, not measured here
    class_names: Sequence[str]  # in the order of the labels
    mean: Sequence[float]  # per channel, of images in [0, 1]
    std: Sequence[float]  # per channel
    crop_pct: float = 0.875  # share of the resized side that the centre crop keeps, for image files
    interpolation: str = "bicubic"  # resampling of image files

    @property
    def default_budget_macs(self) -> float:
        """The budget of a request that names none: the largest one reported, but no more than the last exit costs."""
        most = float(macs_per_exit(self.recipe.cascade)[-1])
        reported = () if self.report is None else self.report.budgets
        return min(most, max((point.budget_macs for point in reported), default=most))


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
        files = _write_files(content, Path(folder) / "files")
        model = _logged_model(client, record, content, digest=_digest(files))
        if model.status != LoggedModelStatus.READY:
            local = Path(folder) / "model"
            with _quiet_mlflow():
                _save(local, files, content, record, model)
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


def _write_files(content: ModelContent, folder: Path) -> dict[str, Path]:
    """The model's own files, under the names that `served_model.py` reads them by; the front is there to look at."""
    folder.mkdir()
    serving = {
        "class_names": list(content.class_names),
        "mean": [float(value) for value in content.mean],
        "std": [float(value) for value in content.std],
        "default_budget_macs": content.default_budget_macs,
        "crop_pct": content.crop_pct,
        "interpolation": content.interpolation,
    }
    texts = {
        "cascade.yaml": cascade_to_yaml(content.recipe.cascade),
        "thresholds.json": json.dumps(content.thresholds.to_dict(), indent=1),
        "serving.json": json.dumps(serving, indent=1),
    }
    if content.report is not None:
        texts["front.json"] = json.dumps(content.report.to_dict(), indent=1)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    weights = folder / "model.safetensors"
    shutil.copyfile(content.weights, weights)
    return {"weights": weights} | {Path(name).stem: folder / name for name in texts}


def _digest(files: dict[str, Path]) -> str:
    parts = []
    for name, path in sorted(files.items()):
        with path.open("rb") as file:
            parts.append(f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


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


def _save(local: Path, files: dict[str, Path], content: ModelContent, record: RunRecord, model: LoggedModel) -> None:
    """Write the model in MLflow's format; `save_model` alone, unlike `log_model`, touches no state of MLflow's."""
    with tempfile.TemporaryDirectory() as folder:
        mlflow.pyfunc.save_model(
            path=str(local),
            python_model=str(Path(__file__).with_name("served_model.py")),
            artifacts={name: str(path) for name, path in files.items()},
            code_paths=[str(_copy_core(Path(folder)))],
            pip_requirements=_requirements(),
            signature=_signature(content),
            mlflow_model=Model(
                artifact_path=model.artifact_location,
                model_uuid=model.model_id,
                run_id=record.run_id,
                model_id=model.model_id,
            ),
        )


@contextmanager
def _quiet_mlflow() -> Iterator[None]:
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


def _copy_core(folder: Path) -> Path:
    """The core of this package alone, so that a served model cannot come to need the rest."""
    source, target = package_folder(), folder / "dvt"
    target.mkdir()
    shutil.copyfile(source / "__init__.py", target / "__init__.py")
    for room in CORE:
        shutil.copytree(source / room, target / room, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    return target


def _requirements() -> list[str]:
    # A local label as in 2.15.0+cpu is known to no package index.
    return [f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in _REQUIREMENTS]


def _signature(content: ModelContent) -> ModelSignature:
    config: CascadeConfig = content.recipe.cascade
    shape = (-1, config.in_chans, config.image_size, config.image_size)
    columns: dict[str, Any] = {
        "label": DataType.long,
        "class_name": DataType.string,
        "confidence": DataType.float,
        "exit_index": DataType.long,
        "macs": DataType.double,
    }
    return ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.float32), shape)]),
        outputs=Schema([ColSpec(kind, name) for name, kind in columns.items()]),
        params=ParamSchema([ParamSpec("budget_macs", DataType.double, content.default_budget_macs)]),
    )


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
