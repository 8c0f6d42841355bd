"""`dvt predict IMAGES... --model MODEL`: classifies image files within a budget, each with as few stages as it needs.

Images are read ahead by threads and classified batch by batch, so that memory does not grow with their number.

Shapes: E exits.
"""

import argparse
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

import torch

from dvt.cli.amounts import read_macs, read_milliseconds, read_thresholds
from dvt.cli.failure import FAILED
from dvt.cli.predict_model import PredictModel, open_predict_model
from dvt.cli.predict_output import CSV, PARQUET, Prediction, Screen, lines_of_stdin, open_output
from dvt.config import ConfigError, Problem
from dvt.data.image_files import FoundFile, ReadFile, find_files, read_files
from dvt.exits import Thresholds, single_exit_thresholds
from dvt.inference import EarlyExit
from dvt.models import macs_per_exit

STDIN = "-"
BUDGETS = ("budget_macs", "budget_ms", "thresholds")


@dataclass(frozen=True)
class _Classifier:
    """A model with the thresholds to leave by."""

    model: PredictModel
    engine: EarlyExit
    macs: tuple[float, ...]  # (E,), what an image costs that leaves at each exit
    device: torch.device


def main(words: Sequence[str]) -> int:
    """Run the command; returns its exit code: `FAILED` if any image could not be read.

    Args:
        words: The command line behind `dvt predict`.
    """
    asked = _parse(words)
    _check(asked)
    classifier = _classifier(asked)
    found: Iterable[FoundFile] = chain.from_iterable(map(find_files, _addresses(asked.images)))
    total = None
    if STDIN not in asked.images:  # a list may go on for ever
        found = list(found)
        total = len(found)
    return _predict(classifier, found, total, asked)


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="dvt predict",
        description="Classify images with a cascade that spends on each no more than it needs.",
        epilog="Without a budget or thresholds the model's own default counts. Exit code 1 tells that an image could "
        "not be read.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "images", nargs="+", metavar="IMAGES", help="files, folders, s3:// addresses, or - for a list on standard input"
    )
    parser.add_argument(
        "--model", required=True, help="models:/NAME@ALIAS, models:/NAME/VERSION or a checkpoint folder"
    )
    parser.add_argument("--budget-macs", metavar="MACS", help="mean multiply-adds an image, as 1.2G, 300M or 12e6")
    parser.add_argument("--budget-ms", metavar="MS", help="mean milliseconds an image; needs a latency profile")
    parser.add_argument(
        "--thresholds", metavar="A,B", help="confidence to leave with, for each exit but the last; inf closes one"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write a .csv or .parquet file")
    parser.add_argument(
        "--tracking-uri", help="MLflow server or SQLite file; without it MLFLOW_TRACKING_URI, else runs/mlflow.db"
    )
    parser.add_argument("--batch-size", type=int, default=64, help="images that are classified together; 64")
    return parser.parse_args(words)


def _check(asked: argparse.Namespace) -> None:
    """Refuse what can be seen to be wrong before anything is loaded."""
    problems: list[Problem] = []
    given = [f"--{name.replace('_', '-')}" for name in BUDGETS if getattr(asked, name) is not None]
    if len(given) > 1:
        problems.append(Problem(given[1], f"must come without {given[0]}, got both; leave one out"))
    for name, read in (("budget_macs", read_macs), ("budget_ms", read_milliseconds)):
        text = getattr(asked, name)
        amount = None if text is None else read(f"--{name.replace('_', '-')}", text)
        if isinstance(amount, Problem):
            problems.append(amount)
        setattr(asked, name, amount)
    if asked.output is not None and asked.output.suffix not in (CSV, PARQUET):
        problems.append(Problem("--output", f"must end with {CSV} or {PARQUET}, got {asked.output}"))
    if asked.batch_size < 1:
        problems.append(Problem("--batch-size", f"must be at least 1, got {asked.batch_size}"))
    if problems:
        raise ConfigError(problems)


def _classifier(asked: argparse.Namespace) -> _Classifier:
    model = open_predict_model(asked.model, asked.tracking_uri)
    thresholds = _thresholds(asked, model)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    engine = EarlyExit(model.cascade.to(device), thresholds)
    return _Classifier(model, engine, tuple(map(float, macs_per_exit(model.cascade.config))), device)


def _thresholds(asked: argparse.Namespace, model: PredictModel) -> Thresholds:
    """The thresholds that were typed, or those of the budget that counts."""
    num_exits = model.cascade.config.num_exits
    if asked.thresholds is not None:
        thresholds = read_thresholds("--thresholds", asked.thresholds, num_exits)
        if isinstance(thresholds, Problem):
            raise ConfigError([thresholds])
        return thresholds
    if asked.budget_ms is not None:
        rule = f"must come with a model that holds a latency profile, got {asked.model}, which holds none"
        raise ConfigError([Problem("--budget-ms", f"{rule}; give --budget-macs")])
    budget = asked.budget_macs if asked.budget_macs is not None else model.default_budget_macs
    if budget is None:
        return single_exit_thresholds(num_exits, num_exits - 1)
    if model.thresholds is None:
        rule = f"must come with a model that holds thresholds, got {asked.model}, which holds none; give --thresholds"
        raise ConfigError([Problem("--budget-macs", rule)])
    try:
        return model.thresholds.at_budget(budget).thresholds
    except ConfigError as error:  # speaks of a request's parameter; here it is a flag
        raise ConfigError(replace(problem, path="--budget-macs") for problem in error.problems) from error


def _addresses(images: Sequence[str]) -> Iterator[str]:
    for image in images:
        if image == STDIN:
            yield from lines_of_stdin()
        else:
            yield image


def _predict(classifier: _Classifier, found: Iterable[FoundFile], total: int | None, asked: argparse.Namespace) -> int:
    """Classify, tell and write, batch after batch; returns the exit code."""
    config = classifier.model.cascade.config
    read = read_files(found, classifier.model.transform, config.in_chans, ahead=2 * asked.batch_size)
    screen = Screen(classifier.model.class_names, config.num_exits, total)
    left, num_failed, start = [0] * config.num_exits, 0, time.monotonic()
    with open_output(asked.output) as write, screen.shown():
        screen.tell_header()
        while batch := list(islice(read, asked.batch_size)):
            predictions = _classify(classifier, batch)
            write(predictions)
            screen.tell(predictions)
            for prediction in predictions:
                if prediction.exit_index is None:
                    num_failed += 1
                else:
                    left[prediction.exit_index - 1] += 1
    screen.tell_summary(classifier.macs, left, num_failed, time.monotonic() - start)
    if asked.output is not None:
        screen.tell_place(asked.output)
    return FAILED if num_failed else 0


def _classify(classifier: _Classifier, batch: Sequence[ReadFile]) -> list[Prediction]:
    """One prediction a file, in order; files that could not be read stay out of the model's batch."""
    images = [file.image for file in batch if file.image is not None]
    if not images:
        return [Prediction(file.address, error=file.problem) for file in batch]
    result = classifier.engine(torch.stack(images).to(classifier.device))
    rows = zip(result.label.tolist(), result.confidence.tolist(), result.exit_index.tolist(), strict=True)
    predictions = []
    for file in batch:
        if file.image is None:
            predictions.append(Prediction(file.address, error=file.problem))
            continue
        label, confidence, index = next(rows)
        name, macs = classifier.model.class_names[label], classifier.macs[index]
        predictions.append(Prediction(file.address, label, name, confidence, index + 1, macs))
    return predictions
