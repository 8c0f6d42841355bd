"""What candidate and champion make of the same test images, each by its own thresholds and its own confidence.

The images are those of the candidate's recipe, in one order for both; how a file becomes an image of the model's size
is each model's own, as it is where it serves.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from dvt.cli.scoring_shown import scoring_shown
from dvt.config import CascadeConfig, ConfigError, DataConfig, Problem
from dvt.data import DataError, DataSets, ImageSet, open_data
from dvt.data.image_set import FileImages
from dvt.exits import Confidence, ExitScores, Thresholds, measure_point
from dvt.exits.gate import Contestant, compare_at_budgets
from dvt.inference import Budget, thresholds_within
from dvt.models import macs_per_exit
from dvt.serving.model import OpenedModel, open_model
from dvt.tracking import TrackingError
from dvt.tracking.promotion import Grounds
from dvt.tracking.verdict import Verdict, verdict_alone, verdict_beside
from dvt.tracking.version_recipe import recipe_of_version
from dvt.train.evaluate import score_with_labels

_DIGEST = 12  # characters of the test images' fingerprint that a verdict tells


@dataclass(frozen=True)
class _Version:
    """A registered version, opened."""

    number: str
    model: OpenedModel
    confidence: Confidence  # what its thresholds are of
    macs: tuple[float, ...]  # (E,)
    thresholds: tuple[Thresholds, ...]  # one vector a budget

    @property
    def config(self) -> CascadeConfig:
        """Its cascade's."""
        return self.model.cascade.config


def measured_verdict(
    uri: str, grounds: Grounds, budgets: Sequence[float], margin: float, overrides: Sequence[str], console: Console
) -> Verdict:
    """Measure both versions, or the candidate alone where there is no champion, and judge.

    Args:
        uri: The tracking address.
        grounds: Which versions.
        budgets: Mean multiply-adds an image.
        margin: Accuracy that the candidate may lose where it is cheaper, from 0 to 1.
        overrides: Words that say where the images are, such as `--data.root FOLDER`.
        console: Where a person reads along.

    Raises:
        ConfigError: If a budget is out of a model's range, or the test images are not here.
        DataError: If they cannot be used.
        TrackingError: If a version cannot be had, or the two are not for the same images.
    """
    recipe = recipe_of_version(uri, grounds.name, grounds.candidate, overrides)
    numbers = [grounds.candidate, *([] if grounds.champion is None else [grounds.champion])]
    versions = _opened(uri, grounds.name, numbers, budgets)
    candidate = versions[0]
    data = open_images(recipe.data, candidate.config)
    _check_same_data(grounds.name, versions, data, recipe.data)
    asked = [_asked(version, data, recipe.data, console) for version in versions]
    if any(not np.array_equal(labels, asked[0][1]) for _, labels in asked):
        raise DataError(f"{_told(recipe.data)} must stay as it is while it is scored, got other labels; try again")
    contestants = [
        Contestant(scores, version.macs, version.thresholds)
        for (scores, _), version in zip(asked, versions, strict=True)
    ]
    num_images, told = len(data.test), f"{_told(recipe.data)}, digest {data.test.fingerprint()[:_DIGEST]}"
    if grounds.champion is None:
        (alone,) = contestants
        points = [measure_point(alone.scores, alone.macs, thresholds) for thresholds in alone.thresholds]
        return verdict_alone(points, num_images=num_images, data=told)
    comparisons = compare_at_budgets(contestants[0], contestants[1], budgets)
    return verdict_beside(comparisons, margin=margin, num_images=num_images, data=told)


def _opened(uri: str, name: str, numbers: Sequence[str], budgets: Sequence[float]) -> list[_Version]:
    """The versions with their thresholds; every budget that one of them cannot keep is told."""
    versions, problems = [], []
    for number in numbers:
        model = open_model(f"models:/{name}/{number}", uri)
        table = model.thresholds
        if table is None:
            raise TrackingError(
                f"version {number} of {name} must have thresholds, got none; register it with dvt register"
            )
        macs = tuple(map(float, macs_per_exit(model.cascade.config)))
        thresholds = []
        for budget in budgets:
            try:
                thresholds.append(thresholds_within(Budget(budget_macs=budget), table, macs))
            except ConfigError as error:
                problems += [Problem("--budget-macs", f"{each.rule}, of version {number}") for each in error.problems]
        versions.append(_Version(number, model, table.confidence, macs, tuple(thresholds)))
    if problems:
        raise ConfigError(problems)
    return versions


def open_images(config: DataConfig, cascade: CascadeConfig) -> DataSets:
    """Open a recipe's images where they are here.

    Args:
        config: Where they are.
        cascade: The model that they are for.

    Raises:
        ConfigError: If they are not there; says how to tell where they are.
        DataError: If they cannot be used.
    """
    try:
        return open_data(config, cascade)
    except ConfigError as error:
        raise ConfigError(
            replace(problem, rule=f"{problem.rule}; tell where they are with --data.root FOLDER")
            if problem.path == "data.root"
            else problem
            for problem in error.problems
        ) from error


def _check_same_data(name: str, versions: Sequence[_Version], data: DataSets, config: DataConfig) -> None:
    for version in versions:
        expected = data.class_names
        if version.model.class_names != expected:
            raise TrackingError(
                f"version {version.number} of {name} must tell the classes of {_told(config)}, got "
                f"{_difference(version.model.class_names, expected)}; two models of other data cannot be compared"
            )
    sizes = sorted({version.config.image_size for version in versions})
    if config.source == "embedded" and len(sizes) > 1:
        told = " and ".join(map(str, sizes))
        raise TrackingError(
            f"both versions of {name} must take embedded scenes of one size, got {told} pixels; scenes of two sizes "
            "are not the same images"
        )


def _difference(found: Sequence[str], expected: Sequence[str]) -> str:
    if len(found) != len(expected):
        return f"{len(found)} classes instead of {len(expected)}"
    index = next(place for place, pair in enumerate(zip(found, expected, strict=True)) if pair[0] != pair[1])
    return f"{found[index]!r} instead of {expected[index]!r} as class {index}"


def _asked(
    version: _Version, data: DataSets, config: DataConfig, console: Console
) -> tuple[ExitScores, NDArray[np.int64]]:
    """Scores of the test images and their labels."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = f"version {version.number}'s test"
    with scoring_shown(console, name, len(data.test)) as on_batch:
        return score_with_labels(
            version.model.cascade.to(device),
            _prepared(version, data.test),
            config,
            device,
            confidence=version.confidence,
            on_batch=on_batch,
        )


def _prepared(version: _Version, images: ImageSet) -> ImageSet:
    """The images as this model takes them; scenes need no preparing."""
    if not isinstance(images, FileImages):
        return images
    return replace(images, transform=version.model.transform, cascade=version.config)


def _told(config: DataConfig) -> str:
    return f"embedded scenes, seed {config.seed}" if config.source == "embedded" else f"{config.root}/val"
