"""Tar shards and Parquet files as a source of images: packed ones with their index, others as they come.

Packed: root/train/ and root/val/, each with shards and `index.parquet`. Others are found by their names: a file belongs
to a part if `train`, or `val` or `validation`, is a word of its path below the root, as in `data/train-00000.parquet`.
"""

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

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
Opened = TypeVar("Opened")
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


def open_parts(root: str, config: DataConfig, bad: dict[str, str] | None = None) -> tuple[EncodedImages, EncodedImages]:
    """The images to train and to test on, with the same classes.

    Args:
        root: A path or an `s3://` address.
        config: Of format `source`.
        bad: Takes the addresses of shards that cannot be read, and why, so that all are told of; without it the first
            is an error. Images that an index tells of in such a shard are among those returned.

    Raises:
        ConfigError: If there are none in the format.
        DataError: If they cannot be read, or the classes of the two differ.
    """
    objects = open_objects(config)
    stored = objects.list(root)
    (train, names), (val, told) = (_open_part(root, part, config.source, stored, objects, bad) for part in PARTS)
    known = (train, val) if bad else (train,)  # shards that cannot be read may have held what train lacks
    highest = max(int(part.labels.max(initial=-1)) for part in known)
    names = names or told or tuple(map(str, range(highest + 1)))
    if told and told != names:
        other = next(iter(set(told) ^ set(names)), "the same ones in another order")
        raise DataError(f"the classes in {root} must be those of train in val too, got {other}; pack both together")
    for part, images in zip(PARTS, (train, val), strict=True):
        least, most = int(images.labels.min(initial=0)), int(images.labels.max(initial=0))
        if least < 0 or most >= len(names):
            wrong = least if least < 0 else most
            raise DataError(f"labels of {part} in {root} must be from 0 to {len(names) - 1}, got {wrong}; mend them")
    return _named(train, names), _named(val, names)


def _open_part(
    root: str, part: str, source: str, stored: Sequence[StoredObject], objects: Objects, bad: dict[str, str] | None
) -> tuple[PackedImages | ParquetImages, tuple[str, ...]]:
    """The images of a part, and what their classes are called; nothing where that is not told."""
    folder = f"{root}/{part}"
    if any(each.address == f"{folder}/{INDEX}" for each in stored):
        index = read_index(f"{folder}/{INDEX}", objects.read)
        if index.format != source:
            raise ConfigError([Problem("data.source", f"must be {index.format}, as {folder} was packed, got {source}")])
        expect_shards(folder, index, objects, bad)
        return PackedImages(folder, index, objects), index.class_names
    if any(each.address == f"{folder}/{ASKED}" for each in stored):
        raise DataError(f"{folder} must be packed to the end, got no {INDEX}; run the same dvt data pack again")
    shards = [each for each in stored if each.address.endswith(f".{source}") and _part_of(each.address, root) == part]
    if not shards:
        rule = f"must hold shards of {part} in {part}/*.{source} or *{part}*.{source}, got {root}, which holds none"
        raise ConfigError([Problem("data.root", f"{rule}; make some with dvt data pack")])
    objects.expect(shards)
    if source == "parquet":
        if bad is not None:
            opened = _opened_each(shards, lambda shard: open_parquet([shard.address], objects), bad)
            shards = [shard for shard, one in zip(shards, opened, strict=True) if one is not None]
        images = open_parquet([each.address for each in shards], objects)
        return images, images.class_names
    return PackedImages(root, _scanned(root, shards, objects, bad), objects), ()


def _named(images: PackedImages | ParquetImages, names: tuple[str, ...]) -> EncodedImages:
    """The same images, with names for their classes."""
    if isinstance(images, PackedImages):
        return replace(images, index=replace(images.index, class_names=names))
    return replace(images, class_names=names)


def _part_of(address: str, root: str) -> str | None:
    words = re.split(r"[^a-z0-9]+", address[len(root) :].lower())
    return next((part for part, names in PARTS.items() if any(name in words for name in names)), None)


def _opened_each(
    shards: Sequence[StoredObject], open_one: Callable[[StoredObject], Opened], bad: dict[str, str] | None
) -> list[Opened | None]:
    """What is made of each shard, some at a time; None of one that cannot be read, if `bad` takes why."""

    def tried(shard: StoredObject) -> Opened | DataError:
        try:
            return open_one(shard)
        except DataError as error:
            return error

    with ThreadPoolExecutor(_NUM_SCANNED, thread_name_prefix="dvt-scan") as pool:
        found = list(pool.map(tried, shards))
    opened: list[Opened | None] = []
    for shard, each in zip(shards, found, strict=True):
        if not isinstance(each, DataError):
            opened.append(each)
            continue
        if bad is None:
            raise each
        bad[shard.address] = str(each).removeprefix(f"{shard.address} ")
        opened.append(None)
    return opened


def _scanned(root: str, shards: Sequence[StoredObject], objects: Objects, bad: dict[str, str] | None) -> ShardIndex:
    """An index of tar shards that come without one; classes have no names."""
    scanned = _opened_each(shards, lambda shard: scan_shard(shard.address, objects), bad)
    found = [each or [] for each in scanned]
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
