"""`dvt search COMMAND`: search architectures, tell what a space holds, and report on a search."""

import argparse
import difflib
from collections.abc import Sequence
from pathlib import Path

from dvt.config import ConfigError, Problem

COMMANDS = {
    "run": "train candidates over the cluster, and register the best",
    "describe": "tell a space's choices, its size, its cheapest and dearest cascade, and samples",
    "report": "write a search's front, its pictures and the recipes of its best cascades",
}


def main(words: Sequence[str]) -> int:
    """Run the command; returns its exit code.

    Args:
        words: The command line behind `dvt search`.
    """
    width = max(map(len, COMMANDS))
    listed = "\n".join(f"  {name:{width}}  {meaning}" for name, meaning in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="dvt search",
        description="Search architectures.",
        epilog=f"commands:\n{listed}\n\n`dvt search COMMAND --help` tells more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="dvt search [-h] COMMAND ...",
        allow_abbrev=False,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of the commands below")
    parser.add_argument("words", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    asked = parser.parse_args(words)
    if asked.command == "run":  # Ray, Optuna and MLflow take seconds to import; telling a space must not
        from dvt.cli.search_run import run

        return run(asked.words)
    if asked.command == "report":
        from dvt.cli.search_report import report

        return report(asked.words)
    from dvt.cli.search_describe import describe

    return describe(asked.words)


def space_file(given: str) -> Path:
    """The file of a space, given by path or by its name in `search_spaces/`.

    Raises:
        ConfigError: If there is none.
    """
    path = Path(given)
    if path.is_file():
        return path
    folder = Path("search_spaces")
    known = sorted(file.stem for file in folder.glob("*.yaml"))
    if given in known:
        return folder / f"{given}.yaml"
    near = difflib.get_close_matches(path.stem, known, n=1)
    advice = f"did you mean {near[0]}?" if near else f"choose from {', '.join(known) or 'none here'}"
    raise ConfigError([Problem("SPACE", f"must be a search space, got {given!r}; {advice}")])
