"""`dvt promote NAME --budget-macs 1.2G --to champion`: lets a candidate take the champion's place if it earns it."""

import argparse
import re
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from dvt.cli.amounts import read_macs
from dvt.cli.failure import FAILED
from dvt.cli.gate_scores import measured_verdict
from dvt.cli.summary import print_places
from dvt.config import ConfigError, Problem
from dvt.exits.gate import LEAST_SAVING, OVER_BUDGET
from dvt.exits.paired import LEVEL
from dvt.models.told_amounts import told_macs
from dvt.tracking import tracking_address
from dvt.tracking.moves import Move
from dvt.tracking.promotion import Grounds, read_grounds, settle
from dvt.tracking.verdict import Verdict, told_outcome, told_points

CANDIDATE, CHAMPION = "candidate", "champion"
DEFAULT_MARGIN = 0.5  # points of accuracy
_RULE = f"""\
The rule. Both are measured on the same test images within the same budgets, each by its own thresholds. At each budget
the difference of accuracy gets a {100 * LEVEL:g} % interval by a paired bootstrap over the images; with several budgets
the intervals are wider, so that all of them hold together. The candidate is promoted if
  1. at every budget it keeps to it: its mean cost on the test images is at most {100 * OVER_BUDGET:g} % over the
     budget, or at most the champion's;
  2. at every budget it is not worse: the interval's lower end is at most --margin points below 0;
  3. at one budget at least it is better (the lower end is above 0), or surely cheaper by
     {100 * LEAST_SAVING:g} % of the champion's mean cost.
Where there is no champion yet, a candidate that can be measured is promoted.

The verdict is kept with the candidate's version, in its tags gate.* and its description, whether it passed or not.
Exit code: 0 promoted, 1 not promoted, 2 typed wrong."""
_ALIAS = re.compile(r"(?!(?:latest|v?[0-9]+)$)[\w-]{1,255}", re.IGNORECASE | re.ASCII)


def main(words: Sequence[str]) -> int:
    """Run the command; returns its exit code: `FAILED` if the candidate was not promoted.

    Args:
        words: The command line behind `dvt promote`.
    """
    asked, overrides = _parse(words)
    budgets = _check(asked, overrides)
    uri = tracking_address(asked.tracking_uri)
    grounds = read_grounds(uri, asked.name, asked.candidate, asked.to)
    console = Console()
    verdict = measured_verdict(uri, grounds, budgets, asked.margin / 100, overrides, console)
    print_verdict(console, grounds, verdict, budgets)
    move = settle(uri, grounds, verdict)
    print_places(console, _told(grounds, verdict, move))
    return 0 if verdict.is_passed else FAILED


