"""The folder of a registered model in MLflow's format: weights, cascade, thresholds, preprocessing, the core's code.

It holds nothing pickled and needs no installed `dvt`: `served_model.py` runs from it, with the core beside it.
"""

import hashlib
import importlib.metadata
import json
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import torch
from mlflow.entities import LoggedModel
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

from dvt.config import CascadeConfig, Recipe, cascade_to_yaml
from dvt.exits import FrontReport, ThresholdTable
from dvt.inference.latency import LATENCY, QUICK_BATCH_SIZES, QUICK_REPEATS, keep_profile, measure_latency
from dvt.models import Cascade, macs_per_exit
from dvt.models.checksums import file_digest, write_checksums
from dvt.tracking.git import package_folder
from dvt.tracking.lookup import no_progress_bars
from dvt.tracking.model_card import model_card
from dvt.tracking.runs import RunRecord

MODEL_CARD = "model_card.md"
CORE = ("config", "models", "exits", "inference")  # the rooms that a served model needs; they ship with it
MEASURED_MACS = 1e11  # a latency profile that takes more is not measured as a model is registered; seconds on a CPU
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


def write_files(content: ModelContent, folder: Path) -> dict[str, Path]:
    """Write the model's own files, the artifacts of the package; the front is there to look at.

    Args:
        content: What the model is made of.
        folder: Where to; it must not be there yet.

    Returns:
        The files under the names that `served_model.py` reads them by.
    """
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


def content_digest(files: dict[str, Path]) -> str:
    """One SHA-256 over names and contents, the same wherever the files lie."""
    parts = [f"{name} {file_digest(path)}" for name, path in sorted(files.items())]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def save_package(
    local: Path, files: dict[str, Path], content: ModelContent, record: RunRecord, model: LoggedModel
) -> None:
    """Write the model in MLflow's format; `save_model` alone, unlike `log_model`, touches no state of MLflow's.

    Its card and the checksums of all its files go with it, and what its stages take on this device if that is quickly
    measured.

    Args:
        local: The folder to make.
        files: What `write_files` returned.
        content: What they were written of.
        record: The run that made the model.
        model: The model that MLflow knows it as.
    """
    own = files["weights"].parent
    card = own / MODEL_CARD
    card.write_text(model_card(content), encoding="utf-8")
    files = files | _measured(content.recipe.cascade, own) | {"model_card": card}
    files["checksums"] = write_checksums(own)
    with tempfile.TemporaryDirectory() as folder:
        mlflow.pyfunc.save_model(
            path=str(local),
            python_model=str(Path(__file__).with_name("served_model.py")),
            artifacts={name: str(path) for name, path in files.items()},
            code_paths=[str(_copy_core(Path(folder)))],
            pip_requirements=_requirements(),
            signature=_signature(),
            mlflow_model=Model(
                artifact_path=model.artifact_location,
                model_uuid=model.model_id,
                run_id=record.run_id,
                model_id=model.model_id,
            ),
        )


@contextmanager
def quiet_mlflow() -> Iterator[None]:
    """No progress bar for each small file, and no call for an input example: the signature says what it would."""
    with no_progress_bars(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="mlflow")
        yield


def _measured(config: CascadeConfig, folder: Path) -> dict[str, Path]:
    """The latency profile of this machine, where it is quickly measured; else the model measures when it is asked to.

    Seconds do not depend on the weights.
    """
    num_images = sum(QUICK_BATCH_SIZES) * (QUICK_REPEATS + 1)
    if num_images * macs_per_exit(config)[-1] > MEASURED_MACS:
        return {}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")  # as the served model chooses
    keep_profile(folder, measure_latency(Cascade(config).to(device), QUICK_BATCH_SIZES, QUICK_REPEATS))
    return {"latency": folder / LATENCY}


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


def _signature() -> ModelSignature:
    """No schema of the input, which MLflow would hold to one kind: arrays, file bytes and base64 text are all taken."""
    columns: dict[str, Any] = {
        "label": DataType.long,
        "class_name": DataType.string,
        "prob": DataType.float,
        "confidence": DataType.float,
        "exit_index": DataType.long,
        "macs": DataType.double,
    }
    params = [
        ParamSpec("budget_macs", DataType.double, None),
        ParamSpec("budget_ms", DataType.double, None),
        ParamSpec("thresholds", DataType.double, [], (-1,)),
    ]
    outputs = Schema([ColSpec(kind, name) for name, kind in columns.items()])
    return ModelSignature(inputs=None, outputs=outputs, params=ParamSchema(params))
