"""The folder that a batch job writes: which parts are done, what the job is, and what it came to.

`_job.json` tells the job and stands for the list of pieces beside it, `_listing.parquet`, being whole; a part is
`part-00000.parquet`, and there only when it is whole; `_manifest.json` tells that all are, and counts. Readers of
Parquet folders pass over names that begin with an underscore or a dot.
"""

import json
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet

from dvt.config import ConfigError, Problem
from dvt.data.image_files import NUM_THREADS
from dvt.data.s3_client import open_filesystem
from dvt.data.s3_failures import STORAGE_FAILURES, why_failed
from dvt.exits import Confidence, Thresholds
from dvt.exits.thresholds import thresholds_as_json
from dvt.serving.batch_work import Format, Piece, Work
from dvt.train.storage import RunFolder

JOB, LISTING, MANIFEST = "_job.json", "_listing.parquet", "_manifest.json"
_PART = re.compile(r"part-(\d{5,})\.parquet")
_COUNTS = b"dvt_counts"  # in a part's metadata, so that what was done before is counted without reading it
_FREE = ("model", "model_version")  # `model_digest` tells whether it is the same; these tell a person


@dataclass(frozen=True, kw_only=True)
class BatchJob:
    """What decides the content of parts; a folder holds parts of one job alone."""

    input: str
    format: Format | None  # None is told by what is there
    image_column: str
    keep_columns: tuple[str, ...]
    part_size: int
    model: str  # as it was typed
    model_version: str | None  # of a registered one
    model_digest: str  # of its weights, names and preprocessing
    thresholds: Thresholds
    confidence: Confidence

    def to_dict(self) -> dict[str, Any]:
        """The job in JSON's own types."""
        return vars(self) | {
            "keep_columns": list(self.keep_columns),
            "thresholds": thresholds_as_json(self.thresholds),
            "confidence": self.confidence.to_dict(),
        }


@dataclass(frozen=True)
class Counts:
    """How many images left at each exit, and how many could not be read."""

    left: tuple[int, ...]  # (E,)
    num_failed: int

    @property
    def num_images(self) -> int:
        """Rows, whatever became of them."""
        return sum(self.left) + self.num_failed

    @classmethod
    def of_exits(cls, exit_indices: Iterable[int | None], num_exits: int) -> Self:
        """Count the column `exit_index`, from 1, None where an image could not be read."""
        left, num_failed = [0] * num_exits, 0
        for index in exit_indices:
            if index is None:
                num_failed += 1
            else:
                left[index - 1] += 1
        return cls(tuple(left), num_failed)

    @classmethod
    def total(cls, counts: Iterable["Counts"], num_exits: int) -> Self:
        """All together."""
        listed = list(counts)
        left = tuple(sum(each.left[index] for each in listed) for index in range(num_exits))
        return cls(left, sum(each.num_failed for each in listed))


def open_output(address: str) -> RunFolder:
    """The folder that a job writes to, made if it is not there.

    Args:
        address: A path or an `s3://` address.

    Raises:
        ConfigError: If it cannot be used.
    """
    try:
        filesystem, path = open_filesystem(address.rstrip("/") or address)
        filesystem.makedirs(path, exist_ok=True)
    except STORAGE_FAILURES as error:
        rule = f"must be a folder or s3:// address that can be written, got {address} ({why_failed(error)})"
        raise ConfigError([Problem("--output", rule)]) from error
    return RunFolder(filesystem, path, Path(path).name)


def kept_work(folder: RunFolder, job: BatchJob) -> Work | None:
    """The work that a folder was begun with, if it is of this job; None of an empty one.

    Raises:
        ConfigError: If the folder is of another job, or holds other things.
    """
    names = _names(folder)
    if JOB not in names:
        others = sorted(name for name in names if name != LISTING and not name.startswith("."))
        if others:
            rule = f"must be an empty folder or one of the same job, got {folder.address}, which holds {others[0]}"
            raise ConfigError([Problem("--output", f"{rule}; choose another folder")])
        return None
    _check_same(folder, json.loads(folder.read(JOB)), job.to_dict())
    with folder.filesystem.open(f"{folder.path}/{LISTING}", "rb") as file:
        return Work.from_table(pa.parquet.read_table(file))


def begin(folder: RunFolder, job: BatchJob, work: Work) -> None:
    """Note what the folder is for, before any part is written."""
    _write(folder, LISTING, work.to_table())
    folder.write(JOB, json.dumps(job.to_dict(), indent=2) + "\n")


