"""Image folders in ImageNet's layout: root/train/CLASS/* to train and calibrate on, root/val/CLASS/* to test on."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dvt.config import CascadeConfig, ConfigError, DataConfig, Problem, Rules
from dvt.data.encoded import EncodedImage
from dvt.data.errors import DataError
from dvt.data.image_set import FileImages
from dvt.data.randomness import PURPOSE_HOLD_OUT, random_bits
from dvt.data.sets import DataSets
from dvt.data.transforms import MEAN, STD

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
MAX_NAMES_TOLD = 3  # class names in one message


@dataclass(frozen=True, eq=False)
class FolderFiles:
    """Image files with labels; `EncodedImages` that lie in class folders."""

    files: tuple[str, ...] = field(repr=False)  # paths
    labels: NDArray[np.int64] = field(repr=False)  # (N,)
    class_names: tuple[str, ...]

    @property
    def blocks(self) -> None:
        """None: any file is as cheap to read as any other."""
        return

    def __len__(self) -> int:
        """Number of image files."""
        return len(self.files)

    def read(self, indices: Sequence[int]) -> list[EncodedImage]:
        """The files at `indices`; see `EncodedImages`."""
        return [_read(self.files[index]) for index in indices]

    def fingerprint(self) -> str:
        """See `EncodedImages`; a name is the file's with its class folder, wherever the root is."""
        digest = hashlib.sha256()
        for file, label in zip(self.files, self.labels.tolist(), strict=True):
            digest.update(f"{'/'.join(Path(file).parts[-2:])}\t{label}\n".encode())
        return digest.hexdigest()


def _read(file: str) -> EncodedImage:
    try:
        return EncodedImage(file, Path(file).read_bytes())
    except OSError as error:
        return EncodedImage(file, problem=(error.strerror or type(error).__name__).lower())


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
    train_files = _with_labels(train, class_names)
    _check_config(root, train_files.labels, config, cascade)
    is_held_out = hold_out(train_files.labels, config.calibration_images, config.seed)
    test_files = _with_labels(test, class_names)
    return DataSets(
        train=FileImages(train_files, np.flatnonzero(~is_held_out), config, cascade, is_training=True),
        calibration=FileImages(train_files, np.flatnonzero(is_held_out), config, cascade, is_training=False),
        test=FileImages(test_files, np.arange(len(test_files)), config, cascade, is_training=False),
        class_names=class_names,
        mean=MEAN[cascade.in_chans],
        std=STD[cascade.in_chans],
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


def _with_labels(images: dict[str, list[str]], class_names: tuple[str, ...]) -> FolderFiles:
    """All image files, class after class, with their labels."""
    files = tuple(file for name in class_names for file in images.get(name, []))
    labels = [label for label, name in enumerate(class_names) for _ in images.get(name, [])]
    return FolderFiles(files, np.array(labels, dtype=np.int64), class_names)
