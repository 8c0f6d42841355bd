"""Training images varied as bytes: a random part resized, a flip, timm's RandAugment; as published with DeiT and DVT.

Erasing, mixing and normalising come later, on the training device (`dvt.data.on_device`). The part is drawn as timm and
torchvision draw it: Szegedy et al., "Going Deeper with Convolutions", 2015. torch resizes bytes as Pillow does, to
within one level of 255, several times as fast.

Shapes: `H` height, `W` width, `c` channels, `S` image side of the model.
"""

import math
import random
from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

from dvt.config import CascadeConfig, DataConfig
from dvt.data.randomness import seed_global_randomness
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
        self._hflip = config.augment.hflip
        self._policy: Callable[[Image.Image], Image.Image] | None = None
        if config.augment.rand_augment is not None:
            self._policy = rand_augment(config, cascade)

    @property
    def draws_globally(self) -> bool:
        """Whether `into` seeds the global generators, as timm's RandAugment draws from them and takes no other."""
        return self._policy is not None

    def into(self, out: Pixels, pixels: Pixels, seed: int) -> None:
        """Vary an image.

        Args:
            out: (S, S, c), filled.
            pixels: (H, W, c), left as they are.
            seed: Decides all that is random.
        """
        generator = random.Random(seed)
        rows, columns = draw_part(pixels.shape[0], pixels.shape[1], self._crop_scale, generator)
        part = resize(pixels[rows, columns], self._image_size, generator.choice(FILTERS))
        is_flipped = generator.random() < self._hflip
        part = part[:, ::-1] if is_flipped else part
        if self._policy is None:
            out[:] = part
            return
        seed_global_randomness(generator.getrandbits(32))
        grey = part.shape[2] == 1
        varied = self._policy(Image.fromarray(np.ascontiguousarray(part[..., 0] if grey else part)))
        out[:] = np.asarray(varied).reshape(out.shape)


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
    narrowest, widest = ASPECT_RATIOS
    for _ in range(NUM_TRIES):
        area = generator.uniform(*scale) * height * width
        aspect = math.exp(generator.uniform(math.log(narrowest), math.log(widest)))
        part_width = round(math.sqrt(area * aspect))
        part_height = round(math.sqrt(area / aspect))
        if 0 < part_width <= width and 0 < part_height <= height:
            top, left = generator.randint(0, height - part_height), generator.randint(0, width - part_width)
            return slice(top, top + part_height), slice(left, left + part_width)
    part_width = min(width, round(height * widest))
    part_height = min(height, max(1, round(width / narrowest)))
    top, left = (height - part_height) // 2, (width - part_width) // 2
    return slice(top, top + part_height), slice(left, left + part_width)


def resize(pixels: Pixels, size: int, interpolation: str) -> Pixels:
    """Resize (H, W, c) to (size, size, c), low-pass filtered where it shrinks."""
    planes = torch.from_numpy(pixels).permute(2, 0, 1)[None]  # (1, c, H, W), no copy
    resized = F.interpolate(planes, size=(size, size), mode=interpolation, antialias=True)
    return cast(Pixels, resized[0].permute(1, 2, 0).numpy())
