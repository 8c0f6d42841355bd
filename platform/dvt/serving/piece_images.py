"""The images of a piece of a batch job, one after the other: files of a folder, members of a tar shard, Parquet rows.

What cannot be read, is too large, or has a name that leads out of its shard comes with the reason, and stops nothing.
"""

import tarfile
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from dvt.data.folder import is_shown
from dvt.data.image_files import CANNOT_READ, FoundFile, reason_of
from dvt.data.parquet_files import image_of
from dvt.data.s3_client import open_filesystem
from dvt.data.tar_shards import leads_out
from dvt.serving.batch_work import KEPT_PREFIX, Piece, Work

MAX_ENCODED_BYTES = 256 * 2**20  # of one image in a shard, which is read whole; several are in memory at a time
_ROWS_READ = 8  # rows of a Parquet file that are in memory at a time; a small file may hold large ones
_DAMAGED: tuple[type[Exception], ...] = (*CANNOT_READ, pa.ArrowException)  # what reading a Parquet file may raise
_BAD_TAR: tuple[type[Exception], ...] = (*CANNOT_READ, tarfile.TarError)


class PieceImages:
    """The images of a piece, to be walked through once.

    Args:
        piece: The piece.
        work: What it is a piece of.
        image_column: Of Parquet input.
    """

    def __init__(self, piece: Piece, work: Work, image_column: str) -> None:
        self._piece, self._work, self._image_column = piece, work, image_column
        self._kept: list[pa.RecordBatch] = []

    def __iter__(self) -> Iterator[FoundFile]:
        """The images, in order."""
        if self._work.format == "folder":
            yield from map(FoundFile, self._piece.addresses)
        elif self._work.format == "tar":
            yield from _shard_images(self._piece.addresses[0])
        else:
            yield from self._rows(self._piece.addresses[0])

    @property
    def kept(self) -> pa.Table:
        """The columns that the output keeps, a row an image, once all images were walked through."""
        return pa.Table.from_batches(self._kept, schema=self._work.kept)

    def _rows(self, address: str) -> Iterator[FoundFile]:
        """The rows of a Parquet file's row groups; `kept` grows along."""
        piece = self._piece
        first_row, num_rows = piece.first_row or 0, piece.num_images or 0
        groups = range(piece.first_group or 0, piece.end_group or 0)
        row = first_row
        try:
            filesystem, path = open_filesystem(address)
            with filesystem.open(path, "rb") as file, pa.parquet.ParquetFile(file) as parquet:
                for group in groups:
                    end = row + parquet.metadata.row_group(group).num_rows
                    for image in self._group(parquet, group, address, row, end):
                        yield image
                        row += 1
        except _DAMAGED as error:
            yield from self._unread(address, row, first_row + num_rows, error)

    def _group(self, parquet: Any, group: int, address: str, row: int, end: int) -> Iterator[FoundFile]:
        """The rows of a row group, which are numbered from `row` to before `end`."""
        names = [name.removeprefix(KEPT_PREFIX) for name in self._work.kept.names]
        columns = list(dict.fromkeys([self._image_column, *names]))
        try:
            for batch in parquet.iter_batches(_ROWS_READ, row_groups=[group], columns=columns):
                self._kept.append(batch.select(names).rename_columns(self._work.kept.names))
                for cell in batch.column(self._image_column):
                    image = image_of(f"{address}#{row}", cell)
                    problem = image.problem or _too_large(len(image.content))
                    yield FoundFile(image.name, problem, None if problem else image.content)
                    row += 1
        except _DAMAGED as error:  # the next group may be whole
            yield from self._unread(address, row, end, error)

    def _unread(self, address: str, row: int, end: int, error: Exception) -> Iterator[FoundFile]:
        """Rows that cannot be read, each with the reason."""
        told = "it is damaged" if isinstance(error, pa.ArrowException) else reason_of(error)
        nulls = [dict.fromkeys(self._work.kept.names)] * (end - row)
        self._kept.append(pa.RecordBatch.from_pylist(nulls, schema=self._work.kept))
        for each in range(row, end):
            yield FoundFile(f"{address}#{each}", f"its part of the file cannot be read: {told}")


def _shard_images(address: str) -> Iterator[FoundFile]:
    """The image files in a tar shard, in its order."""
    is_empty = True
    try:
        filesystem, path = open_filesystem(address)
        with filesystem.open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as shard:
            for member in shard:
                if _is_meant(member):
                    is_empty = False
                    yield _member_image(address, shard, member)
            # tarfile takes any header that it cannot read for the end, once one was read.
            file.seek(shard.offset)
            if file.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
                yield FoundFile(address, f"it is cut off or damaged after {len(shard.getmembers())} files")
                return
        if is_empty:
            yield FoundFile(address, "it holds no images")
    except tarfile.ReadError as error:
        told = "it is cut off" if "unexpected end of data" in str(error) else "it is not a tar file"
        yield FoundFile(address, told)
    except _BAD_TAR as error:
        yield FoundFile(address, "it is damaged" if isinstance(error, tarfile.TarError) else reason_of(error))


def _is_meant(member: tarfile.TarInfo) -> bool:
    """Whether a member is an image by its name; hidden ones, as in a folder, are not."""
    parts = [part for part in PurePosixPath(member.name).parts if part != ".."]
    is_hidden = any(part.startswith(".") for part in parts)
    return not member.isdir() and bool(parts) and not is_hidden and is_shown(parts[-1])


def _member_image(address: str, shard: tarfile.TarFile, member: tarfile.TarInfo) -> FoundFile:
    name = PurePosixPath(member.name)
    inside = f"{address}/{name}"
    if leads_out(member.name):
        return FoundFile(inside, "its name leads out of the shard")
    content = shard.extractfile(member) if member.isreg() and not member.issparse() else None
    if content is None:
        return FoundFile(inside, "it is not a whole file but a link, a device or one with holes")
    problem = _too_large(member.size)
    return FoundFile(inside, problem) if problem else FoundFile(inside, content=content.read())


def _too_large(num_bytes: int) -> str:
    """Why an image of so many bytes is not read; empty if it is."""
    if num_bytes <= MAX_ENCODED_BYTES:
        return ""
    return f"it must be at most {MAX_ENCODED_BYTES:,} bytes, got {num_bytes:,}"
