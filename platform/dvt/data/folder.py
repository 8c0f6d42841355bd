"""Image folders in ImageNet's layout: root/train/CLASS/* to train and calibrate on, root/val/CLASS/* to test on."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image

from dvt.config import CascadeConfig, ConfigError, DataConfig, Problem, Rules
from dvt.data.errors import DataError
from dvt.data.names import Names
from dvt.data.randomness import (
    PURPOSE_AUGMENT,
    PURPOSE_HOLD_OUT,
    derive_seed,
    global_randomness_restored,
    random_bits,
    seed_global_randomness,
)
from dvt.data.sets import Batch, DataSets
from dvt.data.transforms import MEAN, STD, UNREADABLE, Transform, eval_transform, read_image, train_transform

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
MAX_UNREADABLE_RUN = 100  # files in a row; past that the folder is broken, and going on would read all of it
MAX_NAMES_TOLD = 3  # class names in one message


@dataclass(frozen=True, eq=False)
class FolderImages:
    """Image files with labels; training ones are augmented, and replaced where they cannot be read."""

    files: Sequence[str]
    labels: NDArray[np.int64]
    transform: Transform
    in_chans: int
    is_training: bool

    def __len__(self) -> int:
        """Number of image files."""
        return len(self.files)

    def read(self, indices: Sequence[int], *, epoch: int = 0, seed: int = 0) -> Batch:
        """The images at `indices`; see `ImageSet`."""
        images, labels, skipped = [], [], []
        with global_randomness_restored():
            for index in indices:
                image, found, failed = self._read_or_replace(index)
                if self.is_training:
                    seed_global_randomness(derive_seed(PURPOSE_AUGMENT, seed, epoch, index))
                images.append(self.transform(image))
                labels.append(int(self.labels[found]))
                skipped += failed
        return Batch(torch.stack(images), torch.tensor(labels), tuple(skipped))

    def fingerprint(self) -> str:
        """See `ImageSet`; a name is the file's with its class folder, wherever the root is."""
        digest = hashlib.sha256()
        for file, label in zip(self.files, self.labels.tolist(), strict=True):
            digest.update(f"{'/'.join(Path(file).parts[-2:])}\t{label}\n".encode())
        return digest.hexdigest()

    def _read_or_replace(self, index: int) -> tuple[Image, int, list[str]]:
        """The image at `index`, or the next one that reads; its index; the files that did not read."""
        failed: list[str] = []
        for place in range(index, index + min(len(self), MAX_UNREADABLE_RUN)):
            found = place % len(self)
            file = self.files[found]
            try:
                return read_image(file, self.in_chans), found, failed
            except UNREADABLE as error:
                if not self.is_training:
                    raise DataError(f"{file} cannot be read as an image; replace or remove it") from error
                failed.append(file)
        raise DataError(
            f"{failed[0]} and the training images after it, {len(failed)} in all, cannot be read as images; "
            "replace or remove them"
        )


def open_folder(root: Path, config: DataConfig, cascade: CascadeConfig) -> DataSets:
    """Open an image folder; the classes are the folders of train, sorted by name.

    Raises:
        ConfigError: If `root` is no folder, or classes or calibration images do not fit what it holds.
        DataError: If the folder is not laid out as it should be.
    """
    _check_root(root)
    train, test = _list_images(root / "train"), _list_images(root / "val")
    class_names = tuple(sorted(train))
    _check_classes(root, train, test)
    train_files, train_labels = _with_labels(train, class_names)
    _check_config(root, train_labels, config, cascade)
    is_held_out = hold_out(train_labels, config.calibration_images, config.seed)
    evaluate = eval_transform(config, cascade)
    test_files, test_labels = _with_labels(test, class_names)
    chans = cascade.in_chans
    return DataSets(
        train=FolderImages(
            Names(train_files[~is_held_out]),
            train_labels[~is_held_out],
            train_transform(config, cascade),
            chans,
            is_training=True,
        ),
        calibration=FolderImages(
            Names(train_files[is_held_out]), train_labels[is_held_out], evaluate, chans, is_training=False
        ),
        test=FolderImages(Names(test_files), test_labels, evaluate, chans, is_training=False),
        class_names=class_names,
        mean=MEAN[chans],
        std=STD[chans],
    )


