"""`dvt runs best --budget-macs 1.2G`: which runs reach most within a budget, over all experiments."""

import argparse
import csv
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from rich.console import Console
from rich.table import Table

from dvt.cli.amounts import read_macs
from dvt.cli.summary import print_places
from dvt.config import ConfigError, Problem
from dvt.models.told_amounts import told_macs
from dvt.tracking import RunRecord, page_command, tracking_address
from dvt.tracking.run_fronts import RunAtBudget, best_runs

_FLAGS = {"budget_macs": "--budget-macs", "experiment": "--experiment"}


def main(words: Sequence[str]) -> int:
    """Run the command; returns its exit code.

    Args:
        words: The command line behind `dvt runs`.
    """
    parser = argparse.ArgumentParser(
        prog="dvt runs best",
        description="List runs by their accuracy on test images within a budget.",
        usage="dvt runs best --budget-macs MACS [--experiment NAME ...] [--top N] [--format table|csv|json]",
        allow_abbrev=False,
    )
    parser.add_argument("command", choices=["best"], help=argparse.SUPPRESS)
    parser.add_argument("--budget-macs", required=True, metavar="MACS", help="mean multiply-adds an image, as 1.2G")
    parser.add_argument(
        "--experiment", action="append", default=[], metavar="NAME", help="look in this one alone; may be repeated"
    )
    parser.add_argument("--top", type=int, default=10, metavar="N", help="how many to tell of (%(default)s)")
    parser.add_argument(
        "--format", choices=["table", "csv", "json"], default="table", help="table (default), csv, json"
    )
    parser.add_argument(
        "--tracking-uri", help="MLflow server or SQLite file; without it MLFLOW_TRACKING_URI, else runs/mlflow.db"
    )
    asked = parser.parse_args(words)
    budget = read_macs("--budget-macs", asked.budget_macs)
    problems = [budget] if isinstance(budget, Problem) else []
    if asked.top < 1:
        problems.append(Problem("--top", f"must be at least 1, got {asked.top}"))
    if problems or isinstance(budget, Problem):
        raise ConfigError(problems)
    try:
        uri = tracking_address(asked.tracking_uri)
        runs = best_runs(uri, budget, asked.experiment)[: asked.top]
    except ConfigError as error:  # speaks of fields; here they are flags
        raise ConfigError(
            replace(problem, path=_FLAGS.get(problem.path, problem.path)) for problem in error.problems
        ) from error
    if asked.format == "table":
        _print_table(runs, budget, uri)
    else:
        _print_rows([_row(run) for run in runs], asked.format)
    return 0


def _print_table(runs: Sequence[RunAtBudget], budget: float, uri: str) -> None:
    console = Console()
    table = Table(title=f"within {told_macs(budget)} mean multiply-adds an image, on test images", title_justify="left")
    columns = {"run": "left", "experiment": "left", "begun": "left", "top-1": "right", "mean MACs": "right"}
    columns |= {"token grids": "left", "leave at the exits": "right", "thresholds": "right"}
    for name, side in columns.items():
        table.add_column(name, justify="right" if side == "right" else "left")
    for run in runs:
        table.add_row(
            run.name,
            run.experiment,
            f"{run.started.astimezone():%Y-%m-%d %H:%M}",
            f"{100 * run.top1:.2f} %",
            told_macs(run.macs),
            " ".join(map(str, run.token_grids)),
            " / ".join(f"{100 * share:.1f}" for share in run.exit_shares) + " %",
            " ".join(f"{threshold:.3g}" for threshold in run.thresholds[:-1]),
        )
    console.print(table)
    print_places(console, {"see the first": page_command(RunRecord(uri, "", runs[0].run_id))})


def _row(run: RunAtBudget) -> dict[str, Any]:
    thresholds = [threshold if math.isfinite(threshold) else str(threshold) for threshold in run.thresholds]
    return asdict(run) | {"started": run.started.isoformat(timespec="seconds"), "thresholds": thresholds}


def _print_rows(rows: Sequence[dict[str, Any]], form: str) -> None:
    if form == "json":
        print(json.dumps(rows, indent=1))
        return
    writer = csv.DictWriter(sys.stdout, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {
                name: " ".join(map(str, value)) if isinstance(value, list | tuple) else value
                for name, value in row.items()
            }
        )
