"""`dvt import-checkpoint FILE`: makes a checkpoint folder of the weights that the published code saved, and a model.

Nothing is measured: the thresholds are the file's, and accuracies that it tells are passed on as what was published.
"""

import argparse
import difflib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from timm.data.imagenet_info import ImageNetInfo

from dvt.cli.published_file import PublishedFile
from dvt.cli.summary import print_exits, print_places
from dvt.config import CascadeConfig, ConfigError, DataConfig, Problem, Recipe, TrainConfig
from dvt.data.transforms import MEAN, STD
from dvt.exits import ThresholdTable
from dvt.models import Cascade, macs_per_exit, published_variant
from dvt.models.published import PUBLISHED_VARIANTS
from dvt.tracking import (
    ModelContent,
    ModelRecord,
    RunRecord,
    check_tracking,
    closed_as_it_ends,
    log_and_register_model,
    open_run,
    page_command,
    tracking_address,
)
from dvt.train.checkpoint import load_checkpoint, save_checkpoint
from dvt.train.state import TrainingState

THRESHOLDS = "thresholds.json"
IMAGENET_CLASSES = 1000


@dataclass(frozen=True)
class _Import:
    """What a file becomes."""

    file: PublishedFile
    recipe: Recipe
    thresholds: ThresholdTable
    top1: tuple[float, ...]  # (E,) from 0 to 1, as the file tells it; may be empty
    class_names: tuple[str, ...]


def main(words: Sequence[str]) -> int:
    """Run the command; returns its exit code.

    Args:
        words: The command line behind `dvt import-checkpoint`.
    """
    asked = _parse(words)
    name = asked.name if asked.name is not None else f"published_{asked.variant.removeprefix('dvt_')}"
    output = asked.output if asked.output is not None else Path("checkpoints") / name
    _check(asked, output)
    uri = tracking_address(asked.tracking_uri) if asked.register else None
    if uri is not None:
        check_tracking(uri)
    file = PublishedFile.read(asked.file)
    cascade = file.cascade()
    made = _import(file, name, asked, cascade.config)
    places = _keep(made, cascade, output, uri)
    console = Console()
    print_exits(console, f"{asked.variant} of {asked.file.name}", made.recipe.cascade, made.top1)
    print_places(console, places)
    return 0


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="dvt import-checkpoint",
        description="Make a checkpoint folder, with --register a model too, of what the published code saved.",
        allow_abbrev=False,
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="what the published code saved, or a state dict alone")
    parser.add_argument("--variant", required=True, help=f"which cascade it is: {', '.join(PUBLISHED_VARIANTS)}")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="a new folder; without it checkpoints/NAME")
    parser.add_argument("--name", help="name of the run and of the model, dvt-NAME; without it published_VARIANT")
    parser.add_argument("--register", action="store_true", help="register the model in MLflow, with its thresholds")
    parser.add_argument(
        "--tracking-uri", help="MLflow server or SQLite file; without it MLFLOW_TRACKING_URI, else runs/mlflow.db"
    )
    parser.add_argument(
        "--class-names",
        type=Path,
        metavar="FILE",
        help="names of the classes for the registered model, one a line; without it ImageNet's, else 0, 1, ...",
    )
    return parser.parse_args(words)


def _check(asked: argparse.Namespace, output: Path) -> None:
    """Refuse what can be seen to be wrong before anything is read."""
    problems = []
    if asked.variant not in PUBLISHED_VARIANTS:
        near = difflib.get_close_matches(asked.variant, PUBLISHED_VARIANTS, n=1)
        advice = f"did you mean {near[0]}?" if near else f"choose from {', '.join(PUBLISHED_VARIANTS)}"
        problems.append(Problem("--variant", f"must be a published cascade, got {asked.variant!r}; {advice}"))
    for name, path in (("FILE", asked.file), ("--class-names", asked.class_names)):
        if path is not None and not path.is_file():
            problems.append(Problem(name, f"must be a file, got {path}, which is none; check the path"))
    if output.exists():
        rule = f"must be a folder that is not there yet, got {output}; choose another or remove it"
        problems.append(Problem("--output", rule))
    for name in ("tracking_uri", "class_names"):
        if getattr(asked, name) is not None and not asked.register:
            flag = f"--{name.replace('_', '-')}"
            problems.append(Problem(flag, "must come with --register, got it alone; add --register or leave it out"))
    if problems:
        raise ConfigError(problems)


