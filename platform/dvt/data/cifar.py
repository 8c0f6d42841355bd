"""CIFAR-10 and CIFAR-100: small images held in memory, up-sampled to the model's size when they are read.

DVT fine-tunes to CIFAR as T2T-ViT does, whose published code resizes each image to the model's size, bilinear, and for
training moves it by up to an eighth of its side and flips it: `augment.crop_padding: 0.125`, `interpolation: bilinear`,
`crop_pct: 1`. Without `crop_padding` training images get the crops of every other source.

Shapes: `N` images.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from dvt.config import CascadeConfig, DataConfig, Rules
from dvt.data.cifar_files import CifarLayout, CifarPart, read_cifar
from dvt.data.folder import hold_out
from dvt.data.randomness import PURPOSE_AUGMENT, derive_seed, global_randomness_restored, seed_global_randomness
from dvt.data.sets import Batch, DataSets
from dvt.data.transforms import MEAN, STD, Transform, eval_transform, train_transform


@dataclass(frozen=True, eq=False)
class CifarImages:
    """Some of the images of CIFAR; training ones are augmented."""

    name: str  # of the data set and its part
    part: CifarPart = field(repr=False)  # all images, shared with other sets
    members: NDArray[np.int64] = field(repr=False)  # (N,) those that are meant, by their place in the part
    transform: Transform = field(repr=False)
    in_chans: int
    is_training: bool

    def __len__(self) -> int:
        """Number of images."""
        return len(self.members)

    def read(self, indices: Sequence[int], *, epoch: int = 0, seed: int = 0) -> Batch:
        """The images at `indices`; see `ImageSet`."""
        places = self.members[np.asarray(indices)]
        images = []
        with global_randomness_restored():
            for index, place in zip(indices, places, strict=True):
                if self.is_training:
                    seed_global_randomness(derive_seed(PURPOSE_AUGMENT, seed, epoch, index))
                images.append(self.transform(self._image(place)))
        return Batch(torch.stack(images), torch.from_numpy(self.part.labels[places]))

    def fingerprint(self) -> str:
        """See `ImageSet`; a name is the data set's with the image's place in it."""
        digest = hashlib.sha256(f"{self.name}\n".encode())
        digest.update(self.members.astype("<i8").tobytes())
        digest.update(self.part.labels[self.members].astype("<i8").tobytes())
        return digest.hexdigest()

    def _image(self, place: int) -> Image.Image:
        colour = Image.fromarray(np.ascontiguousarray(self.part.pixels[place].transpose(1, 2, 0)))  # (32, 32, 3)
        return colour.convert("L") if self.in_chans == 1 else colour


def open_cifar(layout: CifarLayout, root: str, config: DataConfig, cascade: CascadeConfig) -> DataSets:
    """Open one of the two data sets; calibration images are held out of the training files.

    Args:
        layout: Which one.
        root: A path or `s3://` address, see `read_cifar`.
        config: How it is split and augmented.
        cascade: The model that it is for.

    Raises:
        ConfigError: If classes or calibration images do not fit.
        DataError: If the files are not as they should be.
    """
    _check_config(layout, config, cascade)
    files = read_cifar(root if "://" in root else str(Path(root).expanduser()), layout)
    is_held_out = hold_out(files.train.labels, config.calibration_images, config.seed)
    evaluate = eval_transform(config, cascade)
    chans = cascade.in_chans

    def images(part: str, members: NDArray[np.int64], transform: Transform, is_training: bool) -> CifarImages:
        of = files.test if part == "test" else files.train
        return CifarImages(f"{layout.title}/{part}", of, members, transform, chans, is_training)

    return DataSets(
        train=images("train", np.flatnonzero(~is_held_out), train_transform(config, cascade), is_training=True),
        calibration=images("train", np.flatnonzero(is_held_out), evaluate, is_training=False),
        test=images("test", np.arange(len(files.test.labels)), evaluate, is_training=False),
        class_names=files.class_names,
        mean=MEAN[chans],
        std=STD[chans],
    )


def _check_config(layout: CifarLayout, config: DataConfig, cascade: CascadeConfig) -> None:
    num_images = len(layout.train) * layout.train_images
    most = num_images - layout.num_classes
    rules = Rules()
    rules.require(
        cascade.num_classes == layout.num_classes,
        "cascade.num_classes",
        f"must be {layout.num_classes} for {layout.title}, got {cascade.num_classes}",
    )
    rules.require(
        config.calibration_images <= most,
        "data.calibration_images",
        f"must be at most {most}, so that each of {layout.num_classes} classes keeps one of the {num_images} training "
        f"images of {layout.title}, got {config.calibration_images}",
    )
    rules.enforce()
