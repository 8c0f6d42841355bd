"""What a checkpoint is registered as."""

from collections.abc import Sequence
from pathlib import Path

from dvt.config import Recipe
from dvt.data.transforms import served_crop_pct
from dvt.exits import FrontReport, ThresholdTable
from dvt.tracking import ModelContent
from dvt.train.checkpoint import load_checkpoint


def checkpoint_content(
    recipe: Recipe,
    folder: Path,
    front: FrontReport | ThresholdTable,
    class_names: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
) -> ModelContent:
    """A checkpoint with what was measured of it, ready to be registered.

    Args:
        recipe: What it was trained with.
        folder: The checkpoint.
        front: What it reached; thresholds alone where nothing was measured here.
        class_names: In the order of the labels.
        mean: Per channel, of pixels from 0 to 1.
        std: Per channel.

    Raises:
        CheckpointError: If it cannot be read.
    """
    checkpoint = load_checkpoint(folder)
    report = front if isinstance(front, FrontReport) else None
    return ModelContent(
        recipe=recipe,
        weights=checkpoint.weights,
        step=checkpoint.step,
        thresholds=front.threshold_table() if isinstance(front, FrontReport) else front,
        report=report,
        class_names=class_names,
        mean=mean,
        std=std,
        crop_pct=served_crop_pct(recipe.data),
        interpolation=recipe.data.interpolation,
    )
