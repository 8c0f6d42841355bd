"""The model to classify with: a registered one, or a checkpoint folder."""

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.data.imagenet_info import ImageNetInfo

from dvt.config import ConfigError, Problem
from dvt.data import DataError, open_data
from dvt.data.transforms import MEAN, STD, served_crop_pct
from dvt.exits import ThresholdTable
from dvt.inference import LatencyProfile, read_profiles
from dvt.inference.preparation import Preparation, Transform
from dvt.models import Cascade
from dvt.tracking import TrackingError, tracking_address
from dvt.tracking.front_files import read_front_report
from dvt.tracking.lookup import ModelAddress, model_folder
from dvt.tracking.model_files import read_model_files
from dvt.tracking.version_latency import read_version_profiles
from dvt.train.checkpoint import STATE, Checkpoint, load_checkpoint, load_model
from dvt.train.errors import CheckpointError

_IMAGENET_CLASSES = 1000


@dataclass(frozen=True)
class OpenedModel:
    """A cascade and what it takes to use it on image files."""

    cascade: Cascade  # in evaluation mode, on the CPU
    thresholds: ThresholdTable | None  # None where none were ever chosen
    default_budget_macs: float | None  # None runs all stages
    class_names: tuple[str, ...]
    preparation: Preparation  # of images
    profiles: tuple[LatencyProfile, ...]  # what stages take, one a device; may be empty

    @property
    def transform(self) -> Transform:
        """From a decoded image to the cascade's input."""
        return self.preparation.transform


def open_model(model: str, tracking_uri: str | None, flag: str = "--model") -> OpenedModel:
    """Load a model that a person named.

    Args:
        model: `models:/NAME@ALIAS`, `models:/NAME/VERSION`, or a checkpoint folder.
        tracking_uri: What was typed behind `--tracking-uri`.
        flag: What the model was typed behind, for the sentence if it is none.

    Raises:
        CheckpointError: If the checkpoint cannot be read.
        ConfigError: If it is neither.
        TrackingError: If MLflow does not know the model.
    """
    if (Path(model) / STATE).is_file():
        return _of_checkpoint(load_checkpoint(Path(model)))
    try:
        address = ModelAddress.parse(model)
    except ValueError as error:
        rule = f"must be models:/NAME@ALIAS, models:/NAME/VERSION or a checkpoint folder, got {model!r}"
        raise ConfigError([Problem(flag, rule)]) from error
    uri = tracking_address(tracking_uri)
    with model_folder(uri, address) as folder:
        files = read_model_files(folder)
        cascade = Cascade(files.cascade)
        try:
            cascade.load_state_dict(load_file(files.weights))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise TrackingError(f"{files.weights} must hold the weights of {address}, got others") from error
    return OpenedModel(
        cascade=cascade.eval(),
        thresholds=files.thresholds,
        default_budget_macs=files.default_budget_macs,
        class_names=files.class_names,
        preparation=Preparation(
            in_chans=files.cascade.in_chans,
            image_size=files.cascade.image_size,
            mean=files.mean,
            std=files.std,
            crop_pct=files.crop_pct,
            interpolation=files.interpolation,
        ),
        profiles=read_version_profiles(uri, address),
    )


def _of_checkpoint(checkpoint: Checkpoint) -> OpenedModel:
    """A checkpoint keeps no class names or thresholds: they are looked for where it was trained."""
    config, data = checkpoint.recipe.cascade, checkpoint.recipe.data
    mean, std, class_names = MEAN[config.in_chans], STD[config.in_chans], None
    try:
        found = open_data(data, config)
        mean, std, class_names = found.mean, found.std, found.class_names
    except (ConfigError, DataError):  # the images are not here; the model can do without
        class_names = _usual_names(config.num_classes)
    return OpenedModel(
        cascade=load_model(checkpoint.folder),
        thresholds=_thresholds_beside(checkpoint.folder),
        default_budget_macs=None,
        class_names=class_names,
        preparation=Preparation(
            in_chans=config.in_chans,
            image_size=config.image_size,
            mean=mean,
            std=std,
            crop_pct=served_crop_pct(data),
            interpolation=data.interpolation,
        ),
        profiles=read_profiles(checkpoint.folder),
    )


def _usual_names(num_classes: int) -> tuple[str, ...]:
    is_imagenet = num_classes == _IMAGENET_CLASSES
    return tuple(ImageNetInfo().label_names() if is_imagenet else map(str, range(num_classes)))


def _thresholds_beside(folder: Path) -> ThresholdTable | None:
    """Those that an imported checkpoint holds, or that its run chose; None where there are none."""
    own, chosen = folder / "thresholds.json", folder.parent.parent / "front" / "front.json"
    try:
        if own.is_file():
            return ThresholdTable.from_dict(json.loads(own.read_text(encoding="utf-8")))
        if chosen.is_file():
            return read_front_report(chosen).threshold_table()
    except ValueError as error:
        raise CheckpointError(f"{folder} must come with thresholds that can be read, got others ({error})") from error
    return None
