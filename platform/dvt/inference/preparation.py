"""From what a person sends to what a model reads: image files decoded, resized, cropped and normalised, as evaluated.

Training and evaluation decode with the same functions, and the served model ships with this module: an image gives the
same numbers wherever it is classified.

Shapes: n images, c image channels, S image side in pixels.
"""

import base64
import binascii
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from timm.data.transforms_factory import create_transform
from torch import Tensor

from dvt.config import ConfigError, Problem
from dvt.config.data import MOST_PIXELS as LARGEST_FILE

# What Pillow 11 and 12 raise for files that are truncated, damaged or no images; UnidentifiedImageError is an OSError.
_BOMB = (Image.DecompressionBombError, Image.DecompressionBombWarning)  # the second where warnings are errors
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, *_BOMB)
# Of an image file in a request, and of a long thin image after its shorter side was resized; more would fill memory.
MOST_PIXELS = 2**26
# Those that images come in. Pillow knows many more, of which EPS runs a program of its own, Ghostscript.
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")

Transform = Callable[[Image.Image], Tensor]


def read_image(path: str | Path | IO[bytes], in_chans: int, max_pixels: int = LARGEST_FILE) -> Image.Image:
    """Decode an image file, or an open one, to grey for one channel and to colour for three.

    Raises:
        One of `UNREADABLE`: If the file is missing, truncated, damaged or not an image.
    """
    with Image.open(path, formats=FORMATS) as file:
        if file.width * file.height > max_pixels:  # told by its header, before room for them is made
            raise Image.DecompressionBombError
        if file.mode.startswith("I;16"):
            return _of_16_bits(file).convert("L" if in_chans == 1 else "RGB")
        # Else Pillow warns about palettes whose transparency is in bytes.
        image = file.convert("RGBA") if "transparency" in file.info else file
        return image.convert("L" if in_chans == 1 else "RGB")


def _of_16_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits by its high bytes, as Pillow reads colour of 16 bits; itself it makes most of it white."""
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))


def why_unreadable(error: Exception) -> str:
    """Why an image cannot be decoded, in a few words, from one of `UNREADABLE`."""
    if isinstance(error, _BOMB):
        return "it has too many pixels"
    return "it is not an image" if isinstance(error, UnidentifiedImageError) else "it is damaged"


def inference_transform(
    image_size: int, crop_pct: float, interpolation: str, mean: Sequence[float], std: Sequence[float]
) -> Transform:
    """Resize the shorter side to image_size / crop_pct, crop the centre, normalise.

    Args:
        image_size: Side of the model's images, in pixels.
        crop_pct: Share of the resized side that the centre crop keeps.
        interpolation: `bilinear` or `bicubic`.
        mean: Per channel, of pixels from 0 to 1.
        std: Per channel.

    Returns:
        From a decoded image to (c, S, S). It refuses one that is so long and thin that it would have more than
        `MOST_PIXELS` once resized, by `DecompressionBombError`.
    """
    transform = create_transform(
        image_size,
        is_training=False,
        interpolation=interpolation,
        crop_pct=crop_pct,
        mean=tuple(mean),
        std=tuple(std),
    )
    return _Bounded(cast(Transform, transform), image_size / crop_pct)


@dataclass(frozen=True)
class _Bounded:
    """A transform that resizes the shorter side of no image whose longer one would then fill memory."""

    transform: Transform
    shorter: float

    def __call__(self, image: Image.Image | Tensor) -> Tensor:
        height, width = image.shape[-2:] if isinstance(image, Tensor) else (image.height, image.width)
        if is_too_thin(height, width, self.shorter):
            raise Image.DecompressionBombError
        return self.transform(cast(Image.Image, image))  # torchvision resizes and crops tensors just so


def is_too_thin(height: int, width: int, shorter: float) -> bool:
    """Whether an image would have more than `MOST_PIXELS` with its shorter side resized to `shorter` pixels."""
    return shorter**2 * max(height, width) / min(height, width) > MOST_PIXELS


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """How a model wants its images, of whatever kind they come."""

    in_chans: int  # c; files become grey for 1 and colour for 3
    image_size: int  # S
    mean: tuple[float, ...]  # per channel, of pixels from 0 to 1
    std: tuple[float, ...]  # per channel
    crop_pct: float  # share of the resized side that the centre crop keeps
    interpolation: str  # of resizing

    def __call__(self, images: Sequence[Any], first: int = 0) -> Tensor:
        """Prepare images, each of its own kind.

        Args:
            images: For each image the bytes of a file, their base64 text, or an array (c, height, width) of values
                from 0 to 1. An array of side S is taken whole; others are resized and cropped as files are.
            first: The number of the first one in its request, for messages.

        Returns:
            (n, c, S, S), normalised.

        Raises:
            ConfigError: If one of them is none of these; it names which, counted from 0.
        """
        return torch.stack([self._prepared(image, f"images[{first + row}]") for row, image in enumerate(images)])

    @cached_property
    def transform(self) -> Transform:
        """From a decoded image to the model's input, (c, S, S)."""
        return inference_transform(self.image_size, self.crop_pct, self.interpolation, self.mean, self.std)

    def _prepared(self, image: Any, name: str) -> Tensor:
        if isinstance(image, str):
            try:
                image = base64.b64decode("".join(image.split()), validate=True)
            except (binascii.Error, ValueError) as error:  # the second of letters beyond ASCII
                raise _refused(name, "base64 text of an image file", "text that is none; encode it again") from error
        if not isinstance(image, bytes | bytearray | memoryview):
            return self._of_array(image, name)
        try:
            decoded = read_image(BytesIO(image), self.in_chans, MOST_PIXELS)
        except UNREADABLE as error:
            got = f"{len(image)} bytes that cannot be read ({why_unreadable(error)}); send another or leave it out"
            raise _refused(name, "an image file such as PNG or JPEG", got) from error
        self._check_size(decoded.height, decoded.width, name)
        return self.transform(decoded)

    def _of_array(self, image: Any, name: str) -> Tensor:
        wanted = f"an array of shape ({self.in_chans}, height, width)"
        try:
            values = np.asarray(image, dtype=np.float32)
        except (TypeError, ValueError) as error:  # no numbers, or rows of different lengths
            raise _refused(name, f"an image file, its base64 text or {wanted}", type(image).__name__) from error
        if values.ndim != 3 or len(values) != self.in_chans or 0 in values.shape:
            raise _refused(name, wanted, f"{values.shape}; send the image file to have it converted")
        least, most = values.min(), values.max()
        if not (least >= 0 and most <= 1):
            rule = f"must hold values from 0 to 1, got {least:g} to {most:g}; divide bytes by 255"
            raise ConfigError([Problem(name, rule)])
        height, width = values.shape[1:]
        pixels = torch.tensor(values)
        if height == width == self.image_size:
            mean, std = (torch.tensor(each, dtype=torch.float32)[:, None, None] for each in (self.mean, self.std))
            return (pixels - mean) / std
        self._check_size(height, width, name)
        return self.transform(cast(Image.Image, pixels))  # torchvision resizes and crops tensors just so

    def _check_size(self, height: int, width: int, name: str) -> None:
        if is_too_thin(height, width, self.image_size / self.crop_pct):
            rule = f"must not be so long and thin, got {width}x{height} pixels; crop it first"
            raise ConfigError([Problem(name, rule)])


def _refused(name: str, wanted: str, got: str) -> ConfigError:
    return ConfigError([Problem(name, f"must be {wanted}, got {got}")])
