"""The model and the budget that a command line names for classifying images: their flags, checks and thresholds."""

import argparse
from collections.abc import Callable
from dataclasses import replace

from dvt.cli.amounts import read_macs, read_milliseconds, read_thresholds
from dvt.config import ConfigError, Problem
from dvt.exits import PLAIN, Thresholds, single_exit_thresholds
from dvt.inference import Budget, thresholds_within
from dvt.models import macs_per_exit
from dvt.serving.model import OpenedModel
from dvt.serving.prediction import MAX_PENDING, Classifier

BUDGETS = ("budget_macs", "budget_ms", "thresholds")


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """Let a command take a model, a budget and a batch size."""
    parser.add_argument(
        "--model", required=True, help="models:/NAME@ALIAS, models:/NAME/VERSION or a checkpoint folder"
    )
    parser.add_argument("--budget-macs", metavar="MACS", help="mean multiply-adds an image, as 1.2G, 300M or 12e6")
    parser.add_argument("--budget-ms", metavar="MS", help="mean milliseconds an image; needs a latency profile")
    parser.add_argument(
        "--thresholds", metavar="A,B", help="confidence to leave with, for each exit but the last; inf closes one"
    )
    parser.add_argument(
        "--tracking-uri", help="MLflow server or SQLite file; without it MLFLOW_TRACKING_URI, else runs/mlflow.db"
    )
    parser.add_argument("--batch-size", type=int, default=64, help="images that are classified together; 64")


def budget_problems(asked: argparse.Namespace) -> list[Problem]:
    """What can be seen to be wrong with these flags before a model is loaded; reads the amounts in place."""
    problems: list[Problem] = []
    given = [_flag(name) for name in BUDGETS if getattr(asked, name) is not None]
    if len(given) > 1:
        problems.append(Problem(given[1], f"must come without {given[0]}, got both; leave one out"))
    for name, read in (("budget_macs", read_macs), ("budget_ms", read_milliseconds)):
        text = getattr(asked, name)
        amount = None if text is None else read(_flag(name), text)
        if isinstance(amount, Problem):
            problems.append(amount)
        setattr(asked, name, amount)
    return problems


def batch_size_problems(asked: argparse.Namespace) -> list[Problem]:
    """What is wrong with `--batch-size`."""
    if 1 <= asked.batch_size <= MAX_PENDING:
        return []
    return [Problem("--batch-size", f"must be from 1 to {MAX_PENDING}, got {asked.batch_size}")]


def asked_classifier(asked: argparse.Namespace, model: OpenedModel, device_name: Callable[[], str]) -> Classifier:
    """The model with the thresholds that were typed, or those of the budget that counts.

    Args:
        asked: The command line, checked.
        model: The model it names.
        device_name: Names the device that runs the model, as its latency profile does; asked for a budget in
            milliseconds alone.

    Raises:
        ConfigError: If there are no thresholds for what was asked.
    """
    return Classifier(
        cascade=model.cascade,
        thresholds=_thresholds(asked, model, device_name),
        confidence=PLAIN if model.thresholds is None else model.thresholds.confidence,
        class_names=model.class_names,
        transform=model.transform,
    )


def _thresholds(asked: argparse.Namespace, model: OpenedModel, device_name: Callable[[], str]) -> Thresholds:
    macs = macs_per_exit(model.cascade.config)
    if asked.thresholds is not None:
        thresholds = read_thresholds("--thresholds", asked.thresholds, len(macs))
        if isinstance(thresholds, Problem):
            raise ConfigError([thresholds])
        return thresholds
    budget = _budget(asked, model)
    if model.thresholds is None:
        if budget == Budget():
            return single_exit_thresholds(len(macs), len(macs) - 1)
        flag = "--budget-macs" if budget.budget_ms is None else "--budget-ms"
        raise ConfigError([_lacks(flag, asked.model, "thresholds", "give --thresholds")])
    seconds = None if budget.budget_ms is None else _seconds_per_exit(asked, model, device_name())
    try:
        return thresholds_within(budget, model.thresholds, macs, seconds)
    except ConfigError as error:  # speaks of a request's field; here it is a flag
        flags = {name: _flag(name) for name in BUDGETS}
        raise ConfigError(replace(problem, path=flags[problem.path]) for problem in error.problems) from error


def _budget(asked: argparse.Namespace, model: OpenedModel) -> Budget:
    """What may be spent: as typed, else what the model's own default is."""
    if asked.budget_ms is not None:
        return Budget(budget_ms=asked.budget_ms)
    return Budget(budget_macs=model.default_budget_macs if asked.budget_macs is None else asked.budget_macs)


def _seconds_per_exit(asked: argparse.Namespace, model: OpenedModel, device_name: str) -> tuple[float, ...]:
    """What stages were measured to take on this device."""
    profile = next((each for each in model.profiles if each.device == device_name), None)
    if profile is None:
        lacked = f"a latency profile of this device, {device_name}"
        advice = f"run dvt profile {asked.model}, or give --budget-macs"
        raise ConfigError([_lacks("--budget-ms", asked.model, lacked, advice)])
    return profile.seconds_per_exit()


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _lacks(flag: str, model: str, lacked: str, advice: str) -> Problem:
    return Problem(flag, f"must come with a model that holds {lacked}, got {model}, which holds none; {advice}")
