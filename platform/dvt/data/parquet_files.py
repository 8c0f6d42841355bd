"""Parquet files with encoded images and labels, in the layout that Hugging Face's image data sets have.

`image` is a struct of `bytes` and `path` (or bytes alone), `label` an integer; the classes' names stand in the schema's
metadata. Files that `dvt data pack` writes are neither compressed nor dictionary-encoded, so that each image lies in
them as it is, and is read as a range like one in a tar shard. Others are read by row groups.

Shapes: `N` images of all files.
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from numpy.typing import NDArray

from dvt.data.encoded import EncodedImage
from dvt.data.errors import DataError
from dvt.data.object_file import ObjectFile
from dvt.data.objects import Objects

IMAGE, LABEL = "image", "label"
ROW_GROUP = 100  # images; Hugging Face's own choice for images
_MOST_READ_BYTES = 2**31  # of one column of a row group
_KEPT_BYTES = 256 * 2**20  # of row groups that a process keeps
_NAMES = b"huggingface"  # key of the schema's metadata


@dataclass(frozen=True, eq=False)
class ParquetImages:
    """Images of Parquet files that were not packed here; `EncodedImages`.

    Random access costs a row group an image, so an order by `blocks` is much cheaper.
    """

    addresses: tuple[str, ...]  # of the files
    class_names: tuple[str, ...]
    labels: NDArray[np.int64] = field(repr=False)  # (N,)
    starts: NDArray[np.int64] = field(repr=False)  # first row of each row group, counted over all files, and N
    groups: NDArray[np.int64] = field(repr=False)  # (row groups, 2): which file, which of its row groups
    objects: Objects = field(repr=False)
    _kept: "OrderedDict[int, pa.Array]" = field(default_factory=OrderedDict, init=False, repr=False)
    _open: "dict[int, pa.parquet.ParquetFile]" = field(default_factory=dict, init=False, repr=False)

    def __getstate__(self) -> dict[str, object]:
        """Another process opens the files for itself."""
        return {**self.__dict__, "_kept": OrderedDict(), "_open": {}}

    @property
    def blocks(self) -> NDArray[np.int64]:
        """The row group of each image."""
        return np.repeat(np.arange(len(self.groups)), np.diff(self.starts))

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def read(self, indices: Sequence[int]) -> list[EncodedImage]:
        """See `EncodedImages`."""
        images: list[EncodedImage | None] = [None] * len(indices)
        places = np.asarray(indices, dtype=np.int64)
        groups = np.searchsorted(self.starts, places, side="right") - 1
        for group in np.unique(groups).tolist():
            cells = self._group(group)
            for place in np.flatnonzero(groups == group).tolist():
                row = int(places[place] - self.starts[group])
                images[place] = image_of(self._name(group, row), cells[row])
        return [image for image in images if image is not None]

    def fingerprint(self) -> str:
        """See `EncodedImages`; of the files' names, sizes and labels."""
        digest = hashlib.sha256()
        for address in self.addresses:
            stored = self.objects.size_and_version(address)
            digest.update(f"{address.rpartition('/')[2]}\t{stored.size}\n".encode())
        digest.update(self.labels.astype("<i8").tobytes())
        return digest.hexdigest()

    def _name(self, group: int, row: int) -> str:
        file = int(self.groups[group, 0])
        first = int(self.starts[np.flatnonzero(self.groups[:, 0] == file)[0]])
        return f"{self.addresses[file]}#{int(self.starts[group]) - first + row}"

    def _group(self, group: int) -> pa.Array:
        """The image column of a row group, kept while there is room."""
        cells = self._kept.get(group)
        if cells is None:
            file, number = self.groups[group].tolist()
            try:
                if file not in self._open:
                    self._open[file] = _opened(self.addresses[file], self.objects)
                cells = self._open[file].read_row_group(number, columns=[IMAGE]).column(IMAGE).combine_chunks()
            except (OSError, pa.ArrowException) as error:
                raise DataError(f"{self.addresses[file]} is damaged; put the right file there") from error
            self._kept[group] = cells
        self._kept.move_to_end(group)
        while len(self._kept) > 1 and sum(each.nbytes for each in self._kept.values()) > _KEPT_BYTES:
            self._kept.popitem(last=False)
        return cells