def _import(file: PublishedFile, name: str, asked: argparse.Namespace, config: CascadeConfig) -> _Import:
    found = published_variant(config)
    if found != asked.variant:
        rule = f"must be what {file.path} holds, {found}, got {asked.variant}; choose {found} or another file"
        raise ConfigError([Problem("--variant", rule)])
    try:
        # The weights to evaluate are the file's own: there is no average beside them.
        recipe = Recipe(
            name=name, cascade=config, data=DataConfig(root="data/imagenet"), train=TrainConfig(ema_decay=None)
        )
    except ConfigError as error:  # speaks of a recipe's field; here it is a flag
        raise ConfigError(replace(problem, path=f"--{problem.path}") for problem in error.problems) from error
    return _Import(
        file=file,
        recipe=recipe,
        thresholds=file.thresholds(macs_per_exit(config)),
        top1=file.top1(config.num_exits),
        class_names=_class_names(asked.class_names, config.num_classes),
    )


def _class_names(path: Path | None, num_classes: int) -> tuple[str, ...]:
    if path is None:
        is_imagenet = num_classes == IMAGENET_CLASSES
        return tuple(ImageNetInfo().label_names() if is_imagenet else map(str, range(num_classes)))
    try:
        names = tuple(path.read_text(encoding="utf-8").splitlines())
    except UnicodeDecodeError as error:
        raise ConfigError([Problem("--class-names", f"must be UTF-8 text, got {path}, which is not")]) from error
    if len(names) != num_classes:
        rule = f"must hold one line for each of {num_classes} classes, got {len(names)} in {path}"
        raise ConfigError([Problem("--class-names", rule)])
    return names


def _keep(made: _Import, cascade: Cascade, output: Path, tracking_uri: str | None) -> dict[str, str]:
    """The checkpoint folder, which appears last and whole, and the model; where they are, by what they are called."""
    output.parent.mkdir(parents=True, exist_ok=True)
    has = "the file's" if made.file.has_thresholds else "one exit for all images; the file has no thresholds"
    places = {"checkpoint": str(output), "thresholds": f"{output / THRESHOLDS} ({has})"}
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.", suffix=".partial") as scratch:
        folder = Path(scratch) / output.name
        state = TrainingState.create(made.recipe, steps_per_epoch=1, device=torch.device("cpu"))
        state.model.load_state_dict(cascade.state_dict())
        save_checkpoint(folder, state, made.recipe)
        text = json.dumps(made.thresholds.to_dict(), indent=1, allow_nan=False)
        (folder / THRESHOLDS).write_text(text + "\n", encoding="utf-8")
        if tracking_uri is not None:
            record, model = _register(made, folder, tracking_uri)
            places["MLflow run"] = f"{record.run_id} at {record.address}"
            places["model"] = f"{model.registered_name} version {model.version}, alias candidate"
            places["see it"] = page_command(record)
        else:
            places["model"] = "not registered (without --register)"
        folder.rename(output)
    return places


def _register(made: _Import, folder: Path, tracking_uri: str) -> tuple[RunRecord, ModelRecord]:
    tags = {
        "imported.file": made.file.path.name,
        "imported.sha256": made.file.sha256,
        "imported.variant": published_variant(made.recipe.cascade),
    }
    checkpoint = load_checkpoint(folder)
    channels = made.recipe.cascade.in_chans
    record = open_run(made.recipe, tracking_uri=tracking_uri, run_name=made.recipe.name, tags=tags)
    with closed_as_it_ends(record):
        content = ModelContent(
            recipe=made.recipe,
            weights=checkpoint.weights,
            step=checkpoint.step,
            thresholds=made.thresholds,
            report=None,
            published_top1=made.top1,
            class_names=made.class_names,
            mean=MEAN[channels],
            std=STD[channels],
        )
        model = log_and_register_model(record, content, registered_name=f"dvt-{made.recipe.name}")
    return record, model
