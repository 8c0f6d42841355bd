"""A registered model's own files, read back: what it takes to classify as the served model does, without running it."""

import json
from dataclasses import dataclass
from pathlib import Path

from dvt.config import CascadeConfig, ConfigError, cascade_from_yaml
from dvt.exits import ThresholdTable
from dvt.models.checksums import ChecksumError, check_files
from dvt.tracking.errors import TrackingError

_FILES = "artifacts"  # where MLflow puts a model's files in its folder


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """What a registered model says of itself."""

    cascade: CascadeConfig
    weights: Path  # a safetensors file
    thresholds: ThresholdTable
    class_names: tuple[str, ...]
    mean: tuple[float, ...]  # per channel, of images in [0, 1]
    std: tuple[float, ...]  # per channel
    crop_pct: float  # share of the resized side that the centre crop keeps
    interpolation: str  # resampling of image files
    default_budget_macs: float  # of a request that names none


def read_model_files(folder: Path) -> ModelFiles:
    """Read the files that `log_and_register_model` wrote.

    Args:
        folder: The model's folder, with MLflow's `MLmodel` in it.

    Raises:
        TrackingError: If it holds another kind of model, or a file fails its checksum.
    """
    files = folder / _FILES
    try:
        check_files(files)
    except ChecksumError as error:
        raise TrackingError(str(error)) from error
    try:
        serving = json.loads((files / "serving.json").read_text(encoding="utf-8"))
        return ModelFiles(
            cascade=cascade_from_yaml((files / "cascade.yaml").read_text(encoding="utf-8")),
            weights=files / "model.safetensors",
            thresholds=ThresholdTable.from_dict(json.loads((files / "thresholds.json").read_text(encoding="utf-8"))),
            class_names=tuple(serving["class_names"]),
            mean=tuple(serving["mean"]),
            std=tuple(serving["std"]),
            # Models from before these two were kept were evaluated so.
            crop_pct=float(serving.get("crop_pct", 0.875)),
            interpolation=str(serving.get("interpolation", "bicubic")),
            default_budget_macs=float(serving["default_budget_macs"]),
        )
    except (OSError, ConfigError, ValueError, KeyError, TypeError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise TrackingError(f"{folder} must hold a model that dvt registered, got another ({reason})") from error