def _parse(words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The command's own options, and what is left to say where the images are."""
    parser = argparse.ArgumentParser(
        prog="dvt promote",
        description="Move an alias of a registered model to a candidate, if it is better than the version that has the "
        "alias, or not worse and cheaper.",
        epilog=_RULE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="dvt promote NAME --budget-macs MACS ... [--to ALIAS] [--candidate ALIAS_OR_VERSION] [--margin POINTS] "
        "[--data.root FOLDER] [--tracking-uri URI]",
        allow_abbrev=False,
    )
    parser.add_argument("name", metavar="NAME", help="the registered model, as dvt-embedded")
    parser.add_argument(
        "--budget-macs",
        nargs="+",
        required=True,
        metavar="MACS",
        help="mean multiply-adds an image to compare at, as 1.2G; one or more, also by repeating the option",
        action="extend",
    )
    parser.add_argument("--to", default=CHAMPION, metavar="ALIAS", help=f"the alias to move; without it {CHAMPION}")
    parser.add_argument(
        "--candidate",
        default=CANDIDATE,
        metavar="ALIAS_OR_VERSION",
        help=f"who is to have it; without it {CANDIDATE}",
    )
    parser.add_argument(
        "--margin",
        type=float,
        default=DEFAULT_MARGIN,
        metavar="POINTS",
        help=f"points of accuracy that it may lose where it is cheaper; without it {DEFAULT_MARGIN}",
    )
    parser.add_argument(
        "--tracking-uri", help="MLflow server or SQLite file; without it MLFLOW_TRACKING_URI, else runs/mlflow.db"
    )
    parser.add_argument_group(
        "where the images are", "--data.root FOLDER, or any field below data, puts it over the candidate's recipe"
    )
    return parser.parse_known_args(words)


def _check(asked: argparse.Namespace, overrides: Sequence[str]) -> tuple[float, ...]:
    """Refuse what can be seen to be wrong before anything is read; the budgets."""
    problems, budgets = [], []
    for text in asked.budget_macs:
        macs = read_macs("--budget-macs", text)
        if isinstance(macs, Problem):
            problems.append(macs)
        elif macs in budgets:
            problems.append(Problem("--budget-macs", f"must name each budget once, got {text} twice"))
        else:
            budgets.append(macs)
    if not 0 <= asked.margin <= 100:
        problems.append(Problem("--margin", f"must be points of accuracy from 0 to 100, got {asked.margin:g}"))
    problems += check_alias("--to", asked.to)
    if not asked.candidate.isdecimal():
        problems += check_alias("--candidate", asked.candidate)
    problems += foreign_words("dvt promote", overrides)
    if problems:
        raise ConfigError(problems)
    return tuple(budgets)


def check_alias(flag: str, alias: str) -> list[Problem]:
    """What is wrong with a word as an alias, by MLflow's rules.

    Args:
        flag: What it was typed behind.
        alias: The word.
    """
    if _ALIAS.fullmatch(alias):
        return []
    rule = f"must be an alias of letters, digits, - and _, not latest and no version as v1, got {alias!r}"
    return [Problem(flag, rule)]


def foreign_words(command: str, overrides: Sequence[str]) -> list[Problem]:
    """What is wrong with words that are neither a command's options nor say where the images are.

    Args:
        command: As `dvt promote`.
        overrides: What its options left of the line.
    """
    rule = f"must be an option of {command} or a field below --data; {command} --help tells them"
    problems, is_value = [], False
    for word in overrides:
        is_field = word.startswith("--data.")
        if not is_field and not (is_value and not word.startswith("--")):
            problems.append(Problem(word, rule))
        is_value = is_field and "=" not in word
    return problems


def print_verdict(console: Console, grounds: Grounds, verdict: Verdict, budgets: Sequence[float]) -> None:
    """What was compared, and one row a budget."""
    beside = "" if grounds.champion is None else f" beside {grounds.alias}, version {grounds.champion},"
    images = f"{verdict.num_images:,} test images ({verdict.data})"
    title = f"{grounds.name} version {grounds.candidate}{beside} on {images}"
    console.print(title, soft_wrap=True, highlight=False, markup=False)
    console.print(_table_beside(verdict) if verdict.budgets else _table_alone(verdict, budgets))


def _table_beside(verdict: Verdict) -> Table:
    table = Table()
    for name in ("budget", "champion\ntop-1", "candidate\ntop-1", "difference,\npoints", "champion\nMACs"):
        table.add_column(name, justify="right")
    table.add_column("candidate\nMACs", justify="right")
    table.add_column("outcome")
    for each in verdict.budgets:
        table.add_row(
            told_macs(each.budget_macs),
            f"{100 * each.champion_top1:.2f} %",
            f"{100 * each.candidate_top1:.2f} %",
            told_points(each),
            told_macs(each.champion_macs),
            told_macs(each.candidate_macs),
            told_outcome(each, verdict.margin),
        )
    return table


def _table_alone(verdict: Verdict, budgets: Sequence[float]) -> Table:
    table = Table()
    for name in ("budget", "top-1", "mean MACs"):
        table.add_column(name, justify="right")
    for budget, point in zip(budgets, verdict.alone, strict=True):
        table.add_row(told_macs(budget), f"{100 * point.accuracy:.2f} %", told_macs(point.macs))
    return table


def _told(grounds: Grounds, verdict: Verdict, move: Move | None) -> dict[str, str]:
    """What came of it, by what it is called."""
    told = {"verdict": f"{'passed' if verdict.is_passed else 'failed'}: {verdict.reason}"}
    if move is None:
        told[f"alias {grounds.alias}"] = f"stays on version {grounds.champion}"
    elif move.source is None:
        told[f"alias {grounds.alias}"] = f"set on version {move.target}"
    else:
        told[f"alias {grounds.alias}"] = f"from version {move.source} to version {move.target}"
    told["kept in"] = f"tags gate.* and description of {grounds.name} version {grounds.candidate}"
    return told
