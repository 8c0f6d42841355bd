"""What is done to training images on the training device: normalising, random erasing with noise, mixing.

Random erasing as timm's with mode `pixel`: Zhong et al., "Random Erasing Data Augmentation", AAAI 2020.

Shapes: `B` batch, `C` channels, `S` image side in pixels, `K` classes.
"""

import math
import random
from typing import Self

import torch
from torch import Tensor

from dvt.config import AugmentConfig, LossConfig, Recipe
from dvt.data.mixing import Mixer
from dvt.data.sets import DataSets

AREAS = (0.02, 1 / 3)  # least and most area that is erased, as a share of the image
ASPECT_RATIOS = (0.3, 1 / 0.3)  # height over width of what is erased
NUM_TRIES = 10  # to draw a rectangle that lies within the image


class OnDevice:
    """Makes a batch as it is loaded one as the model takes it, with soft targets."""

    def __init__(
        self, config: AugmentConfig, loss: LossConfig, num_classes: int, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        self._erasing = config.random_erasing
        self._mean, self._std = (torch.tensor(each, dtype=torch.float32)[:, None, None] for each in (mean, std))
        self._mixer = Mixer(config, loss, num_classes)

    @classmethod
    def of(cls, recipe: Recipe, data: DataSets) -> Self:
        """That of a recipe and its images."""
        return cls(recipe.data.augment, recipe.loss, recipe.cascade.num_classes, data.mean, data.std)

    def __call__(self, images: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Prepare a batch.

        Args:
            images: (B, C, S, S) on the training device; left as they are. Bytes are normalised and erased; float32
                ones are taken to be so already. B is even where mixing is on.
            labels: (B,) int64, on the device of the images.
            seed: Below 2**32, decides all that is random; `derive_seed` makes one of seed, step and rank.

        Returns:
            (B, C, S, S) float32, and targets (B, K) float32 whose rows sum to 1.
        """
        if images.dtype == torch.uint8:
            images = self._normalised(images)
            if self._erasing > 0:
                erase(images, self._erasing, seed)
        return self._mixer(images, labels, seed)

    def _normalised(self, images: Tensor) -> Tensor:
        if self._mean.device != images.device:
            self._mean, self._std = self._mean.to(images.device), self._std.to(images.device)
        floats = images.to(torch.float32, memory_format=torch.contiguous_format)
        return floats.div_(255).sub_(self._mean).div_(self._std)


def erase(images: Tensor, probability: float, seed: int) -> None:
    """Fill a random rectangle of each image with normal noise, with this probability.

    Args:
        images: (B, C, S, S) float32, normalised; changed.
        probability: Of an image to be erased in, from 0 to 1.
        seed: Below 2**32, decides all that is random; noise also depends on the kind of device.
    """
    size = images.shape[-1]
    places = random.Random(seed)
    noise = torch.Generator(images.device).manual_seed(seed)
    for image in images:
        if places.random() >= probability:
            continue
        rectangle = _draw_rectangle(size, places)
        if rectangle is not None:
            top, left, height, width = rectangle
            image[:, top : top + height, left : left + width].normal_(generator=noise)


def _draw_rectangle(size: int, places: random.Random) -> tuple[int, int, int, int] | None:
    """Top, left, height and width; None if none was within the image."""
    for _ in range(NUM_TRIES):
        area = places.uniform(*AREAS) * size * size
        aspect = math.exp(places.uniform(*map(math.log, ASPECT_RATIOS)))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if height < size and width < size:
            return places.randint(0, size - height), places.randint(0, size - width), height, width
    return None
