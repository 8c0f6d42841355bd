"""Image folders in ImageNet's layout: root/train/CLASS/* to train and calibrate on, root/val/CLASS/* to test on."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dvt.config import CascadeConfig, ConfigError, DataConfig, Problem
from dvt.data.encoded import EncodedImage
from dvt.data.errors import DataError
from dvt.data.names import Names
from dvt.data.objects import Objects, is_remote, open_objects
from dvt.data.parts import split_parts
from dvt.data.sets import DataSets

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
MAX_NAMES_TOLD = 3  # class names in one message


@dataclass(frozen=True, eq=False)
class FolderFiles:
    """Image files with labels; `EncodedImages` that lie in class folders."""

    files: Sequence[str] = field(repr=False)  # paths, or s3:// addresses
    labels: NDArray[np.int64] = field(repr=False)  # (N,)
    class_names: tuple[str, ...]
    objects: Objects = field(default_factory=Objects, repr=False)  # reads those of a bucket

    @property
    def blocks(self) -> None:
        """None: any file is as cheap to read as any other."""
        return

    def __len__(self) -> int:
        """Number of image files."""
        return len(self.files)

    def read(self, indices: Sequence[int]) -> list[EncodedImage]:
        """The files at `indices`; see `EncodedImages`."""
        files = [self.files[index] for index in indices]
        if not files or not is_remote(files[0]):
            return [_read(file) for file in files]
        contents = self.objects.read_many([(file, 0, None) for file in files])
        return list(map(EncodedImage.of, files, contents))

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


def open_folder(root: str, config: DataConfig, cascade: CascadeConfig) -> DataSets:
    """Open an image folder; the classes are the folders of train, sorted by name.

    Args:
        root: A path or an `s3://` address.
        config: How many images are held out, and how all are read.
        cascade: The model that they are for.

    Raises:
        ConfigError: If `root` is no folder, or classes or calibration images do not fit what it holds.
        DataError: If the folder is not laid out as it should be.
    """
    train, val = open_class_folders(root, config)
    return split_parts(train, val, config, cascade, f"{root}/train", "class folders")


def open_class_folders(root: str, config: DataConfig) -> tuple[FolderFiles, FolderFiles]:
    """The images to train and to test on; see `open_folder`."""
    objects = open_objects(config)
    if is_remote(root):
        train, val = (_list_objects(f"{root}/{part}", objects) for part in ("train", "val"))
    else:
        _check_root(Path(root))
        train, val = (_list_images(Path(root) / part) for part in ("train", "val"))
    _check_classes(root, train, val)
    names = tuple(sorted(train))
    return _with_labels(train, names, objects), _with_labels(val, names, objects)


def is_shown(name: str, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> bool:
    """Whether a file of this name is meant where its folder was named; hidden ones are not."""
    return not name.startswith(".") and name.lower().endswith(suffixes)


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
    return {entry.name: [file.path for file in _scan(Path(entry.path)) if is_shown(file.name)] for entry in classes}


def _list_objects(folder: str, objects: Objects) -> dict[str, list[str]]:
    """The image files of each class folder of a bucket, which knows no empty ones."""
    classes: dict[str, list[str]] = {}
    for stored in objects.list(folder):
        name, _, file = stored.address[len(folder) + 1 :].partition("/")
        is_in_class = file != "" and "/" not in file
        if is_in_class and not name.startswith(".") and is_shown(file):
            classes.setdefault(name, []).append(stored.address)
    if not classes:
        raise DataError(f"{folder} holds no class folders; put the images of each class into a folder {folder}/CLASS")
    return classes


def _check_classes(root: str, train: dict[str, list[str]], test: dict[str, list[str]]) -> None:
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


def _with_labels(images: dict[str, list[str]], class_names: tuple[str, ...], objects: Objects) -> FolderFiles:
    """All image files, class after class, with their labels."""
    files = Names(file for name in class_names for file in images.get(name, []))
    labels = [label for label, name in enumerate(class_names) for _ in images.get(name, [])]
    return FolderFiles(files, np.array(labels, dtype=np.int64), class_names, objects)
