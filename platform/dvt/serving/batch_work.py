"""What a batch job has to do: the input told apart, listed once, and cut into pieces, each of which gives one part.

A piece is a run of image files of a folder, one tar shard, or a run of row groups of a Parquet file. The list is kept
with the output, so that a part means the same images whenever the job goes on.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Literal, get_args

import pyarrow as pa
import pyarrow.parquet

from dvt.config import ConfigError, Problem
from dvt.data.folder import IMAGE_SUFFIXES
from dvt.data.image_files import CANNOT_READ, NUM_THREADS, FoundFile, find_files, reason_of
from dvt.data.index import INDEX
from dvt.data.s3_client import open_filesystem

Format = Literal["folder", "tar", "parquet"]
FORMATS: tuple[Format, ...] = get_args(Format)
_SUFFIXES: dict[Format, tuple[str, ...]] = {"folder": IMAGE_SUFFIXES, "tar": (".tar",), "parquet": (".parquet",)}
_DAMAGED: tuple[type[Exception], ...] = (*CANNOT_READ, pa.ArrowException)  # what reading a Parquet file may raise
KEPT_PREFIX = "input_"  # before the name of a column that is kept, as `label` is also a column of the output

# A table of pieces; also how a piece travels to a worker.
_PIECES = pa.schema(
    {
        "number": pa.int64(),
        "addresses": pa.list_(pa.binary()),  # names of local files need not be text
        "first_group": pa.int64(),
        "end_group": pa.int64(),
        "first_row": pa.int64(),
        "num_images": pa.int64(),
    }
)


@dataclass(frozen=True)
class Piece:
    """What gives one part of the output."""

    number: int  # from 0; of its part too
    addresses: tuple[str, ...]  # image files, or one shard, or one Parquet file
    first_group: int | None = None  # of a Parquet file's row groups
    end_group: int | None = None  # behind the last one
    first_row: int | None = None  # of the first group, in the file
    num_images: int | None = None  # None of a shard, which must be read to tell


@dataclass(frozen=True)
class Work:
    """All that a job has to do."""

    format: Format
    pieces: tuple[Piece, ...]
    kept: pa.Schema  # columns of Parquet input that the output keeps, as the output names them

    def to_table(self) -> pa.Table:
        """The work as a table, which tells the format and the kept columns in its metadata."""
        metadata = {"format": self.format, "kept": self.kept.serialize().to_pybytes()}
        return pieces_table(self.pieces).replace_schema_metadata(metadata)

    @classmethod
    def from_table(cls, table: pa.Table) -> "Work":
        """The work that `to_table` made a table of."""
        found = table.schema.metadata
        (told,) = (each for each in FORMATS if each == found[b"format"].decode())
        return cls(told, pieces_of(table), pa.ipc.read_schema(pa.py_buffer(found[b"kept"])))


def pieces_table(pieces: Iterable[Piece]) -> pa.Table:
    """A row a piece."""
    rows = [{**asdict(piece), "addresses": list(map(os.fsencode, piece.addresses))} for piece in pieces]
    return pa.Table.from_pylist(rows, schema=_PIECES)


def pieces_of(table: pa.Table) -> tuple[Piece, ...]:
    """The pieces that `pieces_table` made a table of."""
    rows = table.select(_PIECES.names).to_pylist()
    return tuple(Piece(**{**row, "addresses": tuple(map(os.fsdecode, row["addresses"]))}) for row in rows)


def list_work(
    address: str, asked: Format | None, part_size: int, image_column: str, keep_columns: Sequence[str]
) -> Work:
    """List the input and cut it into pieces.

    Args:
        address: A folder or a file, by its path or its `s3://` address.
        asked: What is there; None tells it by the names of the files.
        part_size: Images of a piece where they can be counted without reading them, at least 1.
        image_column: Of Parquet input, with encoded images or structs that hold them as `bytes`.
        keep_columns: Of Parquet input, to be kept in the output.

    Raises:
        ConfigError: If there is no input, it is of several kinds, or columns are not as stated.
    """
    told, addresses = _listed(address, asked)
    if told != "parquet" and keep_columns:
        raise ConfigError([Problem("--keep-columns", f"must come with Parquet input, got {told} input; leave it out")])
    if told == "folder":
        starts = range(0, len(addresses), part_size)
        cut = [tuple(addresses[start : start + part_size]) for start in starts]
        pieces = tuple(Piece(number, some, num_images=len(some)) for number, some in enumerate(cut))
        return Work(told, pieces, pa.schema([]))
    if told == "tar":
        return Work(told, tuple(Piece(number, (shard,)) for number, shard in enumerate(addresses)), pa.schema([]))
    return _parquet_work(addresses, part_size, image_column, keep_columns)


def _listed(address: str, asked: Format | None) -> tuple[Format, list[str]]:
    """What kind of input it is, and its files."""
    wanted = FORMATS if asked is None else (asked,)
    suffixes = tuple(suffix for each in wanted for suffix in _SUFFIXES[each])
    found = list(find_files(address, suffixes))
    problem = next((file.problem for file in found if file.problem), "")
    if [file.address for file in found] == [address] and not problem:  # a file is found unseen
        problem = _why_missing(address)
    if problem:
        raise ConfigError([_not_input(f"got {address}: {problem}")])
    kinds = {each: [file.address for file in found if _is_of(file, each)] for each in FORMATS}
    there = [each for each in wanted if kinds[each]]
    if not there:  # a single file, which is listed whatever its name
        raise ConfigError([_not_input(f"got {address}")])
    if len(there) > 1:
        told = " and ".join(f"{len(kinds[each]):,} of {each}" for each in there)
        rule = f"must be given where there are several kinds of input, got {told}; choose from {', '.join(there)}"
        raise ConfigError([Problem("--format", rule)])
    return there[0], kinds[there[0]]


def _why_missing(address: str) -> str:
    """Why a file is not there; empty if it is."""
    try:
        filesystem, path = open_filesystem(address)
        return "" if filesystem.exists(path) else "there is no such file"
    except CANNOT_READ as error:
        return reason_of(error)


def _is_of(file: FoundFile, kind: Format) -> bool:
    is_index = file.address.rpartition("/")[2] == INDEX  # that `dvt data pack` writes beside shards
    return file.address.lower().endswith(_SUFFIXES[kind]) and not is_index


def _not_input(got: str) -> Problem:
    return Problem("--input", f"must be images, .tar shards or .parquet files, or a folder of one of them, {got}")


def _parquet_work(addresses: Sequence[str], part_size: int, image_column: str, keep_columns: Sequence[str]) -> Work:
    with ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="dvt-footer") as pool:
        footers = list(pool.map(_footer, addresses))
    kept = [_kept_of(footer, image_column, keep_columns) for footer in footers]
    for address, schema in zip(addresses, kept, strict=True):
        if schema != kept[0]:
            rule = f"must be of one type in all files, got {_told(kept[0])} in {addresses[0]} and {_told(schema)} in "
            raise ConfigError([Problem("--keep-columns", rule + address)])
    pieces: list[Piece] = []
    for footer in footers:
        for first, end, first_row, num_rows in _runs(footer.group_rows, part_size):
            pieces.append(Piece(len(pieces), (footer.address,), first, end, first_row, num_rows))
    return Work("parquet", tuple(pieces), kept[0])


@dataclass(frozen=True)
class _Footer:
    """What a Parquet file tells of itself."""

    address: str
    schema: pa.Schema
    group_rows: tuple[int, ...]  # of each row group


def _footer(address: str) -> _Footer:
    filesystem, path = open_filesystem(address)
    try:
        with filesystem.open(path, "rb") as file, pa.parquet.ParquetFile(file) as parquet:
            rows = tuple(parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups))
            return _Footer(address, parquet.schema_arrow, rows)
    except _DAMAGED as error:
        told = "it is damaged" if isinstance(error, pa.ArrowException) else reason_of(error)
        rule = f"must hold Parquet files that can be read, got {address}: {told}; replace or remove it"
        raise ConfigError([Problem("--input", rule)]) from error


def _kept_of(footer: _Footer, image_column: str, keep_columns: Sequence[str]) -> pa.Schema:
    """The columns that are kept of a file, as the output names them, after a look at the column of images."""
    address, schema = footer.address, footer.schema
    here = ", ".join(schema.names)
    problems = [
        Problem(flag, f"must name a column of every file, got {name!r} and {address}, which holds {here}")
        for flag, name in [("--image-column", image_column), *(("--keep-columns", name) for name in keep_columns)]
        if name not in schema.names
    ]
    if image_column in schema.names and not holds_images(schema.field(image_column).type):
        got = f"got {image_column!r} of {schema.field(image_column).type} in {address}"
        rule = f"must name a column of encoded images (binary, or a struct with binary `bytes`), {got}"
        problems.append(Problem("--image-column", rule))
    if problems:
        raise ConfigError(problems)
    return pa.schema([(KEPT_PREFIX + name, schema.field(name).type) for name in keep_columns])


def holds_images(kind: pa.DataType) -> bool:
    """Whether a column of this type can hold encoded images: as bytes, or as structs of `bytes` and more."""
    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and holds_images(kind.field(index).type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _runs(group_rows: Sequence[int], part_size: int) -> Iterator[tuple[int, int, int, int]]:
    """Runs of row groups with at least so many rows each but the last: first, behind last, first row, rows."""
    first, first_row, rows = 0, 0, 0
    for group, count in enumerate(group_rows):
        rows += count
        if rows >= part_size or group == len(group_rows) - 1:
            yield first, group + 1, first_row, rows
            first, first_row, rows = group + 1, first_row + rows, 0


def _told(schema: pa.Schema) -> str:
    return ", ".join(f"{each.name.removeprefix(KEPT_PREFIX)} of {each.type}" for each in schema)
