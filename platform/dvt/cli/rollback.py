"""`dvt rollback NAME`: moves an alias back to the version that it stood on before the last promotion."""

import argparse
from collections.abc import Sequence

from rich.console import Console

from dvt.cli.promote import CHAMPION, check_alias
from dvt.cli.summary import print_places
from dvt.config import ConfigError
from dvt.tracking import tracking_address
from dvt.tracking.moves import roll_back


def main(words: Sequence[str]) -> int:
    """Run the command; returns its exit code.

    Args:
        words: The command line behind `dvt rollback`.
    """
    asked = _parse(words)
    problems = check_alias("--alias", asked.alias)
    if problems:
        raise ConfigError(problems)
    move = roll_back(tracking_address(asked.tracking_uri), asked.name, asked.alias)
    told = {f"alias {asked.alias}": f"from version {move.source} back to version {move.target} of {move.name}"}
    if move.passed_over:
        told["passed over"] = f"version {', '.join(move.passed_over)}, which is gone"
    print_places(Console(), told)
    return 0


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="dvt rollback",
        description="Move an alias of a registered model back to the version that it stood on before dvt promote moved "
        "it; again, and it goes back one further.",
        allow_abbrev=False,
    )
    parser.add_argument("name", metavar="NAME", help="the registered model, as dvt-embedded")
    parser.add_argument("--alias", default=CHAMPION, help=f"the alias to move; without it {CHAMPION}")
    parser.add_argument(
        "--tracking-uri", help="MLflow server or SQLite file; without it MLFLOW_TRACKING_URI, else runs/mlflow.db"
    )
    return parser.parse_args(words)
