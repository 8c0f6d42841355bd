"""`dvt predict IMAGES... --model MODEL`: classifies image files within a budget, each with as few stages as it needs.

Images are read ahead by threads and classified batch by batch, so that memory does not grow with their number.

Shapes: E exits.
"""

import argparse
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import torch

from dvt.cli.asked_model import add_model_flags, asked_classifier, batch_size_problems, budget_problems
from dvt.cli.failure import FAILED
from dvt.cli.predict_output import CSV, PARQUET, Screen, lines_of_stdin, open_output
from dvt.config import ConfigError, Problem
from dvt.data.image_files import FoundFile, find_files
from dvt.inference import device_name
from dvt.serving.model import open_model
from dvt.serving.prediction import Classifier

STDIN = "-"
MAX_WAIT_S = 0.5  # how long an image waits for others at most, while files come slowly


def main(words: Sequence[str]) -> int:
    """Run the command; returns its exit code: `FAILED` if any image could not be read.

    Args:
        words: The command line behind `dvt predict`.
    """
    asked = _parse(words)
    _check(asked)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    classifier = asked_classifier(asked, open_model(asked.model, asked.tracking_uri), lambda: device_name(device))
    found: Iterable[FoundFile] = chain.from_iterable(map(find_files, _addresses(asked.images)))
    total = None
    if STDIN not in asked.images:  # a list may go on for ever
        found = list(found)
        total = len(found)
    return _predict(classifier, device, found, total, asked)


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
    add_model_flags(parser)
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write a .csv or .parquet file")
    return parser.parse_args(words)


def _check(asked: argparse.Namespace) -> None:
    """Refuse what can be seen to be wrong before anything is loaded."""
    problems = budget_problems(asked)
    if asked.output is not None and asked.output.suffix not in (CSV, PARQUET):
        problems.append(Problem("--output", f"must end with {CSV} or {PARQUET}, got {asked.output}"))
    problems += batch_size_problems(asked)
    if problems:
        raise ConfigError(problems)


def _addresses(images: Sequence[str]) -> Iterator[str]:
    for image in images:
        if image == STDIN:
            yield from lines_of_stdin()
        else:
            yield image


def _predict(
    classifier: Classifier,
    device: torch.device,
    found: Iterable[FoundFile],
    total: int | None,
    asked: argparse.Namespace,
) -> int:
    """Classify, tell and write, batch after batch; returns the exit code."""
    engine = classifier.engine(device, MAX_WAIT_S)
    screen = Screen(classifier.class_names, engine.cascade.config.num_exits, total)
    left, num_failed, start = [0] * engine.cascade.config.num_exits, 0, time.monotonic()
    with open_output(asked.output) as write, screen.shown():
        screen.tell_header()
        for predictions in classifier.classify(engine, found, asked.batch_size):
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
