"""`dvt register RUN_OR_CHECKPOINT`: makes a registered model of a run's best checkpoint, or of a checkpoint folder."""

import argparse
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from dvt.cli.checkpoint_content import checkpoint_content
from dvt.cli.front_target import FRONT, open_target
from dvt.cli.gate_scores import open_images
from dvt.cli.promote import CANDIDATE, CHAMPION, check_alias, foreign_words
from dvt.cli.summary import print_places
from dvt.config import ConfigError, Problem, load_recipe, to_dict
from dvt.exits import FrontReport, ThresholdTable
from dvt.models import macs_per_exit
from dvt.tracking import ModelRecord, RunRecord, log_and_register_model, page_command, tracking_address
from dvt.tracking.checkpoint_run import run_of_checkpoint
from dvt.tracking.front_files import read_front_report
from dvt.tracking.lookup import find_registered
from dvt.tracking.moves import stands_on
from dvt.train.checkpoint import STATE, load_checkpoint
from dvt.train.errors import CheckpointError
from dvt.train.past_run import CHECKPOINTS, find_past_run

THRESHOLDS = "thresholds.json"


@dataclass(frozen=True)
class _Source:
    """What is to be registered."""

    checkpoint: Path  # a local folder
    front: FrontReport | ThresholdTable
    record: RunRecord | None  # of the run that made it; None where none is known


def main(words: Sequence[str]) -> int:
    """Run the command; returns its exit code.

    Args:
        words: The command line behind `dvt register`.
    """
    asked, overrides = _parse(words)
    _check(asked, overrides)
    with _source(asked) as source:
        recipe = load_checkpoint(source.checkpoint).recipe
        data_recipe = load_recipe(to_dict(recipe), overrides)
        data = open_images(data_recipe.data, recipe.cascade)
        content = checkpoint_content(recipe, source.checkpoint, source.front, data.class_names, data.mean, data.std)
        record = source.record
        if record is None:
            with content.weights.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            record = run_of_checkpoint(tracking_address(asked.tracking_uri), recipe, digest)
        name = asked.name if asked.name is not None else f"dvt-{recipe.name}"
        model = log_and_register_model(record, content, registered_name=name, alias=asked.alias)
    print_places(Console(), _told(record, model, asked.alias))
    return 0


def _parse(words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The command's own options, and what is left to say where the images are."""
    parser = argparse.ArgumentParser(
        prog="dvt register",
        description="Register a trained cascade with its thresholds, front, labels, preprocessing and model card. The "
        "same command run again registers nothing twice.",
        usage="dvt register RUN_OR_CHECKPOINT [--name NAME] [--alias ALIAS] [--front FILE] [--data.root FOLDER] "
        "[--tracking-uri URI]",
        allow_abbrev=False,
    )
    parser.add_argument(
        "what",
        metavar="RUN_OR_CHECKPOINT",
        help="an MLflow run's id, a run's folder (also s3://), or a checkpoint folder",
    )
    parser.add_argument("--name", help="the registered model; without it dvt-RECIPE")
    parser.add_argument("--alias", default=CANDIDATE, help=f"the alias that the version gets; without it {CANDIDATE}")
    parser.add_argument(
        "--front", type=Path, metavar="FILE", help="a front.json that dvt front made; without it the run's own"
    )
    parser.add_argument(
        "--tracking-uri",
        help="MLflow server or SQLite file; without it MLFLOW_TRACKING_URI, else the run's own or runs/mlflow.db",
    )
    parser.add_argument_group(
        "where the images are", "--data.root FOLDER, or any field below data, puts it over the recipe"
    )
    return parser.parse_known_args(words)


def _check(asked: argparse.Namespace, overrides: Sequence[str]) -> None:
    problems = check_alias("--alias", asked.alias) + foreign_words("dvt register", overrides)
    if asked.alias == CHAMPION:
        rule = f"must not be {CHAMPION}, which dvt promote gives; leave it out and promote the version"
        problems.append(Problem("--alias", rule))
    if asked.name is not None and (not asked.name or set(asked.name) & set("/:.%\"'")):
        problems.append(Problem("--name", f"must be a model's name without / : . % and quotes, got {asked.name!r}"))
    if problems:
        raise ConfigError(problems)


@contextmanager
def _source(asked: argparse.Namespace) -> Iterator[_Source]:
    """Find the checkpoint, its run and its front; the checkpoint lies on this machine while the context lasts."""
    given = None if asked.front is None else _read_front(asked.front)
    path = Path(asked.what)
    run = _run_around(path) if (path / STATE).is_file() else asked.what
    if run is None:
        yield _Source(path, _fitting(path, given or _own_thresholds(path)), record=None)
        return
    with open_target(run, asked.tracking_uri, is_recorded=True) as target:
        is_best = run == asked.what or path.name == target.checkpoint.name
        checkpoint = target.checkpoint if is_best else path
        front: FrontReport | ThresholdTable | None = given or (target.earlier_report() if is_best else None)
        if front is None and is_best:
            raise CheckpointError(
                f"run {run} must have a front, got none in its folder {FRONT}; make it with dvt front {run}"
            )
        yield _Source(checkpoint, _fitting(checkpoint, front or _own_thresholds(checkpoint)), target.record)


def _run_around(checkpoint: Path) -> str | None:
    """The folder of the run that a checkpoint folder lies in; None of one on its own."""
    folder = checkpoint.absolute().parent
    if folder.name != CHECKPOINTS:
        return None
    run = find_past_run(str(folder.parent))
    return None if run is None else run.address


def _read_front(path: Path) -> FrontReport:
    try:
        return read_front_report(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError([Problem("--front", f"must be a front.json of dvt front, got {path} ({reason})")]) from error


def _own_thresholds(checkpoint: Path) -> ThresholdTable:
    """Those that an imported checkpoint has beside its weights."""
    file = checkpoint / THRESHOLDS
    if not file.is_file():
        raise CheckpointError(
            f"{checkpoint} must come with its front, got none; make it with dvt front {checkpoint} and name its "
            "front.json with --front"
        )
    try:
        return ThresholdTable.from_dict(json.loads(file.read_text(encoding="utf-8")))
    except ValueError as error:
        raise CheckpointError(f"{file} must hold thresholds, got something else ({error})") from error


def _fitting(checkpoint: Path, front: FrontReport | ThresholdTable) -> FrontReport | ThresholdTable:
    """A front of this cascade; another one's thresholds would be meaningless, and look alike."""
    macs = macs_per_exit(load_checkpoint(checkpoint).recipe.cascade)
    if isinstance(front, ThresholdTable):
        is_fitting = front.num_exits == len(macs)
    else:
        is_fitting = [row.macs for row in front.exits] == list(map(float, macs))
    if not is_fitting:
        raise CheckpointError(
            f"the front of {checkpoint} must be of its cascade, got that of another; measure it again"
        )
    return front


def _told(record: RunRecord, model: ModelRecord, alias: str) -> dict[str, str]:
    """Where everything is, by what it is called."""
    name = str(model.registered_name)
    current = stands_on(find_registered(record.tracking_uri, name), alias)
    aliased = f"alias {alias}" if current == model.version else f"alias {alias} stays on version {current}"
    return {
        "MLflow run": f"{record.run_id} at {record.address}",
        "model": f"{name} version {model.version}, {aliased}",
        "see it": page_command(record),
    }