def open_parquet(addresses: Sequence[str], objects: Objects) -> ParquetImages:
    """Parquet files as they come, of which labels and row groups are read.

    Raises:
        DataError: If a file is damaged or lacks a column, or labels are no classes.
    """
    labels, groups, sizes, names = [], [], [], tuple[str, ...]()
    for number, address in enumerate(addresses):
        try:
            file = _opened(address, objects)
            missing = [name for name in (IMAGE, LABEL) if name not in file.schema_arrow.names]
            if missing:
                raise DataError(f"{address} must hold the columns {IMAGE} and {LABEL}, got none called {missing[0]}")
            column = file.read(columns=[LABEL]).column(LABEL)
            labels.append(column.cast(pa.int64()).to_numpy())
        except (OSError, pa.ArrowException) as error:
            raise DataError(
                f"{address} is not a Parquet file of images and labels, or is damaged; replace it"
            ) from error
        if column.null_count:
            raise DataError(f"{address} holds {column.null_count} images without a label; take them out")
        names = names or _class_names(file.schema_arrow)
        metadata = file.metadata
        groups += [(number, group) for group in range(metadata.num_row_groups)]
        sizes += [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    together = np.concatenate(labels) if labels else np.zeros(0, dtype=np.int64)
    return ParquetImages(
        addresses=tuple(addresses),
        class_names=names,
        labels=together,
        starts=np.cumsum([0, *sizes]),
        groups=np.array(groups, dtype=np.int64).reshape(-1, 2),
        objects=objects,
    )


def _opened(address: str, objects: Objects) -> "pa.parquet.ParquetFile":
    source = pa.PythonFile(ObjectFile(address, objects, _MOST_READ_BYTES), mode="r")
    return pa.parquet.ParquetFile(source, pre_buffer=False)


def _class_names(schema: pa.Schema) -> tuple[str, ...]:
    """What Hugging Face's metadata calls the classes; empty where there is none."""
    try:
        features = json.loads((schema.metadata or {})[_NAMES])["info"]["features"]
        return tuple(map(str, features[LABEL]["names"]))
    except (KeyError, TypeError, ValueError):
        return ()


def image_of(name: str, cell: pa.Scalar) -> EncodedImage:
    """The image of a cell: bytes, or a struct that holds them."""
    value = cell.as_py()
    content = value.get("bytes") if isinstance(value, dict) else value
    return EncodedImage.of(name, content if isinstance(content, bytes) else "there are no bytes")


def shard_of(keys: Sequence[str], contents: Sequence[bytes], labels: Sequence[int], names: Sequence[str]) -> bytes:
    """A Parquet file of images, each as it is, the same bytes for the same images.

    Args:
        keys: What they are called.
        contents: Encoded.
        labels: Their classes.
        names: Of the classes.
    """
    features = {IMAGE: {"_type": "Image"}, LABEL: {"names": list(names), "_type": "ClassLabel"}}
    image = pa.StructArray.from_arrays(
        [pa.array(contents, pa.binary()), pa.array(keys, pa.string())], ["bytes", "path"]
    )
    schema = pa.schema(
        [(IMAGE, image.type), (LABEL, pa.int64())], {_NAMES: json.dumps({"info": {"features": features}}).encode()}
    )
    table = pa.Table.from_arrays([image, pa.array(labels, pa.int64())], schema=schema)
    sink = pa.BufferOutputStream()
    pa.parquet.write_table(
        table, sink, row_group_size=ROW_GROUP, compression="none", use_dictionary=False, write_statistics=False
    )
    content: bytes = sink.getvalue().to_pybytes()
    return content


def offsets_in(shard: bytes, contents: Sequence[bytes]) -> list[int]:
    """Where in a shard of `shard_of` each image lies.

    Parquet's plain encoding puts the length in four bytes before each value, and values one after the other.
    """
    metadata = pa.parquet.read_metadata(pa.BufferReader(shard))
    rows, offsets = iter(contents), []
    for group in range(metadata.num_row_groups):
        column = metadata.row_group(group).column(0)
        place = column.data_page_offset
        for _ in range(metadata.row_group(group).num_rows):
            content = next(rows)
            place = shard.index(len(content).to_bytes(4, "little") + content, place) + 4
            offsets.append(place)
            place += len(content)
    return offsets
