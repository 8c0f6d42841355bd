"""What the rooms to the right see of data: three disjoint sets of images, and batches of them.

Shapes: `B` batch, `C` channels, `S` image side in pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from dvt.data.order import EXACT, TrainOrder


class Skipped(NamedTuple):
    """A training image that could not be used."""

    name: str  # of its file, or of its place in one
    reason: str  # a word that such images are counted by, see `dvt.data.decoding`


@dataclass(frozen=True)
class Batch:
    """Images and what they show."""

    images: Tensor  # (B, C, S, S): float32, normalised; or uint8, to be normalised on the training device
    labels: Tensor  # (B,) int64
    skipped: tuple[Skipped, ...] = ()  # what could not be read and was replaced by other images


class ImageSet(Protocol):
    """A set of images that are read by index."""

    def __len__(self) -> int:
        """Number of images; of training scenes, the number in one epoch."""

    def read(self, indices: Sequence[int], *, epoch: int = 0, seed: int = 0) -> Batch:
        """The images at `indices`, in this order.

        Args:
            indices: From 0 to `len(self) - 1`.
            epoch: Together with `seed` and an image's index it decides all that is random about a training image;
                calibration and test images ignore both.
            seed: Seed of the run.

        Raises:
            DataError: If an image cannot be read and must not be replaced.
        """

    def fingerprint(self) -> str:
        """What tells this set from another, as a SHA-256 in hex; of files their names and labels, not their bytes."""


@runtime_checkable
class FillsMemory(Protocol):
    """An `ImageSet` that can put a batch together in memory that it is given, to save making some for each batch."""

    def empty(self, count: int) -> Tensor | None:
        """Memory for this many images, as `read` fills it; None if it is to make its own."""

    def read(self, indices: Sequence[int], *, epoch: int = 0, seed: int = 0, out: Tensor | None = None) -> Batch:
        """As `ImageSet.read`.

        Args:
            indices: See there.
            epoch: See there.
            seed: See there.
            out: What becomes the batch's images, laid out as `empty` does; None makes new memory.
        """


@dataclass(frozen=True)
class DataSets:
    """Three disjoint sets of images, and how they are to be understood."""

    train: ImageSet
    calibration: ImageSet  # held out of train: thresholds and temperatures are chosen on it
    test: ImageSet  # every reported number is measured on it
    class_names: tuple[str, ...]  # label i shows class_names[i]
    mean: tuple[float, ...]  # of each channel, of pixels from 0 to 1; subtracted first
    std: tuple[float, ...]  # of each channel; divided by second
    engine: Literal["local", "ray"] = "local"  # what reads training batches, see `DataConfig.engine`
    train_order: TrainOrder = EXACT  # of the images of train in each epoch
