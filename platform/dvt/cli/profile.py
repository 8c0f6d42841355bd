"""`dvt profile MODEL`: measures what each stage takes on this device, and keeps it with the checkpoint or the model."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from dvt.cli.summary import print_places
from dvt.config import ConfigError, Problem
from dvt.inference.latency import DEFAULT_BATCH_SIZES, LATENCY, LatencyProfile, keep_profile, measure_latency
from dvt.serving.model import open_model
from dvt.tracking import tracking_address
from dvt.tracking.lookup import ModelAddress
from dvt.tracking.version_latency import LATENCY_TAG, keep_version_profile


def main(words: Sequence[str]) -> int:
    """Run the command; returns its exit code.

    Args:
        words: The command line behind `dvt profile`.
    """
    asked = _parse(words)
    _check(asked)
    model = open_model(asked.model, asked.tracking_uri, flag="MODEL")
    cascade = model.cascade.to(asked.device)
    profile = measure_latency(cascade, asked.batch_sizes, asked.repeats)
    place = _keep(asked, profile)
    console = Console()
    console.print(_table(profile, cascade.config.token_grids))
    print_places(console, {"profile": place})
    return 0


def _keep(asked: argparse.Namespace, profile: LatencyProfile) -> str:
    """Keep a profile with what it is of; where it is."""
    folder = Path(asked.model)
    if folder.is_dir():
        keep_profile(folder, profile)
        return str(folder / LATENCY)
    address = ModelAddress.parse(asked.model)
    version = keep_version_profile(tracking_address(asked.tracking_uri), address, profile)
    return f"tag {LATENCY_TAG} of {address.name} version {version}"


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="dvt profile",
        description="Measure each stage's seconds an image on this device, and keep them with the model, for budgets "
        "in milliseconds.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "model", metavar="MODEL", help="a checkpoint folder, models:/NAME@ALIAS or models:/NAME/VERSION"
    )
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
    parser.add_argument(
        "--tracking-uri", help="MLflow server or SQLite file; without it MLFLOW_TRACKING_URI, else runs/mlflow.db"
    )
    return parser.parse_args(words)


def _check(asked: argparse.Namespace) -> None:
    problems = []
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
