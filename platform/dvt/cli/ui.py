"""`dvt ui [RUN ...]`: opens a page with the fronts of runs over each other and a slider for the budget."""

import argparse
import re
import shlex
import webbrowser
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from dvt.config import ConfigError, Problem
from dvt.tracking import TrackingError, tracking_address, without_credentials
from dvt.tracking.page import has_desktop, interrupted_by_sigterm
from dvt.tracking.ui_runs import FolderFront, UiRuns
from dvt.tracking.ui_server import UiServer
from dvt.train.past_run import find_past_run

_RUN_ID = re.compile(r"[0-9a-f]{32}")
_FLAGS = {"experiment": "--experiment"}


def main(words: Sequence[str]) -> int:
    """Run the command until Ctrl-C; returns its exit code.

    Args:
        words: The command line behind `dvt ui`.
    """
    asked = _parse(words)
    run_ids, folders = _sorted_out(asked.runs)
    uri = tracking_address(asked.tracking_uri) if run_ids or not folders else None
    runs = UiRuns(uri, run_ids, folders, asked.experiment)
    try:
        found = runs.rows()  # what is wrong is told here, before there is a page
        for row in found if asked.runs else ():
            runs.content(row["key"])
    except ConfigError as error:  # speaks of fields; here they are flags
        raise ConfigError(replace(each, path=_FLAGS.get(each.path, each.path)) for each in error.problems) from error
    if not found:
        raise TrackingError("MLflow must hold a run with a front, got none; dvt train and dvt front RUN keep one")
    setting = {"options": _options(uri), "uri": None if uri is None else without_credentials(uri)}
    with interrupted_by_sigterm(), suppress(KeyboardInterrupt), UiServer(runs, asked.port, setting) as server:
        print(f"{server.url}\nCtrl-C ends it.", flush=True)
        if asked.has_browser and has_desktop():
            webbrowser.open(server.url)
        server.serve_forever()
    return 0


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="dvt ui",
        description="Open a page on this machine with the fronts of runs over each other and a slider for the budget.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "runs", nargs="*", metavar="RUN", help="an MLflow run's id, or a run's folder; without any, all with a front"
    )
    parser.add_argument(
        "--experiment", action="append", default=[], metavar="NAME", help="list runs of this one alone; may be repeated"
    )
    parser.add_argument(
        "--tracking-uri", help="MLflow server or SQLite file; without it MLFLOW_TRACKING_URI, else runs/mlflow.db"
    )
    parser.add_argument("--port", type=int, default=0, metavar="P", help="where to listen; without it a free port")
    parser.add_argument("--no-browser", dest="has_browser", action="store_false", help="only print the address")
    asked = parser.parse_args(words)
    if asked.runs and asked.experiment:
        raise ConfigError([Problem("--experiment", "must not stand beside RUN; give one of them")])
    return asked


def _sorted_out(runs: Sequence[str]) -> tuple[list[str], list[FolderFront]]:
    """The runs' ids, and their folders."""
    run_ids, folders, problems = [], [], []
    for what in dict.fromkeys(runs):
        if _RUN_ID.fullmatch(what) and not Path(what).exists():
            run_ids.append(what)
            continue
        folder = find_past_run(what)
        if folder is None:
            problems.append(Problem("RUN", f"must be a run's id or folder, got {what!r}, which is neither"))
        else:
            folders.append(FolderFront(folder))
    if problems:
        raise ConfigError(problems)
    return run_ids, folders


def _options(uri: str | None) -> str:
    """What a command needs behind it to speak to the same MLflow from this terminal."""
    if uri is None:
        return ""
    with suppress(ConfigError):
        if tracking_address(None) == uri:
            return ""
    return f"--tracking-uri {shlex.quote(without_credentials(uri))}"
