"""`ShardIndex`: what shards hold and where in them each image lies, so that any image is one read away.

It lies beside the shards as `index.parquet`, one row an image, and is written last: shards without one are not whole.
The header, as JSON in the file's metadata, tells the format, the classes, and of each shard its size and checksum.

Shapes: `N` images of all shards.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from numpy.typing import NDArray

from dvt.data.errors import DataError

INDEX = "index.parquet"
VERSION = 1  # raised when the file's meaning changes
FORMATS = ("tar", "parquet")
_HEADER = b"dvt"
_SCHEMA = pa.schema(
    [("shard", pa.int32()), ("label", pa.int32()), ("offset", pa.int64()), ("size", pa.int64()), ("key", pa.string())]
)


@dataclass(frozen=True)
class Shard:
    """A file of many images."""

    name: str  # of the file, beside the index
    num_images: int
    num_bytes: int
    sha256: str  # in hex; empty of shards that were scanned, not packed


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """Where the images of some shards lie.

    Raises:
        ValueError: If its parts contradict each other; the message says how.
    """

    format: str  # one of FORMATS
    class_names: tuple[str, ...]
    shards: tuple[Shard, ...]
    shard: NDArray[np.int32] = field(repr=False)  # (N,) which shard
    labels: NDArray[np.int64] = field(repr=False)  # (N,)
    offsets: NDArray[np.int64] = field(repr=False)  # (N,) first byte of the encoded image in its shard
    sizes: NDArray[np.int64] = field(repr=False)  # (N,) bytes of the encoded image
    keys: pa.StringArray = field(repr=False)  # (N,) what the image is called, such as CLASS/FILE

    def __post_init__(self) -> None:
        counts = np.bincount(self.shard, minlength=len(self.shards)) if len(self.shard) else np.zeros(len(self.shards))
        if self.format not in FORMATS:
            raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {self.format}")
        if counts.tolist() != [shard.num_images for shard in self.shards]:
            raise ValueError("the images of a shard are others than its header says")
        if len(self.labels) and not (self.labels.min() >= 0 and self.labels.max() < len(self.class_names)):
            bad = int(self.labels.max()) if self.labels.min() >= 0 else int(self.labels.min())
            raise ValueError(f"labels must be from 0 to {len(self.class_names) - 1}, got {bad}")
        ends = np.array([shard.num_bytes for shard in self.shards], dtype=np.int64)[self.shard]
        if (self.offsets < 0).any() or (self.sizes < 0).any() or (self.offsets + self.sizes > ends).any():
            raise ValueError("an image lies beyond the end of its shard")

    def __len__(self) -> int:
        """Number of images, N."""
        return len(self.labels)

    def fingerprint(self) -> str:
        """What tells these images from others, wherever they lie: of the shards' checksums where there are any."""
        digest = hashlib.sha256()
        for shard in self.shards:
            digest.update(f"{shard.name}\t{shard.num_images}\t{shard.num_bytes}\t{shard.sha256}\n".encode())
        if not all(shard.sha256 for shard in self.shards):
            for key, label in zip(self.keys.to_pylist(), self.labels.tolist(), strict=True):
                digest.update(f"{key}\t{label}\n".encode())
        return digest.hexdigest()

    def to_bytes(self) -> bytes:
        """The file's content."""
        header = {
            "version": VERSION,
            "format": self.format,
            "class_names": list(self.class_names),
            "shards": [asdict(shard) for shard in self.shards],
        }
        schema = _SCHEMA.with_metadata({_HEADER: json.dumps(header).encode()})
        columns = (self.shard, self.labels, self.offsets, self.sizes, self.keys)
        arrays = [pa.array(column, type=each.type) for column, each in zip(columns, schema, strict=True)]
        sink = pa.BufferOutputStream()
        pyarrow.parquet.write_table(pa.Table.from_arrays(arrays, schema=schema), sink)
        content: bytes = sink.getvalue().to_pybytes()
        return content


def read_index(address: str, read: Callable[[str], bytes]) -> ShardIndex:
    """Read an index.

    Args:
        address: Of the file, for messages and to read it by.
        read: Reads a whole file.

    Raises:
        DataError: If it is no index, of a later version, or contradicts itself.
    """
    content = read(address)
    try:
        table = pyarrow.parquet.read_table(pa.BufferReader(content))
        header = json.loads((table.schema.metadata or {})[_HEADER])
        if header["version"] != VERSION:
            raise ValueError(f"its version must be {VERSION}, got {header['version']}")
        columns = {name: table.column(name).combine_chunks() for name in _SCHEMA.names}
        return ShardIndex(
            format=header["format"],
            class_names=tuple(header["class_names"]),
            shards=tuple(Shard(**shard) for shard in header["shards"]),
            shard=columns["shard"].to_numpy(),
            labels=columns["label"].to_numpy().astype(np.int64),
            offsets=columns["offset"].to_numpy(),
            sizes=columns["size"].to_numpy(),
            keys=columns["key"],
        )
    except (KeyError, TypeError, ValueError, pa.ArrowException) as error:  # of a file that is something else, too
        told = f"it lacks {error}" if isinstance(error, KeyError) else next(iter(str(error).splitlines()), "damaged")
        raise DataError(f"{address} is not an index of shards ({told.rstrip('.')}); run dvt data pack again") from error
