"""`dvt data COMMAND`: pack images into shards, and check a data set."""

import argparse
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from dvt.cli.summary import print_places
from dvt.config import ConfigError, DataConfig, Problem
from dvt.data.bucket import typed_address
from dvt.data.checking import Findings, check_part
from dvt.data.encoded import EncodedImages
from dvt.data.folder import open_class_folders
from dvt.data.objects import Objects
from dvt.data.packing import Packing, pack_part
from dvt.data.shard_source import open_parts
from dvt.models.told_amounts import told_bytes

Source = Literal["folder", "tar", "parquet"]
MAX_TOLD = 20  # bad files that are named


def main(words: Sequence[str]) -> int:
    """Run the command; returns its exit code: 1 where a check found something bad.

    Args:
        words: The command line behind `dvt data`.
    """
    parser = argparse.ArgumentParser(prog="dvt data", description="Pack and check data sets.", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    pack = commands.add_parser("pack", help="pack an image folder into shards with an index", allow_abbrev=False)
    pack.add_argument("source", metavar="SRC", help="image folder with train/CLASS/* and val/CLASS/*, or s3://")
    pack.add_argument("target", metavar="DST", help="folder for train/ and val/ of shards, local or s3://")
    pack.add_argument("--format", choices=("tar", "parquet"), default="tar", help="of the shards; tar")
    pack.add_argument("--shard-mib", type=int, default=256, metavar="N", help="MiB of images in a shard; 256")
    pack.add_argument("--seed", type=int, default=0, metavar="N", help="of the order of images, which mixes classes; 0")
    check = commands.add_parser("check", help="read every image of a data set", allow_abbrev=False)
    check.add_argument("source", metavar="ROOT", help="image folder or shards, local or s3://")
    check.add_argument("--source", choices=("folder", "tar", "parquet"), dest="kind", help="what it is; else seen")
    check.add_argument("--num-workers", type=int, metavar="N", help="processes that decode; without it one a core")
    asked = parser.parse_args(words)
    console = Console(highlight=False)
    return _pack(asked, console) if asked.command == "pack" else _check(asked, console)


def _pack(asked: argparse.Namespace, console: Console) -> int:
    if asked.shard_mib < 1:
        raise ConfigError([Problem("--shard-mib", f"must be at least 1, got {asked.shard_mib}")])
    if asked.seed < 0:
        raise ConfigError([Problem("--seed", f"must be at least 0, got {asked.seed}")])
    source, target = typed_address(asked.source), typed_address(asked.target)
    parts = open_class_folders(source, DataConfig(root=source))
    packing = Packing(
        format=asked.format, class_names=parts[0].class_names, shard_bytes=asked.shard_mib * 2**20, seed=asked.seed
    )
    for part, images in zip(("train", "val"), parts, strict=True):
        with _shown(console, f"packing {part}", len(images)) as advance:
            index = pack_part(images, f"{target}/{part}", packing, Objects(), advance)
        size = told_bytes(sum(shard.num_bytes for shard in index.shards))
        noun = "shard" if len(index.shards) == 1 else "shards"
        console.print(f"{part}: {len(index):,} images, {len(index.shards)} {noun}, {size}")
    flags = f"--data.source {asked.format} --data.root {target}"
    print_places(console, {"shards": target, "train on them": f"dvt train ... {flags}"})
    return 0


def _check(asked: argparse.Namespace, console: Console) -> int:
    root = typed_address(asked.source)
    kind: Source = asked.kind or _kind(root)
    config = DataConfig(source=kind, root=root)
    unread: dict[str, str] = {}
    parts = open_class_folders(root, config) if kind == "folder" else open_parts(root, config, unread)
    workers = asked.num_workers if asked.num_workers is not None else os.cpu_count() or 1
    is_good = not unread
    for part, images in zip(("train", "val"), parts, strict=True):
        with _shown(console, f"checking {part}", len(images)) as advance:
            found = check_part(images, config, workers, advance, unread)
        _tell(console, part, images, found)
        is_good = is_good and found.is_good
    if unread:
        console.print(f"{len(unread):,} {'shard' if len(unread) == 1 else 'shards'} cannot be read, nor their images")
    for address, reason in unread.items():
        console.print(f"  {address}: {reason}", soft_wrap=True)
    return 0 if is_good else 1


def _kind(root: str) -> Source:
    """What a source is, by the names of its files."""
    names = [stored.address for stored in Objects().list(root)]
    kinds: tuple[Source, ...] = ("tar", "parquet")
    for kind in kinds:
        if any(name.endswith(f".{kind}") and not name.endswith("/index.parquet") for name in names):
            return kind
    return "folder"


def _tell(console: Console, part: str, images: EncodedImages, found: Findings) -> None:
    """Print what was found."""
    least, most = min(found.per_class, default=0), max(found.per_class, default=0)
    console.print(
        f"{part}: {found.num_images:,} images of {len(images.class_names)} classes, {least} to {most} a class"
    )
    if found.num_bytes:
        console.print(f"  bytes   {_spread(found.num_bytes)}")
    if found.widths:
        console.print(f"  width   {_spread(found.widths)}")
        console.print(f"  height  {_spread(found.heights)}")
    for kind, count in sorted(found.kinds.items()):
        console.print(f"  {kind}: {count:,}")
    bad = found.bad_shards + found.bad
    for reason, count in Counter(reason for _, reason in bad).most_common():
        console.print(f"  {count:,} bad: {reason}")
    for name, reason in bad[:MAX_TOLD]:
        console.print(f"    {name}: {reason}", soft_wrap=True)
    if len(bad) > MAX_TOLD:
        console.print(f"    and {len(bad) - MAX_TOLD:,} more")
    if not bad:
        console.print("  all can be read" if len(found.num_bytes) == found.num_images else "  the others can be read")


def _spread(values: Sequence[int]) -> str:
    least, low, middle, high, most = np.quantile(values, (0, 0.05, 0.5, 0.95, 1)).astype(int).tolist()
    return f"{middle:,} in the median, 90 % from {low:,} to {high:,}, all from {least:,} to {most:,}"


@contextmanager
def _shown(console: Console, title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, a plain line a tenth in a log."""
    if not console.is_terminal:
        yield _Tenths(console, title, total)
        return
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(title, total=total)
        yield lambda count: progress.advance(task, count)


class _Tenths:
    """Prints how much is done, each tenth of it once."""

    def __init__(self, console: Console, title: str, total: int) -> None:
        self._console, self._title, self._total = console, title, total
        self._done = 0

    def __call__(self, count: int) -> None:
        tenths = 10 * self._done // max(self._total, 1)
        self._done += count
        if 10 * self._done // max(self._total, 1) > tenths:
            self._console.print(f"{self._title}: {self._done:,} of {self._total:,}")
