"""A registered model with versions of known worth on real image files, for the tests of the gate.

The images are noise, sorted into classes by what the model of seed 0 says at both of its exits: so it is right about
most of them wherever they leave, and a model of another seed about a fifth.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dvt.config import DataConfig, Recipe
from dvt.data.transforms import inference_transform, read_image
from dvt.exits import ThresholdTable, single_exit_thresholds
from dvt.exits.threshold_table import ThresholdRow
from dvt.models import macs_per_exit
from dvt.tracking import check_tracking, log_and_register_model, open_run
from tests.unit.tracking.tiny import CASCADE, CLASS_NAMES, MEAN, STD, Tiny, make_tiny, tiny_recipe

MACS = tuple(map(float, macs_per_exit(CASCADE)))
MIDDLE = sum(MACS) / 2  # a budget
TRANSFORM = inference_transform(16, 0.875, "bicubic", (MEAN,), (STD,))
FAIR = 0.85  # share of the test images that are in the class which the model of seed 0 says


@dataclass(frozen=True)
class Gate:
    """Where everything is."""

    uri: str
    root: Path  # of the images
    num_images: int
    share: float  # of them that the model of seed 0 is right about, at either exit
    tinies: dict[int, Tiny]  # by seed


def make_gate(folder: Path, seeds: tuple[int, ...] = (0, 1)) -> Gate:
    tinies = {seed: make_tiny(folder, seed=seed) for seed in seeds}
    root = folder / "images"
    num_images, num_right = _write_images(root, tinies[0])
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    check_tracking(uri)
    return Gate(uri, root, num_images, num_right / num_images, tinies)


def images_of(gate: Gate) -> Tensor:
    """The test images as the models take them, in the data set's order."""
    files = [file for name in CLASS_NAMES for file in sorted((gate.root / "val" / name).iterdir())]
    return torch.stack([TRANSFORM(read_image(file, 1)) for file in files])


def gate_recipe(root: Path, **changes: object) -> Recipe:
    data = DataConfig(source="folder", root=str(root), calibration_images=4, loader_workers=0)
    return replace(tiny_recipe(), data=replace(data, **changes))


def leaving_at(index: int) -> ThresholdTable:
    """All images leave at one exit, whatever the budget."""
    row = ThresholdRow(MACS[0], single_exit_thresholds(2, index), tuple(np.eye(2)[index].tolist()))
    return ThresholdTable((row,))


def register(gate: Gate, name: str, seed: int, thresholds: ThresholdTable, **changes: object) -> str:
    """A version of these weights that leaves by these thresholds; its number."""
    recipe = gate_recipe(gate.root)
    record = open_run(recipe, tracking_uri=gate.uri, run_name=f"seed-{seed}")
    content = replace(gate.tinies[seed].content, recipe=recipe, thresholds=thresholds, **changes)
    return str(log_and_register_model(record, content, registered_name=name).version)


def _write_images(root: Path, judge: Tiny, num_images: int = 1000) -> tuple[int, int]:
    """Image files in val, and a few in train; how many are in val, and how many of those the judge is right about."""
    generator = np.random.default_rng(0)
    kept = right = 0
    for name in CLASS_NAMES:
        for part in ("train", "val"):
            (root / part / name).mkdir(parents=True)
        for index in range(3):
            _save(root / "train" / name / f"{index}.png", generator)
    for index in range(num_images):
        file = _save(root / f"{index}.png", generator)
        with torch.inference_mode():
            first, last = judge.cascade(TRANSFORM(read_image(file, 1))[None]).argmax(-1)[:, 0].tolist()
        if first != last:
            file.unlink()
            continue
        is_right = generator.random() < FAIR
        label = last if is_right else (last + 1) % len(CLASS_NAMES)
        file.rename(root / "val" / CLASS_NAMES[label] / f"{index:04d}.png")
        kept, right = kept + 1, right + is_right
    return kept, right


def _save(path: Path, generator: np.random.Generator) -> Path:
    pixels = generator.integers(0, 256, (6, 6), dtype=np.uint8)
    Image.fromarray(pixels).resize((20, 20), Image.Resampling.NEAREST).save(path)
    return path
