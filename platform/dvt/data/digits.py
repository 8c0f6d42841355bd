"""The embedded data set: scikit-learn's 8x8 digits at random scale and place, cluttered with pieces of other digits.

After the cluttered MNIST of Mnih et al., "Recurrent Models of Visual Attention", NeurIPS 2014. A large digit shows at a
coarse look, a small one among clutter only at a close one. Every source digit belongs to one of train, calibration
and test, and so do the pieces. A scene follows from seed, part and number alone, computed in integers, so that it is
the same in every process and on every platform.

Shapes: `B` batch, `S` scene side, `s` digit side and `p` piece side in pixels, `n` source digits.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from dvt.config import CascadeConfig, DataConfig, Rules
from dvt.data.randomness import PURPOSE_SCENE, PURPOSE_SPLIT, philox_key, random_bits
from dvt.data.sets import Batch, DataSets

Part = Literal["train", "calibration", "test"]
Bits = NDArray[np.uint64]
Pixels = NDArray[np.uint8]

PARTS: dict[Part, tuple[float, float]] = {  # of each class in random order, from which share to which
    "train": (0.0, 0.7),
    "calibration": (0.7, 0.8),
    "test": (0.8, 1.0),
}
MEAN, STD = (0.128,), (0.259,)  # of the pixels of training scenes, from 0 to 1
MIN_IMAGE_SIZE = 16  # pixels; below it the smallest digits cannot be told apart
MAX_SIDES = 16  # digit sides that are resized in advance; more would only cost memory
SOURCE_MAX = 16  # largest value of scikit-learn's pixels


@dataclass(frozen=True, kw_only=True)
class SceneStyle:
    """What makes scenes hard; shares are of the scene's side."""

    min_digit: float = 0.4  # side of the smallest digit
    max_digit: float = 0.7  # side of the largest digit
    num_pieces: int = 3  # pieces of clutter
    piece: float = 0.2  # side of a piece, at most min_digit


STYLE = SceneStyle()


