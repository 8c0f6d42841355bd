"""`PackedImages`: encoded images in tar shards or Parquet files, each read as the range of bytes that it lies in."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dvt.data.encoded import EncodedImage
from dvt.data.errors import DataError
from dvt.data.index import ShardIndex
from dvt.data.objects import Objects, StoredObject, is_remote

_BLOCK_BYTES = 8 * 2**20  # of neighbouring images that are worth reading together from a bucket


@dataclass(frozen=True, eq=False)
class PackedImages:
    """Images of the shards of one part of a data set; `EncodedImages`.

    Args:
        address: Of the folder of the shards.
        index: Where in them the images lie.
        objects: Reads them.
    """

    address: str
    index: ShardIndex
    objects: Objects

    @property
    def labels(self) -> NDArray[np.int64]:
        """See `EncodedImages`."""
        return self.index.labels

    @property
    def class_names(self) -> tuple[str, ...]:
        """See `EncodedImages`."""
        return self.index.class_names

    @property
    def blocks(self) -> NDArray[np.int64] | None:
        """None on a disk; of a bucket, neighbours in a shard that make some megabytes together."""
        if not is_remote(self.address):
            return None
        place = self.index.shard.astype(np.int64) << 32 | self.index.offsets // _BLOCK_BYTES
        blocks: NDArray[np.int64] = np.unique(place, return_inverse=True)[1].astype(np.int64)
        return blocks

    def __len__(self) -> int:
        """Number of images."""
        return len(self.index)

    def read(self, indices: Sequence[int]) -> list[EncodedImage]:
        """See `EncodedImages`."""
        index = self.index
        names, ranges = [], []
        for place in indices:
            shard = f"{self.address}/{index.shards[index.shard[place]].name}"
            names.append(f"{shard}/{index.keys[place].as_py()}")
            ranges.append((shard, int(index.offsets[place]), int(index.sizes[place])))
        return list(map(EncodedImage.of, names, self.objects.read_many(ranges)))

    def fingerprint(self) -> str:
        """See `EncodedImages`."""
        return self.index.fingerprint()


def expect_shards(address: str, index: ShardIndex, objects: Objects, bad: dict[str, str] | None = None) -> None:
    """See that all shards are there, as large as their index says, and stay as they are from now on.

    Args:
        address: Of their folder.
        index: Of the shards.
        objects: Reads them.
        bad: Takes the addresses of those that are gone or others, and why; without it the first is an error.

    Raises:
        DataError: If one is gone or another.
    """
    found = {stored.address[len(address) + 1 :]: stored for stored in objects.list(address)}
    stored: list[StoredObject] = []
    for shard in index.shards:
        place, there = f"{address}/{shard.name}", found.get(shard.name)
        if there is not None and there.size == shard.num_bytes:
            stored.append(there)
            continue
        gone = "is not there, though the index tells of it"
        told = gone if there is None else f"must hold {shard.num_bytes} bytes by its index, got {there.size}"
        if bad is None:
            raise DataError(f"{place} {told}; put {'it' if there is None else 'the right one'} back or pack again")
        bad[place] = f"it {told}"
    objects.expect(stored)
