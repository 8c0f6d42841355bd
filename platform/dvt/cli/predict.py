"""`dvt predict IMAGES... --model MODEL`: classifies image files within a budget, each with as few stages as it needs.

Images are read ahead by threads and classified batch by batch, so that memory does not grow with their number.

Shapes: E exits.
"""

import argparse
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

import torch
from torch import Tensor

from dvt.cli.amounts import read_macs, read_milliseconds, read_thresholds
from dvt.cli.failure import FAILED
from dvt.cli.predict_output import CSV, PARQUET, Prediction, Screen, lines_of_stdin, open_output
from dvt.config import ConfigError, Problem
from dvt.data.image_files import FoundFile, ReadFile, find_files, read_files
from dvt.exits import PLAIN, Thresholds, single_exit_thresholds
from dvt.inference import Budget, EarlyExit, device_name, profile_of, thresholds_within
from dvt.models import macs_per_exit
from dvt.serving.model import OpenedModel, open_model

STDIN = "-"
MAX_PENDING = 4096  # images whose predictions wait for one before them; also the largest batch
MAX_WAIT_S = 0.5  # how long an image waits for others at most, while files come slowly
BUDGETS = ("budget_macs", "budget_ms", "thresholds")


@dataclass(frozen=True)
class _Classifier:
    """A model with the thresholds to leave by."""

    model: OpenedModel
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
    if not 1 <= asked.batch_size <= MAX_PENDING:
        problems.append(Problem("--batch-size", f"must be from 1 to {MAX_PENDING}, got {asked.batch_size}"))
    if problems:
        raise ConfigError(problems)


def _classifier(asked: argparse.Namespace) -> _Classifier:
    model = open_model(asked.model, asked.tracking_uri)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    thresholds = _thresholds(asked, model, device)
    confidence = PLAIN if model.thresholds is None else model.thresholds.confidence
    engine = EarlyExit(model.cascade.to(device), thresholds, confidence, max_wait_s=MAX_WAIT_S)
    return _Classifier(model, engine, tuple(map(float, macs_per_exit(model.cascade.config))), device)


def _thresholds(asked: argparse.Namespace, model: OpenedModel, device: torch.device) -> Thresholds:
    """The thresholds that were typed, or those of the budget that counts."""
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
    seconds = None if budget.budget_ms is None else _seconds_per_exit(asked, model, device)
    try:
        return thresholds_within(budget, model.thresholds, macs, seconds)
    except ConfigError as error:  # speaks of a request's field; here it is a flag
        flags = {name: f"--{name.replace('_', '-')}" for name in BUDGETS}
        raise ConfigError(replace(problem, path=flags[problem.path]) for problem in error.problems) from error


def _budget(asked: argparse.Namespace, model: OpenedModel) -> Budget:
    """What may be spent: as typed, else what the model's own default is."""
    if asked.budget_ms is not None:
        return Budget(budget_ms=asked.budget_ms)
    return Budget(budget_macs=model.default_budget_macs if asked.budget_macs is None else asked.budget_macs)


def _seconds_per_exit(asked: argparse.Namespace, model: OpenedModel, device: torch.device) -> Sequence[float]:
    """What stages were measured to take on this device."""
    profile = profile_of(model.profiles, device)
    if profile is None:
        lacked = f"a latency profile of this device, {device_name(device)}"
        advice = f"run dvt profile {asked.model}, or give --budget-macs"
        raise ConfigError([_lacks("--budget-ms", asked.model, lacked, advice)])
    return profile.seconds_per_exit()


def _lacks(flag: str, model: str, lacked: str, advice: str) -> Problem:
    return Problem(flag, f"must come with a model that holds {lacked}, got {model}, which holds none; {advice}")


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
    batches = iter(lambda: list(islice(read, asked.batch_size)), [])
    with open_output(asked.output) as write, screen.shown():
        screen.tell_header()
        for predictions in _classified(classifier, batches):
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


def _classified(classifier: _Classifier, batches: Iterable[Sequence[ReadFile]]) -> Iterator[list[Prediction]]:
    """One prediction a file, batch by batch, in order; files that could not be read stay out of the model's batches."""
    config = classifier.model.cascade.config
    empty = torch.zeros(0, config.in_chans, config.image_size, config.image_size)
    under_way: deque[list[ReadFile]] = deque()  # without their images, which the engine drops as soon as it can

    def images() -> Iterator[Tensor]:
        for batch in batches:
            under_way.append([replace(file, image=None) for file in batch])
            given = [file.image for file in batch if file.image is not None]
            yield torch.stack(given) if given else empty

    for result in classifier.engine.stream(images(), max_pending=MAX_PENDING):
        rows = zip(result.label.tolist(), result.confidence.tolist(), result.exit_index.tolist(), strict=True)
        yield [_prediction(classifier, file, rows) for file in under_way.popleft()]


def _prediction(classifier: _Classifier, file: ReadFile, rows: Iterator[tuple[int, float, int]]) -> Prediction:
    """What became of a file; of one that could be read, what the next row tells."""
    if file.problem:
        return Prediction(file.address, error=file.problem)
    label, confidence, index = next(rows)
    return Prediction(
        file.address, label, classifier.model.class_names[label], confidence, index + 1, classifier.macs[index]
    )
