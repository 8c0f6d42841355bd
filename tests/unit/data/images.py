"""Real image files for the tests of the data package."""

from pathlib import Path

import numpy as np
from PIL import Image

from dvt.config import AugmentConfig, CascadeConfig, DataConfig, StageConfig


def write_image(path: Path, seed: int = 0, size: tuple[int, int] = (40, 30), mode: str = "RGB") -> Path:
    """A smooth picture with noise, different for each seed; the suffix of `path` decides the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).convert(mode).save(path)
    return path


def write_folder(root: Path, train: dict[str, int], val: dict[str, int]) -> Path:
    """An image folder with so many images of each class."""
    seed = 0
    for part, classes in {"train": train, "val": val}.items():
        for name, count in classes.items():
            (root / part / name).mkdir(parents=True)
            for index in range(count):
                seed += 1
                write_image(root / part / name / f"{index:03d}.jpg", seed)
    return root


def cascade(num_classes: int, **changes: object) -> CascadeConfig:
    values: dict[str, object] = {"image_size": 16, "num_classes": num_classes, "stages": (StageConfig(token_grid=4),)}
    return CascadeConfig(**{**values, **changes})


def folder_config(root: Path, **changes: object) -> DataConfig:
    values: dict[str, object] = {"source": "folder", "root": str(root), "calibration_images": 4}
    return DataConfig(**{**values, **changes})


def plain() -> AugmentConfig:
    """No augmentation but the crop, which keeps the whole image."""
    return AugmentConfig(crop_scale=(1.0, 1.0), hflip=0, rand_augment=None, random_erasing=0)