def _check_same(folder: RunFolder, kept: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    differing = [name for name in asked if name not in _FREE and kept.get(name) != asked[name]]
    if not differing:
        return
    name = differing[0]
    there, here = kept.get(name), asked[name]
    if name == "model_digest":
        there, here = _told_model(kept), _told_model(asked)
    told = f"of a job with {name.removesuffix('_digest').replace('_', ' ')} {there}, not {here}"
    rule = f"must be an empty folder or one of the same job, got {folder.address}, {told}; choose another folder"
    raise ConfigError([Problem("--output", rule)])


def _told_model(job: Mapping[str, Any]) -> str:
    version = job.get("model_version")
    name = str(job.get("model")) + (f" (version {version})" if version is not None else "")
    return f"{name}, {str(job.get('model_digest'))[:8]}"


def missing_pieces(folder: RunFolder, work: Work) -> list[Piece]:
    """The pieces whose parts are not there, in order."""
    done = {int(match[1]) for name in _names(folder) if (match := _PART.fullmatch(name))}
    return [piece for piece in work.pieces if piece.number not in done]


def write_part(folder: RunFolder, number: int, table: pa.Table, counts: Counts) -> None:
    """Write the part of a piece; it is there when it is whole, in place of an earlier one.

    Raises:
        OSError: If it cannot be written; of a bucket also what botocore raises.
    """
    metadata = {_COUNTS: json.dumps({"left": counts.left, "num_failed": counts.num_failed})}
    _write(folder, _part_name(number), table.replace_schema_metadata(metadata))


def read_counts(folder: RunFolder, pieces: Iterable[Piece]) -> list[Counts]:
    """What became of the images of parts that are there."""

    def counts(piece: Piece) -> Counts:
        with folder.filesystem.open(f"{folder.path}/{_part_name(piece.number)}", "rb") as file:
            kept = json.loads(pa.parquet.read_schema(file).metadata[_COUNTS])
        return Counts(tuple(kept["left"]), kept["num_failed"])

    with ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="dvt-footer") as pool:
        return list(pool.map(counts, pieces))


def finish(folder: RunFolder, job: BatchJob, work: Work, counts: Counts, macs: Iterable[float]) -> None:
    """Note that all parts are there, and what they came to.

    Args:
        folder: The job's.
        job: The job.
        work: Its work.
        counts: Of all parts.
        macs: (E,), what an image costs that leaves at each exit.
    """
    costs, num_classified = list(macs), sum(counts.left)
    spent = sum(cost * number for cost, number in zip(costs, counts.left, strict=True))
    exits = [
        {"exit_index": index, "macs": cost, "num_images": number, "share": number / max(num_classified, 1)}
        for index, (cost, number) in enumerate(zip(costs, counts.left, strict=True), start=1)
    ]
    manifest = {
        "num_parts": len(work.pieces),
        "num_images": counts.num_images,
        "num_failed": counts.num_failed,
        "mean_macs": spent / num_classified if num_classified else None,
        "exits": exits,
        "job": job.to_dict() | {"format": work.format},
    }
    folder.write(MANIFEST, json.dumps(manifest, indent=2) + "\n")
    if folder.is_local:  # what a process left that was killed
        for partial in Path(folder.path).glob(".*.partial"):
            partial.unlink(missing_ok=True)


def _part_name(number: int) -> str:
    return f"part-{number:05d}.parquet"


def _names(folder: RunFolder) -> set[str]:
    return set(_listed_names(folder))


def _listed_names(folder: RunFolder) -> Iterator[str]:
    try:
        for path in folder.filesystem.ls(folder.path, detail=False):
            yield str(path).rstrip("/").rpartition("/")[2]
    except FileNotFoundError:  # a prefix of a bucket without objects
        return


def _write(folder: RunFolder, name: str, table: pa.Table) -> None:
    """Write a Parquet file; a reader finds it whole or not at all."""
    sink = pa.BufferOutputStream()
    pa.parquet.write_table(table, sink)
    content = sink.getvalue().to_pybytes()
    if not folder.is_local:  # an object appears in a bucket when it is complete
        folder.filesystem.pipe_file(f"{folder.path}/{name}", content)
        return
    # Named anew each time: a worker that was given up may still be writing the same part.
    partial = Path(folder.path, f".{name}.{secrets.token_hex(4)}.partial")
    partial.write_bytes(content)
    partial.replace(Path(folder.path, name))
