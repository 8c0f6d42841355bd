"""`dvt search report FOLDER`: a search's front, its pictures, and a recipe for each cascade on the front."""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from dvt.cli.search_progress import print_search
from dvt.cli.summary import print_places
from dvt.search.record import read_result, read_search
from dvt.search.results import SearchResult
from dvt.tracking import RunRecord, log_artifacts
from dvt.tracking.search_files import write_search_files
from dvt.train.storage import RunFolder

REPORT = "report"


def report(words: Sequence[str]) -> int:
    """Run the command; returns its exit code.

    Args:
        words: The command line behind `dvt search report`.
    """
    parser = argparse.ArgumentParser(
        prog="dvt search report",
        description=(
            "Tell what a search found so far, also while it runs, and write its front, its pictures and a recipe for "
            "each cascade on the front, to be trained by `dvt train --recipe FILE`."
        ),
        allow_abbrev=False,
    )
    parser.add_argument("folder", metavar="FOLDER", help="the search's folder, a path or an s3:// address")
    asked = parser.parse_args(words)
    space, folder = read_search(asked.folder)
    result = read_result(space, folder)
    console = Console()
    print_search(console, result)
    print_places(console, keep_report(folder, result, None))
    return 0


def keep_report(folder: RunFolder, result: SearchResult, parent: RunRecord | None) -> dict[str, str]:
    """Write the report into the search's folder, and with its MLflow run if one is given.

    Returns:
        Where things are, by what they are called.
    """
    with tempfile.TemporaryDirectory(prefix="dvt-") as scratch:
        local = Path(scratch) / REPORT
        write_search_files(local, result)
        if folder.has(REPORT):  # recipes of cascades that are not on the front any more must not stay
            folder.filesystem.rm(f"{folder.path}/{REPORT}", recursive=True)
        folder.put(local)
        if parent is not None:
            log_artifacts(parent, local, REPORT)
    place = f"{folder.address}/{REPORT}"
    return {"search": folder.address, "front": f"{place}/front.png", "recipes": f"{place}/recipes"}
