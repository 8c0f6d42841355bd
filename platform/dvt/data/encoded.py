"""Encoded images read by index from wherever they lie: the one contract of image folders, tar shards and Parquet.

Shapes: `N` images of a set.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class EncodedImage:
    """The bytes of an image file, or why they could not be read."""

    name: str  # what a message calls it: a file, a shard and its member, a Parquet file and its row
    content: bytes = field(default=b"", repr=False)  # as encoded: JPEG, PNG, ...; empty if there is a problem
    problem: str = ""  # why it could not be read, in a few words

    @classmethod
    def of(cls, name: str, content: bytes | str) -> Self:
        """Of its bytes, or of why there are none."""
        return cls(name, problem=content) if isinstance(content, str) else cls(name, content)


class EncodedImages(Protocol):
    """Labelled image files of one part of a data set; picklable, and cheap to hand to another process."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) class of each image."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Label i shows `class_names[i]`."""

    @property
    def blocks(self) -> NDArray[np.int64] | None:
        """(N,) the block of each image: those of one block are cheap to read together. None where any order is."""

    def __len__(self) -> int:
        """Number of images, N."""

    def read(self, indices: Sequence[int]) -> list[EncodedImage]:
        """The images at `indices`, in this order.

        Raises:
            DataError: If the source itself failed, as a bucket that does not answer any more; of a single image that
                cannot be read its `problem` tells.
        """

    def fingerprint(self) -> str:
        """What tells these images from others, as a SHA-256 in hex."""
