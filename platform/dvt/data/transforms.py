"""From a file to a normalised tensor: decoding with Pillow, timm's transforms for training and evaluation.

As published with DeiT and DVT: random-resized crop, flip, RandAugment and erasing with noise for training;
resize, centre crop and ImageNet's mean and standard deviation for evaluation. Fine-tuning on small images as published
with T2T-ViT: the whole image resized, a border of black, a random crop of the same size, flip.
"""

import re
from collections.abc import Callable
from typing import cast

from PIL.Image import Image
from timm.data.transforms_factory import create_transform
from torchvision.transforms import Compose, InterpolationMode, RandomCrop, RandomHorizontalFlip, Resize

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
    "train_transform",
]

# Per number of channels. Colour is ImageNet's; grey is the luma of that mean (ITU-R 601, as Pillow converts), and the
# mean of its standard deviations.
MEAN: dict[int, tuple[float, ...]] = {1: (0.459,), 3: (0.485, 0.456, 0.406)}
STD: dict[int, tuple[float, ...]] = {1: (0.226,), 3: (0.229, 0.224, 0.225)}

# Sections are a word and a number, or `t` and the name of a set; timm 1.0.31 passes over others without a word.
POLICY = re.compile(r"[a-z0-9]+(-([a-z]+[0-9.]+|t[a-z0-9]+))*")


def train_transform(config: DataConfig, cascade: CascadeConfig) -> Transform:
    """Augment for training as timm does; it draws from the global generators of Python, NumPy and torch.

    Raises:
        ConfigError: If `rand_augment` is no policy that timm knows.
    """
    augment = config.augment
    rule = f"must be a policy of timm such as rand-m9-mstd0.5-inc1, or null, got {augment.rand_augment!r}"
    problem = Problem("data.augment.rand_augment", rule)
    if augment.rand_augment is not None and not POLICY.fullmatch(augment.rand_augment):
        raise ConfigError([problem])
    try:
        crop, vary, finish = create_transform(
            cascade.image_size,
            is_training=True,
            scale=augment.crop_scale,
            hflip=augment.hflip,
            color_jitter=0.0,
            auto_augment=augment.rand_augment,
            interpolation="random",  # bilinear or bicubic, as published
            mean=MEAN[cascade.in_chans],
            std=STD[cascade.in_chans],
            re_prob=augment.random_erasing,
            re_mode="pixel",
            separate=True,
        )
    except (AssertionError, KeyError, ValueError) as error:  # timm 1.0.31 asserts and converts
        raise ConfigError([problem]) from error
    if augment.crop_padding > 0:
        crop = _padded_crop(config, cascade.image_size)
    return cast(Transform, Compose([crop, vary, finish]))


def _padded_crop(config: DataConfig, image_size: int) -> Transform:
    """Up-sample the whole image as at evaluation, and move it by up to the padding, with black coming in."""
    padding = round(config.augment.crop_padding * image_size)
    resize = Resize((image_size, image_size), InterpolationMode(config.interpolation))
    steps = [resize, RandomCrop(image_size, padding=padding), RandomHorizontalFlip(config.augment.hflip)]
    return cast(Transform, Compose(steps))


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