@dataclass(frozen=True)
class DigitScenes:
    """Scenes of one part, composed when they are read."""

    part: Part
    num_images: int  # scenes of an epoch
    image_size: int
    seed: int
    style: SceneStyle = STYLE

    def __len__(self) -> int:
        """Number of scenes in an epoch."""
        return self.num_images

    def read(self, indices: Sequence[int], *, epoch: int = 0, seed: int = 0) -> Batch:
        """The scenes at `indices`, new ones each epoch for training; `seed` has no say, the data set's own has."""
        first = epoch * self.num_images if self.part == "train" else 0
        pixels, labels = self.compose([first + index for index in indices])
        images = torch.from_numpy(pixels[:, None]).float()  # (B, 1, S, S)
        return Batch(images.div_(255).sub_(MEAN[0]).div_(STD[0]), torch.from_numpy(labels))

    def fingerprint(self) -> str:
        """See `ImageSet`; scenes follow from the fields alone."""
        return hashlib.sha256(repr(self).encode()).hexdigest()

    def compose(self, numbers: Sequence[int]) -> tuple[Pixels, NDArray[np.int64]]:
        """The scenes of these numbers: (B, S, S) pixels from 0 to 255, and (B,) labels."""
        digits = _enlarge_part(self.part, self.seed, self._sides())
        draws = self._draw(numbers, 4 + 6 * self.style.num_pieces)  # (B, 4 + 6 pieces)
        scenes = np.zeros((len(numbers), self.image_size, self.image_size), dtype=np.uint8)
        self._put_pieces(scenes, digits, draws[:, 4:].reshape(len(numbers), -1, 6))
        return scenes, self._put_digits(scenes, digits, draws[:, :4])

    def _sides(self) -> tuple[int, ...]:
        least, most = (max(1, round(share * self.image_size)) for share in (self.style.min_digit, self.style.max_digit))
        step = -(-(most - least + 1) // MAX_SIDES)
        return tuple(range(least, most + 1, step))

    def _draw(self, numbers: Sequence[int], count: int) -> Bits:
        """(B, count) random bits; each scene has a piece of the part's stream to itself."""
        key = philox_key(PURPOSE_SCENE, self.seed, list(PARTS).index(self.part))
        streams = (np.random.Philox(key=key, counter=[0, number, 0, 0]) for number in numbers)
        return np.stack([stream.random_raw(count) for stream in streams])

    def _put_pieces(self, scenes: Pixels, digits: "_Digits", draws: Bits) -> None:
        """Put square pieces of digits onto the scenes, (B, S, S); `draws` is (B, pieces, 6)."""
        batch, size, _ = scenes.shape
        side_p = max(1, round(self.style.piece * size))
        sides, starts = digits.sides, digits.starts
        scale = _below(draws[..., 0], len(sides))  # (B, pieces)
        side = sides[scale]
        source = _below(draws[..., 1], len(digits.labels))
        top, left = (_below(draws[..., axis], side - side_p + 1) for axis in (2, 3))
        corner = starts[scale] + (source * side + top) * side + left
        span = np.arange(side_p)
        taken = corner[..., None, None] + span[:, None] * side[..., None, None] + span  # (B, pieces, p, p)
        pieces = digits.pixels[taken]
        row, column = (_below(draws[..., axis], size - side_p + 1) for axis in (4, 5))
        place = (np.arange(batch)[:, None] * size + row) * size + column  # (B, pieces)
        put = place[..., None, None] + span[:, None] * size + span  # (B, pieces, p, p)
        flat = scenes.reshape(-1)
        for index in range(put.shape[1]):  # one after the other: pieces may overlap
            flat[put[:, index]] = np.maximum(flat[put[:, index]], pieces[:, index])

    def _put_digits(self, scenes: Pixels, digits: "_Digits", draws: Bits) -> NDArray[np.int64]:
        """Put one whole digit onto each scene, (B, S, S), and return its label; `draws` is (B, 4)."""
        size = scenes.shape[1]
        scale = _below(draws[:, 0], len(digits.sides))
        side = digits.sides[scale]
        source = _below(draws[:, 1], len(digits.labels))
        row, column = (_below(draws[:, axis], size - side + 1) for axis in (2, 3))
        start = digits.starts[scale] + source * side * side
        places = zip(scenes, side.tolist(), start.tolist(), row.tolist(), column.tolist(), strict=True)
        for scene, s, first, top, left in places:
            digit = digits.pixels[first : first + s * s].reshape(s, s)
            window = scene[top : top + s, left : left + s]
            window[:] = digit
        return digits.labels[source]


def open_digits(config: DataConfig, cascade: CascadeConfig) -> DataSets:
    """Open the embedded data set.

    Raises:
        ConfigError: If the cascade is not one for grey images of ten digits.
    """
    rules = Rules()
    for name, value in {"in_chans": 1, "num_classes": 10}.items():
        got = getattr(cascade, name)
        rules.require(got == value, f"cascade.{name}", f"must be {value} for data.source embedded, got {got}")
    rules.require(
        cascade.image_size >= MIN_IMAGE_SIZE,
        "cascade.image_size",
        f"must be at least {MIN_IMAGE_SIZE} for data.source embedded, got {cascade.image_size}",
    )
    rules.enforce()
    size, seed = cascade.image_size, config.seed
    return DataSets(
        train=DigitScenes("train", config.train_images, size, seed),
        calibration=DigitScenes("calibration", config.calibration_images, size, seed),
        test=DigitScenes("test", config.test_images, size, seed),
        class_names=tuple("0123456789"),
        mean=MEAN,
        std=STD,
    )


def split_sources(seed: int) -> dict[Part, NDArray[np.int64]]:
    """Which of scikit-learn's digits belong to which part, by index; the same share of each class to each."""
    _images, labels = _load_sources()
    order = np.argsort(random_bits(len(labels), PURPOSE_SPLIT, seed), kind="stable")
    members: dict[Part, list[NDArray[np.int64]]] = {part: [] for part in PARTS}
    for label in np.unique(labels):
        of_class = order[labels[order] == label]
        for part, (start, stop) in PARTS.items():
            members[part].append(of_class[round(start * len(of_class)) : round(stop * len(of_class))])
    return {part: np.sort(np.concatenate(found)) for part, found in members.items()}


@dataclass(frozen=True, eq=False)
class _Digits:
    """The digits of a part at every side, one after the other in one flat array."""

    pixels: Pixels  # for each side all digits, each s x s
    sides: NDArray[np.int64]
    starts: NDArray[np.int64]  # where in pixels the digits of a side begin
    labels: NDArray[np.int64]  # (n,)


@cache
def _enlarge_part(part: Part, seed: int, sides: tuple[int, ...]) -> _Digits:
    sources, labels = _load_sources()
    members = split_sources(seed)[part]
    images = sources[members].astype(np.int64)
    enlarged = [_enlarge(images, side).reshape(-1) for side in sides]
    ends = np.cumsum([pixels.size for pixels in enlarged])
    starts = np.concatenate([[0], ends[:-1]])
    return _Digits(np.concatenate(enlarged), np.array(sides), starts, labels[members].astype(np.int64))


def _load_sources() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Scikit-learn's digits, (n, 8, 8) from 0 to `SOURCE_MAX`, and their labels, (n,)."""
    # Here, as it takes 1.0 to 1.3 s of a core, beside 6 s for all that a training process imports else.
    from sklearn.datasets import load_digits

    sources = load_digits()
    return sources.images, sources.target


def _enlarge(images: NDArray[np.int64], side: int) -> Pixels:
    """Bilinear resize of (n, 8, 8) images to (n, s, s), pixel centres at half, in integers and so exact everywhere."""
    source = images.shape[-1]
    # In units of 1 / (2 s) source pixels: where each target pixel's centre lies, and the weight of each source pixel.
    centres = (2 * np.arange(side) + 1) * source - side
    centres = centres.clip(0, 2 * side * (source - 1))
    weights = (2 * side - np.abs(centres[:, None] - 2 * side * np.arange(source))).clip(0)  # (s, 8), rows sum to 2 s
    summed: NDArray[np.int64] = weights @ images @ weights.T  # (n, s, s)
    whole = SOURCE_MAX * 4 * side * side
    rounded = (2 * 255 * summed + whole) // (2 * whole)
    return rounded.astype(np.uint8)


def _below(bits: Bits, bound: int | NDArray[np.int64]) -> NDArray[np.int64]:
    """Random integers from 0 to `bound - 1` out of random bits."""
    high = bits >> np.uint64(32)
    return (high * np.asarray(bound, dtype=np.uint64) >> np.uint64(32)).astype(np.int64)
