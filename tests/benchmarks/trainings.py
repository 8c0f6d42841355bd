"""Trainings that a benchmark compares: each is done once, in this process, and kept as scores and a JSON beside them.

What is kept lies in one folder as `<arm>.s<seed>.json` (recipe, costs, accuracies) and `.npz` (the `ExitScores` of
calibration and test images), so that fronts can be drawn anew without training. One worker takes the batch of all the
recipe's workers together, so it takes their steps; the checkpoint is chosen as a run of the platform chooses it.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dvt.config import ExitsConfig, Recipe, StageConfig, load_recipe, recipe_from_dict, to_dict
from dvt.data import open_data
from dvt.exits import ExitScores
from dvt.models import macs_per_exit
from dvt.train.checkpoint import load_model
from dvt.train.evaluate import score_images
from dvt.train.loop import BEST_METRIC, train_cascade
from dvt.train.worker import Worker

EMBEDDED = Path(__file__).resolve().parents[2] / "jobs" / "recipes" / "embedded.yaml"
HEAD_DIM = 32
CPU = torch.device("cpu")

Changes = dict[str, dict[str, Any]]  # fields of sections of a recipe


@dataclass(frozen=True)
class Arm:
    """A model and a way to train it, under a name."""

    name: str
    changes: Changes = field(default_factory=dict)  # of `PAPER`
    static_grid: int | None = None  # one stage of this grid alone; None is the cascade
    width: int = 64

    def recipe(self, seed: int) -> Recipe:
        recipe = load_recipe(EMBEDDED)
        workers = recipe.cluster.num_workers
        alone: Changes = {
            "cluster": {"num_workers": 1},
            "train": {"micro_batch_size": recipe.train.micro_batch_size * workers, "seed": seed},
            "cascade": {"embed_dim": self.width, "num_heads": self.width // HEAD_DIM},
        }
        recipe = replace(recipe, name=self.name, exits=ExitsConfig())
        for changes in (PAPER, self.changes, alone):
            recipe = _change(recipe, changes)
        if self.static_grid is None:
            return recipe
        return _change(recipe, {"cascade": {"stages": (StageConfig(token_grid=self.static_grid),)}})


@dataclass(frozen=True)
class Trained:
    """What a training came to."""

    arm: str
    seed: int
    macs: tuple[float, ...]  # (E,), cumulative
    calibration: ExitScores
    test: ExitScores


# The paper's own way, whatever the recipe's has become: all arms start from it.
PAPER: Changes = {
    "cascade": {"feature_reuse_dim": 48, "feature_reuse_hidden_dim": 128},
    "loss": {"exit_weights": (), "distill_weight": 0.0, "distill_temperature": 1.0},
    "train": {"backbone_epochs": 0},
}


def is_trained(arm: Arm, seed: int, folder: Path) -> bool:
    """Whether the folder holds this training, of the recipe as it is now."""
    path = _place(arm, seed, folder)
    return path.exists() and recipe_from_dict(json.loads(path.read_text())["recipe"]) == arm.recipe(seed)


def trained(arm: Arm, seed: int, folder: Path) -> Trained:
    """The training of an arm with a seed: from the folder if it is there, else done now."""
    recipe, path = arm.recipe(seed), _place(arm, seed, folder)
    if not is_trained(arm, seed, folder):
        calibration, test = _train(recipe)
        arrays = {
            f"{part}_{name}": getattr(scores, name)
            for part, scores in (("calibration", calibration), ("test", test))
            for name in ("confidence", "correct")
        }
        folder.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path.with_suffix(".npz"), **arrays)
        kept = {
            "recipe": to_dict(recipe),
            "macs": macs_per_exit(recipe.cascade),
            "calibration_top1": calibration.top1,
            "test_top1": test.top1,
        }
        path.write_text(json.dumps(kept, indent=1))  # last: now the training is done
        _say(f"{arm.name}, seed {seed}: test top-1 {', '.join(f'{100 * top1:.2f}' for top1 in test.top1)} %")
    with np.load(path.with_suffix(".npz")) as arrays:
        calibration, test = (
            ExitScores(confidence=arrays[f"{part}_confidence"], correct=arrays[f"{part}_correct"])
            for part in ("calibration", "test")
        )
    return Trained(arm.name, seed, tuple(map(float, macs_per_exit(recipe.cascade))), calibration, test)


def _place(arm: Arm, seed: int, folder: Path) -> Path:
    return folder / f"{arm.name}.s{seed}.json"


class _BestKept:
    """A `Reporter` that starts anew and keeps the best checkpoint in a folder."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.best, self.value = name, folder / "best", -1.0

    @contextmanager
    def latest(self) -> Iterator[None]:
        yield None

    def report(self, metrics: Mapping[str, float], step: int, checkpoint: Path | None) -> None:
        if checkpoint is None:
            return
        exits = [f"{100 * value:.1f}" for name, value in metrics.items() if name.startswith("calibration/exit_")]
        _say(f"{self.name}: epoch {metrics['epoch']}, calibration top-1 {', '.join(exits)} %")
        if metrics[BEST_METRIC] > self.value:
            self.value = metrics[BEST_METRIC]
            shutil.rmtree(self.best, ignore_errors=True)
            shutil.copytree(checkpoint, self.best)

    def keep(self, folder: Path) -> str:
        return str(shutil.copytree(folder, self.best.with_name(folder.name)))


def _train(recipe: Recipe) -> tuple[ExitScores, ExitScores]:
    """Scores of calibration and test images by the best checkpoint."""
    data = open_data(recipe.data, recipe.cascade)
    with tempfile.TemporaryDirectory(prefix="dvt-") as scratch:
        reporter = _BestKept(f"{recipe.name}, seed {recipe.train.seed}", Path(scratch))
        train_cascade(recipe, data, Worker(CPU), reporter)
        model = load_model(reporter.best)
    calibration, test = (score_images(model, images, recipe.data, CPU) for images in (data.calibration, data.test))
    return calibration, test


def _change(recipe: Recipe, changes: Changes) -> Recipe:
    return replace(
        recipe, **{section: replace(getattr(recipe, section), **fields) for section, fields in changes.items()}
    )


def _say(text: str) -> None:
    print(text, flush=True)
