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
RESIZERS = {
    "bilinear": torch.ops.aten._upsample_bilinear2d_aa.out,
    "bicubic": torch.ops.aten._upsample_bicubic2d_aa.out,
}


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
            rows, columns = draw_part(pixels.shape[0], pixels.shape[1], self._crop_scale, generator)
            resize(pixels[rows, columns], out, FILTERS[below(len(FILTERS), generator)])
        else:
            resize(pixels, out, self._interpolation)
            top, left = (below(2 * self._padding + 1, generator) for _ in range(2))
            whole = F.pad(out, (self._padding,) * 4)  # (c, S + 2 padding, S + 2 padding)
            out.copy_(whole[:, top : top + self._image_size, left : left + self._image_size])
        if generator.random() < self._hflip:
            out.copy_(out.flip(-1))
        if self.policy is not None:
            seed_global_randomness(below(2**32, generator))
            picture = as_picture(out)
            varied = self.policy(picture)
            if varied is not picture:
                out.copy_(of_picture(varied))


def as_picture(part: Tensor) -> Image.Image:
    """A picture of (c, S, S), fastest where the channels of a pixel lie beside each other."""
    pixels = part.permute(1, 2, 0).contiguous().numpy()  # (S, S, c)
    return Image.fromarray(pixels[..., 0] if len(part) == 1 else pixels)


def of_picture(picture: Image.Image) -> Tensor:
    """Back to (c, S, S)."""
    pixels = np.array(picture)  # (S, S) or (S, S, 3); a copy, as torch wants to be able to write
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1)


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


def resize(pixels: Pixels, out: Tensor, interpolation: str) -> None:
    """Resize an image, low-pass filtered where it shrinks.

    Args:
        pixels: (H, W, c)
        out: (c, height, width) uint8, filled; fastest where the channels of a pixel lie beside each other.
        interpolation: `bilinear` or `bicubic`.
    """
    planes = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None]  # (1, c, H, W)
    # What `torch.nn.functional.interpolate` calls, which cannot write to memory that it is given.
    RESIZERS[interpolation](planes, out.shape[1:], False, None, None, out=out[None])
