"""The `dvt` command: names what it can do and hands the rest of the line on."""

import argparse
import sys
from collections.abc import Callable, Sequence

from dvt import __version__
from dvt.cli.failure import exit_code_of


def _train(words: list[str]) -> int:
    from dvt.cli.train import main as train  # Ray, torch and MLflow take seconds to import; help must not

    return train(words)


def _page(words: list[str]) -> int:
    from dvt.cli.page import main as page

    return page(words)


def _import_checkpoint(words: list[str]) -> int:
    from dvt.cli.import_checkpoint import main as import_checkpoint

    return import_checkpoint(words)


def _describe(words: list[str]) -> int:
    from dvt.cli.describe import main as describe

    return describe(words)


def _profile(words: list[str]) -> int:
    from dvt.cli.profile import main as profile

    return profile(words)


def _search(words: list[str]) -> int:
    from dvt.cli.search import main as search

    return search(words)


def _front(words: list[str]) -> int:
    from dvt.cli.front import main as front

    return front(words)


def _predict(words: list[str]) -> int:
    from dvt.cli.predict import main as predict

    return predict(words)


def _runs(words: list[str]) -> int:
    from dvt.cli.runs import main as runs

    return runs(words)


def _register(words: list[str]) -> int:
    from dvt.cli.register import main as register

    return register(words)


def _promote(words: list[str]) -> int:
    from dvt.cli.promote import main as promote

    return promote(words)


def _rollback(words: list[str]) -> int:
    from dvt.cli.rollback import main as rollback

    return rollback(words)


COMMANDS: dict[str, tuple[str, Callable[[list[str]], int]]] = {
    "train": ("train a cascade, choose its thresholds, record and register it", _train),
    "describe": ("tell a cascade's parts, parameters, cost and memory", _describe),
    "profile": ("measure what each stage takes on this device, for budgets in milliseconds", _profile),
    "search": ("search architectures over a cluster; tell what a space holds and what was found", _search),
    "import-checkpoint": (
        "make a checkpoint and a registered model of the paper's published weights",
        _import_checkpoint,
    ),
    "front": ("draw what a trained cascade reaches at every budget, and which images leave where", _front),
    "register": ("make a registered model of a run or a checkpoint", _register),
    "promote": ("let a candidate take the champion's place, if it is better or not worse and cheaper", _promote),
    "rollback": ("move an alias back to where it stood before a promotion", _rollback),
    "predict": ("classify images within a budget, leaving early", _predict),
    "runs": ("list runs by what they reach within a budget", _runs),
    "page": ("open MLflow's page on a run", _page),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    width = max(map(len, COMMANDS))
    listed = "\n".join(f"  {name:{width}}  {meaning}" for name, (meaning, _) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="dvt",
        description="Dynamic Vision Transformers: classifiers that spend only the compute an image needs.",
        epilog=f"commands:\n{listed}\n\n`dvt COMMAND --help` tells more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="dvt [-h] [--version] COMMAND ...",
    )
    parser.add_argument("--version", action="version", version=f"dvt {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of the commands below")
    parser.add_argument("words", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    asked = parser.parse_args(argv)
    return exit_code_of(lambda: COMMANDS[asked.command][1](asked.words))


if __name__ == "__main__":
    sys.exit(main())
