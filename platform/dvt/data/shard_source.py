"""Tar shards and Parquet files as a source of images: packed ones with their index, others as they come.

Packed: root/train/ and root/val/, each with shards and `index.parquet`. Others are found by their names: a file belongs
to a part if `train`, or `val` or `validation`, is a word of its path below the root, as in `data/train-00000.parquet`.
"""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pyarrow as pa

from dvt.config import CascadeConfig, ConfigError, DataConfig, Problem
from dvt.data.encoded import EncodedImages
from dvt.data.errors import DataError
from dvt.data.index import INDEX, Shard, ShardIndex, read_index
from dvt.data.objects import Objects, StoredObject, open_objects
from dvt.data.packed import PackedImages, expect_shards
from dvt.data.packing import ASKED
from dvt.data.parquet_files import ParquetImages, open_parquet
from dvt.data.parts import split_parts
from dvt.data.sets import DataSets
from dvt.data.tar_shards import scan_shard

PARTS = {"train": ("train",), "val": ("val", "validation")}  # by the words that their files' names hold
_NUM_SCANNED = 16  # shards at a time; scanning waits more than it works


def open_shards(root: str, config: DataConfig, cascade: CascadeConfig) -> DataSets:
    """Open a packed data set, or shards from elsewhere, which are walked through once.

    Args:
        root: A path or an `s3://` address.
        config: Of format `source`.
        cascade: The model that they are for.

    Raises:
        ConfigError: If there are no such shards, or classes or calibration images do not fit what there is.
        DataError: If shards are damaged, or others than their index tells of.
    """
    train, val = open_parts(root, config)
    return split_parts(train, val, config, cascade, f"{root}/train", "classes")


def open_parts(root: str, config: DataConfig) -> tuple[EncodedImages, EncodedImages]:
    """The images to train and to test on, with the same classes.

    Raises:
        ConfigError: If there are none in the format.
        DataError: If they cannot be read, or the classes of the two differ.
    """
    objects = open_objects(config)
    stored = objects.list(root)
    (train, names), (val, told) = (_open_part(root, part, config.source, stored, objects) for part in PARTS)
    names = names or told or tuple(map(str, range(int(train.labels.max(initial=-1)) + 1)))
    if told and told != names:
        other = next(iter(set(told) ^ set(names)), "the same ones in another order")
        raise DataError(f"the classes in {root} must be those of train in val too, got {other}; pack both together")
    for part, images in zip(PARTS, (train, val), strict=True):
        least, most = int(images.labels.min(initial=0)), int(images.labels.max(initial=0))
        if least < 0 or most >= len(names):
            bad = least if least < 0 else most
            raise DataError(f"labels of {part} in {root} must be from 0 to {len(names) - 1}, got {bad}; mend them")
    return _named(train, names), _named(val, names)


def _open_part(
    root: str, part: str, source: str, stored: Sequence[StoredObject], objects: Objects
) -> tuple[PackedImages | ParquetImages, tuple[str, ...]]:
    """The images of a part, and what their classes are called; nothing where that is not told."""
    folder = f"{root}/{part}"
    if any(each.address == f"{folder}/{INDEX}" for each in stored):
        index = read_index(f"{folder}/{INDEX}", objects.read)
        if index.format != source:
            raise ConfigError([Problem("data.source", f"must be {index.format}, as {folder} was packed, got {source}")])
        expect_shards(folder, index, objects)
        return PackedImages(folder, index, objects), index.class_names
    if any(each.address == f"{folder}/{ASKED}" for each in stored):
        raise DataError(f"{folder} must be packed to the end, got no {INDEX}; run the same dvt data pack again")
    shards = [each for each in stored if each.address.endswith(f".{source}") and _part_of(each.address, root) == part]
    if not shards:
        rule = f"must hold shards of {part} in {part}/*.{source} or *{part}*.{source}, got {root}, which holds none"
        raise ConfigError([Problem("data.root", f"{rule}; make some with dvt data pack")])
    objects.expect(shards)
    if source == "parquet":
        images = open_parquet([each.address for each in shards], objects)
        return images, images.class_names
    return PackedImages(root, _scanned(root, shards, objects), objects), ()


def _named(images: PackedImages | ParquetImages, names: tuple[str, ...]) -> EncodedImages:
    """The same images, with names for their classes."""
    if isinstance(images, PackedImages):
        return replace(images, index=replace(images.index, class_names=names))
    return replace(images, class_names=names)


def _part_of(address: str, root: str) -> str | None:
    words = re.split(r"[^a-z0-9]+", address[len(root) :].lower())
    return next((part for part, names in PARTS.items() if any(name in words for name in names)), None)


def _scanned(root: str, shards: Sequence[StoredObject], objects: Objects) -> ShardIndex:
    """An index of tar shards that come without one; classes have no names."""
    with ThreadPoolExecutor(_NUM_SCANNED, thread_name_prefix="dvt-scan") as pool:
        found = list(pool.map(lambda shard: scan_shard(shard.address, objects), shards))
    images = [image for each in found for image in each]
    labels = np.array([image.label for image in images], dtype=np.int64)
    return ShardIndex(
        format="tar",
        class_names=tuple(map(str, range(int(labels.max(initial=-1)) + 1))),
        shards=tuple(
            Shard(stored.address[len(root) + 1 :], len(each), stored.size, "")
            for stored, each in zip(shards, found, strict=True)
        ),
        shard=np.repeat(np.arange(len(shards), dtype=np.int32), [len(each) for each in found]),
        labels=labels,
        offsets=np.array([image.offset for image in images], dtype=np.int64),
        sizes=np.array([image.size for image in images], dtype=np.int64),
        keys=pa.array([image.key for image in images], pa.string()),
    )
