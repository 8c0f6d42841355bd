"""`dvt profile CHECKPOINT`: measures what each stage takes on this device, and keeps it with the checkpoint."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from dvt.cli.summary import print_places
from dvt.config import ConfigError, Problem
from dvt.inference.latency import DEFAULT_BATCH_SIZES, LATENCY, LatencyProfile, keep_profile, measure_latency
from dvt.train.checkpoint import load_model


def main(words: Sequence[str]) -> int:
    """Run the command; returns its exit code.

    Args:
        words: The command line behind `dvt profile`.
    """
    asked = _parse(words)
    _check(asked)
    cascade = load_model(asked.checkpoint).to(asked.device)
    profile = measure_latency(cascade, asked.batch_sizes, asked.repeats)
    keep_profile(asked.checkpoint, profile)
    console = Console()
    console.print(_table(profile, cascade.config.token_grids))
    print_places(console, {"profile": str(asked.checkpoint / LATENCY)})
    return 0


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="dvt profile",
        description="Measure each stage's seconds an image on this device, and keep them with the checkpoint.",
        allow_abbrev=False,
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="a checkpoint folder")
    parser.add_argument(
        "--batch-sizes",
        type=int,
        nargs="+",
        default=list(DEFAULT_BATCH_SIZES),
        metavar="N",
        help=f"images that a stage runs on at once; without it {' '.join(map(str, DEFAULT_BATCH_SIZES))}",
    )
    parser.add_argument("--repeats", type=int, default=5, help="timed runs, of which the median counts; without it 5")
    has_gpu = torch.cuda.is_available()
    parser.add_argument(
        "--device", default="cuda" if has_gpu else "cpu", help="cpu or cuda; without it cuda where there is one"
    )
    return parser.parse_args(words)


def _check(asked: argparse.Namespace) -> None:
    problems = []
    if not asked.checkpoint.is_dir():
        rule = f"must be a checkpoint folder, got {asked.checkpoint}, which is none; check the path"
        problems.append(Problem("CHECKPOINT", rule))
    for name, least in (("--batch-sizes", min(asked.batch_sizes)), ("--repeats", asked.repeats)):
        if least < 1:
            problems.append(Problem(name, f"must be at least 1, got {least}"))
    usable = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    if asked.device not in usable:
        rule = f"must be a device of this machine, {' or '.join(usable)}, got {asked.device}"
        problems.append(Problem("--device", rule))
    if problems:
        raise ConfigError(problems)


def _table(profile: LatencyProfile, token_grids: Sequence[int]) -> Table:
    """One row a batch size: milliseconds of leaving at each exit, and images a second through all stages."""
    title = f"Milliseconds an image to leave at each exit, on {profile.device}"
    table = Table(title=title, title_justify="left")
    table.add_column("batch size", justify="right")
    for number, grid in enumerate(token_grids, start=1):
        table.add_column(f"exit {number}\n{grid}x{grid}", justify="right")
    table.add_column("images/s\nto the last", justify="right")
    for size in profile.batch_sizes:
        seconds = profile.seconds_per_exit(size)
        table.add_row(str(size), *(f"{1000 * each:.3g}" for each in seconds), f"{1 / seconds[-1]:.4g}")
    return table
