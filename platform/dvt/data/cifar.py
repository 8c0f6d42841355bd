"""CIFAR-10 and CIFAR-100: small images held in memory, up-sampled to the model's size when they are read.

DVT fine-tunes to CIFAR as T2T-ViT does, whose published code resizes each image to the model's size, bilinear, and for
training moves it by up to an eighth of its side and flips it: `augment.crop_padding: 0.125`, `interpolation: bilinear`,
`crop_pct: 1`. Without `crop_padding` training images get the crops of every other source.

Shapes: `N` images.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dvt.config import CascadeConfig, DataConfig
from dvt.data.cifar_files import CifarLayout, CifarPart, read_cifar
from dvt.data.encoded import EncodedImage
from dvt.data.parts import split_parts
from dvt.data.sets import DataSets


@dataclass(frozen=True, eq=False)
class CifarImages:
    """The images of one part of CIFAR, in memory; `EncodedImages`."""

    name: str  # of the data set and its part
    part: CifarPart = field(repr=False)
    class_names: tuple[str, ...] = field(repr=False)

    @property
    def labels(self) -> NDArray[np.int64]:
        """See `EncodedImages`."""
        return self.part.labels

    @property
    def blocks(self) -> None:
        """None: they lie in memory."""
        return

    def __len__(self) -> int:
        """Number of images."""
        return len(self.part.labels)

    def read(self, indices: Sequence[int]) -> list[EncodedImage]:
        """See `EncodedImages`; as PPM, which is a header and the pixels as they are."""
        pixels = (np.ascontiguousarray(self.part.pixels[place].transpose(1, 2, 0)) for place in indices)  # (32, 32, 3)
        return [
            EncodedImage(f"{self.name}#{place}", b"P6\n32 32\n255\n" + each.tobytes())
            for place, each in zip(indices, pixels, strict=True)
        ]

    def fingerprint(self) -> str:
        """See `EncodedImages`; of the name and the labels."""
        return hashlib.sha256(f"{self.name}\n".encode() + self.part.labels.astype("<i8").tobytes()).hexdigest()


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
    files = read_cifar(root, layout)
    train, test = (
        CifarImages(f"{layout.title}/{part}", images, files.class_names)
        for part, images in (("train", files.train), ("test", files.test))
    )
    return split_parts(train, test, config, cascade, layout.title, "classes")
