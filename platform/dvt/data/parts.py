"""From encoded images of train and val to three disjoint sets: calibration images are held out of train."""

import numpy as np
from numpy.typing import NDArray

from dvt.config import CascadeConfig, DataConfig, Rules
from dvt.data.encoded import EncodedImages
from dvt.data.errors import DataError
from dvt.data.image_set import FileImages
from dvt.data.order import choose_order
from dvt.data.randomness import PURPOSE_HOLD_OUT, random_bits
from dvt.data.sets import DataSets
from dvt.data.transforms import MEAN, STD


def split_parts(
    train: EncodedImages, val: EncodedImages, config: DataConfig, cascade: CascadeConfig, address: str, what: str
) -> DataSets:
    """The three sets of images.

    Args:
        train: What is trained on, and calibrated on.
        val: What is tested on; its classes are those of train.
        config: How many images are held out, and how all are read.
        cascade: The model that they are for.
        address: Of train, for messages.
        what: What its classes are there, for messages.

    Raises:
        ConfigError: If classes or calibration images do not fit what there is.
        DataError: If no image can be held out.
    """
    labels, num_classes = train.labels, len(train.class_names)
    most = len(labels) - len(np.unique(labels))
    if most < 1:
        raise DataError(f"{address} holds one image a class, none to hold out for calibration; add images")
    rules = Rules()
    rules.require(
        cascade.num_classes == num_classes,
        "cascade.num_classes",
        f"must be {num_classes}, the number of {what} in {address}, got {cascade.num_classes}",
    )
    rules.require(
        config.calibration_images <= most,
        "data.calibration_images",
        f"must be at most {most}, so that each of {num_classes} classes keeps one of its {len(labels)} images in "
        f"{address} to train on, got {config.calibration_images}",
    )
    rules.enforce()
    is_held_out = hold_out(labels, config.calibration_images, config.seed)
    return DataSets(
        train=FileImages(train, np.flatnonzero(~is_held_out), config, cascade, is_training=True),
        calibration=FileImages(train, np.flatnonzero(is_held_out), config, cascade, is_training=False),
        test=FileImages(val, np.arange(len(val)), config, cascade, is_training=False),
        class_names=train.class_names,
        mean=MEAN[cascade.in_chans],
        std=STD[cascade.in_chans],
        train_order=choose_order(config, None if train.blocks is None else train.blocks[~is_held_out]),
    )


def hold_out(labels: NDArray[np.int64], count: int, seed: int) -> NDArray[np.bool_]:
    """Choose `count` images at random, of each class in proportion, leaving at least one of each.

    The images of a class are put in random order and the one of rank r of n at (r + 1/2) / n; the lowest are held out.

    Args:
        labels: (N,) class of each image.
        count: Images to hold out, at most N less the number of classes.
        seed: Seed of the choice.

    Returns:
        (N,) whether an image is held out.
    """
    bits = random_bits(len(labels), PURPOSE_HOLD_OUT, seed)
    by_class = np.lexsort((bits, labels))  # images of a class stand together, in random order
    sizes = np.bincount(labels)
    starts = np.cumsum(sizes) - sizes
    ranks = np.empty(len(labels), dtype=np.int64)
    ranks[by_class] = np.arange(len(labels)) - np.repeat(starts, sizes)
    places = (ranks + 0.5) / sizes[labels]
    places[ranks == sizes[labels] - 1] = np.inf  # the last of a class stays
    is_held_out = np.zeros(len(labels), dtype=np.bool_)
    is_held_out[np.lexsort((bits, places))[:count]] = True
    return is_held_out
