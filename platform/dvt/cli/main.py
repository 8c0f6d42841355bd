"""The `dvt` command: names what it can do and hands the rest of the line on."""

import argparse
import importlib
import sys
from collections.abc import Sequence

from dvt import __version__
from dvt.cli.failure import exit_code_of

COMMANDS = {  # each is a module of `dvt.cli`
    "train": "train a cascade, choose its thresholds, record and register it",
    "search": "search architectures over a cluster; tell what a space holds and what was found",
    "doctor": "look at a cluster before a long job",
    "data": "pack images into shards, and check a data set",
    "plan": "predict what training takes on a cluster: images/s, hours, cost, what limits it",
    "describe": "tell a cascade's parts, parameters, cost and memory",
    "profile": "measure what each stage takes on this device, for budgets in milliseconds",
    "front": "draw what a trained cascade reaches at every budget, and which images leave where",
    "runs": "list runs by what they reach within a budget",
    "register": "make a registered model of a run or a checkpoint",
    "promote": "let a candidate take the champion's place, if it is better or not worse and cheaper",
    "rollback": "move an alias back to where it stood before a promotion",
    "predict": "classify images within a budget, leaving early",
    "export": "write a model as torch.export programs and ONNX, with a reader that leaves early",
    "import-checkpoint": "make a checkpoint and a registered model of the paper's published weights",
    "page": "open MLflow's page on a run",
    "ui": "open a page with runs' fronts over each other and a slider for the budget",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    width = max(map(len, COMMANDS))
    listed = "\n".join(f"  {name:{width}}  {meaning}" for name, meaning in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="dvt",
        description="Dynamic Vision Transformers: classifiers that spend only the compute an image needs.",
        epilog=f"commands:\n{listed}\n\n`dvt COMMAND --help` tells more. "
        "With --log-format json each of them logs a JSON object a line to the error stream.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="dvt [-h] [--version] COMMAND ...",
    )
    parser.add_argument("--version", action="version", version=f"dvt {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of the commands below")
    parser.add_argument("words", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    asked = parser.parse_args(argv)
    return exit_code_of(lambda words: _run(asked.command, words), asked.words)


def _run(command: str, words: list[str]) -> int:
    """Run one command; its module is imported now, as Ray, torch and MLflow take seconds that help must not."""
    module = importlib.import_module(f"dvt.cli.{command.replace('-', '_')}")
    code: int = module.main(words)
    return code


if __name__ == "__main__":
    sys.exit(main())