def hold_out(labels: NDArray[np.int64], count: int, seed: int) -> NDArray[np.bool_]:
    """Choose `count` images at random, of each class in proportion, leaving at least one of each.

    The images of a class are put in random order and the one of rank r of n at (r + 1/2) / n; the lowest are held out.

    Args:
        labels: (N,) class of each image.
        count: Images to hold out, at most N less the number of classes.
        seed: Seed of the choice.

    Returns:
        (N,) whether an image is held out.
    """
    bits = random_bits(len(labels), PURPOSE_HOLD_OUT, seed)
    by_class = np.lexsort((bits, labels))  # images of a class stand together, in random order
    sizes = np.bincount(labels)
    starts = np.cumsum(sizes) - sizes
    ranks = np.empty(len(labels), dtype=np.int64)
    ranks[by_class] = np.arange(len(labels)) - np.repeat(starts, sizes)
    places = (ranks + 0.5) / sizes[labels]
    places[ranks == sizes[labels] - 1] = np.inf  # the last of a class stays
    is_held_out = np.zeros(len(labels), dtype=np.bool_)
    is_held_out[np.lexsort((bits, places))[:count]] = True
    return is_held_out


def _check_root(root: Path) -> None:
    if not root.is_dir():
        what = "which is not a folder" if root.exists() else "which is not there"
        raise ConfigError([Problem("data.root", f"must name an image folder, got {root}, {what}")])
    if not any(_scan(root)):
        raise DataError(f"{root} is empty; put images into {root}/train/CLASS and {root}/val/CLASS")
    for part in ("train", "val"):
        if not (root / part).is_dir():
            raise DataError(f"{root} has no folder {part}; put images into {root}/train/CLASS and {root}/val/CLASS")


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    """What a folder shows, sorted by name; what starts with a dot is hidden."""
    try:
        with os.scandir(folder) as entries:
            shown = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{folder} cannot be read ({error.strerror}); make it readable") from error
    return sorted(shown, key=lambda entry: entry.name)


def _list_images(folder: Path) -> dict[str, list[str]]:
    """The image files of each class folder."""
    classes = [entry for entry in _scan(folder) if entry.is_dir()]
    if not classes:
        raise DataError(f"{folder} holds no class folders; put the images of each class into a folder {folder}/CLASS")
    return {
        entry.name: [file.path for file in _scan(Path(entry.path)) if file.name.lower().endswith(IMAGE_SUFFIXES)]
        for entry in classes
    }


def _check_classes(root: Path, train: dict[str, list[str]], test: dict[str, list[str]]) -> None:
    unknown = sorted(set(test) - set(train))
    if unknown:
        raise DataError(
            f"{root}/val holds class folders that {root}/train lacks: {_some(unknown)}; add them to train or "
            "remove them from val"
        )
    empty = sorted(name for name, files in train.items() if not files)
    if empty:
        raise DataError(
            f"{root}/train/{empty[0]} holds no images ({', '.join(IMAGE_SUFFIXES)}); add some or remove the folder"
        )
    if not any(test.values()):
        raise DataError(f"{root}/val holds no images ({', '.join(IMAGE_SUFFIXES)}); put some into its class folders")


def _some(names: Sequence[str]) -> str:
    told = ", ".join(names[:MAX_NAMES_TOLD])
    more = len(names) - MAX_NAMES_TOLD
    return f"{told} and {more} more" if more > 0 else told


def _check_config(root: Path, labels: NDArray[np.int64], config: DataConfig, cascade: CascadeConfig) -> None:
    num_classes = int(labels.max()) + 1
    most = len(labels) - num_classes
    if most < 1:
        raise DataError(f"{root}/train holds one image a class, none to hold out for calibration; add images")
    rules = Rules()
    rules.require(
        cascade.num_classes == num_classes,
        "cascade.num_classes",
        f"must be {num_classes}, the number of class folders in {root}/train, got {cascade.num_classes}",
    )
    rules.require(
        config.calibration_images <= most,
        "data.calibration_images",
        f"must be at most {most}, so that each of {num_classes} classes keeps one of its {len(labels)} images in "
        f"{root}/train to train on, got {config.calibration_images}",
    )
    rules.enforce()


def _with_labels(
    images: dict[str, list[str]], class_names: Sequence[str]
) -> tuple[NDArray[np.object_], NDArray[np.int64]]:
    """All image files, class after class, and their labels."""
    files = [file for name in class_names for file in images.get(name, [])]
    labels = [label for label, name in enumerate(class_names) for _ in images.get(name, [])]
    return np.array(files, dtype=np.object_), np.array(labels, dtype=np.int64)
