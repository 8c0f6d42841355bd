"""Training images varied as bytes: a random part resized, a flip, timm's RandAugment; as published with DeiT and DVT.

Erasing, mixing and normalising come later, on the training device (`dvt.data.on_device`). The part is drawn as timm and
torchvision draw it: Szegedy et al., "Going Deeper with Convolutions", 2015. torch resizes bytes as Pillow does, to
within one level of 255, several times as fast.

Shapes: `H` height, `W` width, `c` channels, `S` image side of the model.
"""

import math
import random
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from dvt.config import CascadeConfig, DataConfig
from dvt.data.randomness import below, seed_global_randomness
from dvt.data.transforms import rand_augment

Pixels = NDArray[np.uint8]

ASPECT_RATIOS = (3 / 4, 4 / 3)  # narrowest and widest part, width over height
NUM_TRIES = 10  # to draw a part that lies within the image
FILTERS = ("bilinear", "bicubic")  # one at random for each image


class Augmenter:
    """Makes the model's input of decoded training images; all that is random follows from a seed."""

    def __init__(self, config: DataConfig, cascade: CascadeConfig) -> None:
        self._image_size = cascade.image_size
        self._crop_scale = config.augment.crop_scale
        self._padding: int | None = None  # pixels; None crops
        if config.augment.crop_padding > 0:
            self._padding = round(config.augment.crop_padding * cascade.image_size)
        self._interpolation = config.interpolation
        self._hflip = config.augment.hflip
        self.policy: Callable[[Image.Image], Image.Image] | None = None
        if config.augment.rand_augment is not None:
            self.policy = rand_augment(config, cascade)

    @property
    def draws_globally(self) -> bool:
        """Whether `into` seeds the global generators, as timm's RandAugment draws from them and takes no other."""
        return self.policy is not None

    def into(self, out: Tensor, pixels: Pixels, generator: random.Random) -> None:
        """Vary an image.

        Args:
            out: (c, S, S) uint8, filled.
            pixels: (H, W, c), left as they are.
            generator: Decides all that is random.
        """
        if self._padding is None:
            part = self._cropped(pixels, generator)
        else:
            part = self._moved(pixels, self._padding, generator)
        if generator.random() < self._hflip:
            part = part.flip(-1)
        if self.policy is not None:
            seed_global_randomness(below(2**32, generator))
            part = of_picture(self.policy(as_picture(part)))
        out.copy_(part)

    def _cropped(self, pixels: Pixels, generator: random.Random) -> Tensor:
        rows, columns = draw_part(pixels.shape[0], pixels.shape[1], self._crop_scale, generator)
        interpolation = FILTERS[below(len(FILTERS), generator)]
        return resize(pixels[rows, columns], self._image_size, interpolation)

    def _moved(self, pixels: Pixels, padding: int, generator: random.Random) -> Tensor:
        """The whole image at the model's size, moved by up to the padding, with black coming in."""
        size = self._image_size
        whole = F.pad(resize(pixels, size, self._interpolation), (padding,) * 4)  # (c, S + 2 padding, S + 2 padding)
        top, left = (below(2 * padding + 1, generator) for _ in range(2))
        return whole[:, top : top + size, left : left + size]


def as_picture(part: Tensor) -> Image.Image:
    """A picture of (c, S, S); handing Pillow channels line by line is cheaper than making pixels of them."""
    mode, raw = ("L", "L") if len(part) == 1 else ("RGB", "RGB;L")
    lines = part.permute(1, 0, 2).contiguous().numpy()  # (S, c, S)
    return Image.frombuffer(mode, (lines.shape[2], lines.shape[0]), lines, "raw", raw, 0, 1)


def of_picture(picture: Image.Image) -> Tensor:
    """Back to (c, S, S)."""
    raw = "L" if picture.mode == "L" else "RGB;L"
    lines = np.frombuffer(bytearray(picture.tobytes("raw", raw)), dtype=np.uint8)  # writable, as torch wants it
    return torch.from_numpy(lines).view(picture.height, -1, picture.width).permute(1, 0, 2)


def draw_part(height: int, width: int, scale: tuple[float, float], generator: random.Random) -> tuple[slice, slice]:
    """Draw a part of an image, of random area and aspect ratio.

    Args:
        height: Of the image.
        width: Of the image.
        scale: Least and most area, as a share of the image.
        generator: What to draw from.

    Returns:
        Rows and columns of the part. Where none fits in ten tries, as of a long thin image, it is the
        centre, as large as the aspect ratios allow.
    """
    (low, high), (narrowest, widest) = scale, ASPECT_RATIOS
    for _ in range(NUM_TRIES):
        area = (low + (high - low) * generator.random()) * height * width
        aspect = narrowest * (widest / narrowest) ** generator.random()  # as likely above 1 as below
        part_width = round(math.sqrt(area * aspect))
        part_height = round(math.sqrt(area / aspect))
        if 0 < part_width <= width and 0 < part_height <= height:
            top = below(height - part_height + 1, generator)
            left = below(width - part_width + 1, generator)
            return slice(top, top + part_height), slice(left, left + part_width)
    part_width = min(width, round(height * widest))
    part_height = min(height, max(1, round(width / narrowest)))
    top, left = (height - part_height) // 2, (width - part_width) // 2
    return slice(top, top + part_height), slice(left, left + part_width)


def resize(pixels: Pixels, size: int, interpolation: str) -> Tensor:
    """Resize (H, W, c) to (c, size, size), low-pass filtered where it shrinks."""
    planes = torch.from_numpy(pixels).permute(2, 0, 1)[None]  # (1, c, H, W), no copy
    return F.interpolate(planes, size=(size, size), mode=interpolation, antialias=True)[0]
