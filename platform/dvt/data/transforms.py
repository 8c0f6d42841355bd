"""Evaluation images from files to normalised tensors, and timm's augmentation policy for training images.

As published with DeiT and DVT: resize, centre crop and ImageNet's mean and standard deviation for evaluation,
RandAugment for training, whose crops, flips and erasing are in `dvt.data.augmenting` and `dvt.data.on_device`.
"""

import re
from collections.abc import Callable
from typing import cast

from PIL.Image import Image
from timm.data.transforms_factory import create_transform

from dvt.config import CascadeConfig, ConfigError, DataConfig, Problem
from dvt.inference.preparation import UNREADABLE, Transform, inference_transform, read_image

__all__ = [
    "MEAN",
    "STD",
    "UNREADABLE",
    "Transform",
    "eval_transform",
    "inference_transform",
    "rand_augment",
    "read_image",
    "served_crop_pct",
]

# Per number of channels. Colour is ImageNet's; grey is the luma of that mean (ITU-R 601, as Pillow converts), and the
# mean of its standard deviations.
MEAN: dict[int, tuple[float, ...]] = {1: (0.459,), 3: (0.485, 0.456, 0.406)}
STD: dict[int, tuple[float, ...]] = {1: (0.226,), 3: (0.229, 0.224, 0.225)}

# Sections are a word and a number, or `t` and the name of a set; timm 1.0.31 passes over others without a word.
POLICY = re.compile(r"[a-z0-9]+(-([a-z]+[0-9.]+|t[a-z0-9]+))*")


def rand_augment(config: DataConfig, cascade: CascadeConfig) -> Callable[[Image], Image]:
    """timm's augmentation policy alone, for images of the model's size; it draws from Python's and NumPy's generators.

    Raises:
        ConfigError: If `rand_augment` is no policy that timm knows.
    """
    policy = config.augment.rand_augment
    rule = f"must be a policy of timm such as rand-m9-mstd0.5-inc1, or null, got {policy!r}"
    problem = Problem("data.augment.rand_augment", rule)
    if policy is not None and not POLICY.fullmatch(policy):
        raise ConfigError([problem])
    try:
        _, vary, _ = create_transform(
            cascade.image_size,
            is_training=True,
            color_jitter=0.0,
            auto_augment=policy,
            interpolation="random",  # of each operation: bilinear or bicubic, as published
            mean=MEAN[cascade.in_chans],  # the colour that comes in from outside
            separate=True,
        )
    except (AssertionError, KeyError, ValueError) as error:  # timm 1.0.31 asserts and converts
        raise ConfigError([problem]) from error
    return cast("Callable[[Image], Image]", vary)


def eval_transform(config: DataConfig, cascade: CascadeConfig) -> Transform:
    """Resize the shorter side to image_size / crop_pct, crop the centre, normalise."""
    mean, std = MEAN[cascade.in_chans], STD[cascade.in_chans]
    return inference_transform(cascade.image_size, config.crop_pct, config.interpolation, mean, std)


def served_crop_pct(config: DataConfig) -> float:
    """The share that the centre crop keeps of an image file, for a model trained on this data.

    Embedded scenes are made at the model's own size and evaluated whole.
    """
    return 1.0 if config.source == "embedded" else config.crop_pct
