"""However often a run is interrupted, it ends with the same weights, averages and moments, bit for bit."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import dvt
from dvt.config import AugmentConfig, Recipe
from dvt.data import OnDevice, train_batches
from dvt.train.checkpoint import EMA, MODEL, load_checkpoint, save_checkpoint
from dvt.train.state import TrainingState
from dvt.train.step import Stepper, StepSums
from tests.resume.runs import (
    EPOCHS,
    RECIPE,
    STEPS_PER_EPOCH,
    FailingReporter,
    attempt,
    interrupt,
    open_images,
    outcome,
)
from tests.unit.train.tiny import CPU, MemoryReporter, change, is_equal

STEPS = STEPS_PER_EPOCH * EPOCHS
ROOT = Path(__file__).parents[2]
OF_THE_MACHINE = ("train/images_per_s", "train/data_wait_s", "train/elapsed_s", "system/")


def measured(*reporters: MemoryReporter) -> dict[int, Mapping[str, float]]:
    """What was told of each step, the newest telling last, without what is the machine's."""
    rows = [row for reporter in reporters for row in reporter.rows]
    return {
        row.step: {name: value for name, value in row.metrics.items() if not name.startswith(OF_THE_MACHINE)}
        for row in rows
    }


@pytest.fixture(scope="module")
def at_once(tmp_path_factory: pytest.TempPathFactory) -> MemoryReporter:
    """The run that nothing interrupts."""
    reporter = MemoryReporter(tmp_path_factory.mktemp("at_once"))
    assert attempt(RECIPE, reporter)
    assert [row.step for row in reporter.rows] == list(range(1, STEPS + 1))
    return reporter


def test_the_run_is_one_that_draws_and_changes_everything(at_once: MemoryReporter) -> None:
    end, checkpoint = outcome(at_once.folder), load_checkpoint(at_once.folder / f"checkpoint_{STEPS:06d}")
    assert sorted(end) == [EMA, MODEL, "optimizer", "step"]
    assert end["step"] == STEPS
    assert end[MODEL] != end[EMA]
    assert {int(moments["step"]) for moments in checkpoint.optimizer["state"].values()} == {STEPS}
    others: list[dict[str, dict[str, Any]]] = [
        {"cascade": {"drop_path": 0.39}},
        {"data": {"augment": AugmentConfig(mixup=0.7)}},
    ]
    for index, parts in enumerate(others):
        reporter = MemoryReporter(at_once.folder.with_name(f"other_{index}"))
        assert attempt(change(RECIPE, **parts), reporter)
        assert outcome(reporter.folder)[MODEL] != end[MODEL], parts


def test_the_same_run_again_is_the_same(at_once: MemoryReporter, tmp_path: Path) -> None:
    reporter = MemoryReporter(tmp_path)
    assert attempt(RECIPE, reporter)
    assert is_equal(outcome(tmp_path), outcome(at_once.folder))


def test_interrupted_after_every_epoch(at_once: MemoryReporter, tmp_path: Path) -> None:
    tries = []
    for epoch in range(1, EPOCHS + 1):
        tries.append(FailingReporter(tmp_path, at_step=epoch * STEPS_PER_EPOCH, is_kept=True, end=interrupt))
        assert not attempt(RECIPE, tries[-1])
    assert attempt(RECIPE, MemoryReporter(tmp_path))  # nothing is left to do
    assert [[row.step for row in each.rows] for each in tries] == [
        list(range(first, first + STEPS_PER_EPOCH)) for first in range(1, STEPS, STEPS_PER_EPOCH)
    ]
    assert is_equal(outcome(tmp_path), outcome(at_once.folder))
    assert measured(*tries) == measured(at_once)


@pytest.mark.parametrize("within", [1, STEPS_PER_EPOCH])
def test_interrupted_by_the_reporter_within_every_epoch(at_once: MemoryReporter, tmp_path: Path, within: int) -> None:
    """The last is after the epoch's last step and before its checkpoint is kept."""
    tries: list[MemoryReporter] = []
    for epoch in range(EPOCHS):
        tries.append(FailingReporter(tmp_path, at_step=epoch * STEPS_PER_EPOCH + within, end=interrupt))
        assert not attempt(RECIPE, tries[-1])
        tries.append(FailingReporter(tmp_path, at_step=(epoch + 1) * STEPS_PER_EPOCH, is_kept=True, end=interrupt))
        assert not attempt(RECIPE, tries[-1])
    assert is_equal(outcome(tmp_path), outcome(at_once.folder))
    assert measured(*tries) == measured(at_once)


@pytest.mark.parametrize("reads", [0, 7, 8, 19])
def test_interrupted_while_reading(at_once: MemoryReporter, tmp_path: Path, reads: int) -> None:
    first, second = MemoryReporter(tmp_path), MemoryReporter(tmp_path)
    assert not attempt(RECIPE, first, reads_left=reads)
    assert attempt(RECIPE, second)
    assert is_equal(outcome(tmp_path), outcome(at_once.folder))
    assert measured(first, second) == measured(at_once)


def test_killed_in_another_process(at_once: MemoryReporter, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(dvt.__file__).parent.parent)}
    command = [sys.executable, "-m", "tests.resume.runs", str(tmp_path), str(STEPS_PER_EPOCH + 3)]
    ended = subprocess.run(command, cwd=ROOT, env=environment, timeout=120, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint_000004"]
    reporter = MemoryReporter(tmp_path)
    assert attempt(RECIPE, reporter)
    assert [row.step for row in reporter.rows] == list(range(STEPS_PER_EPOCH + 1, STEPS + 1))
    assert is_equal(outcome(tmp_path), outcome(at_once.folder))


@pytest.mark.parametrize("steps", [1, 3, 6])
def test_a_checkpoint_from_within_an_epoch(at_once: MemoryReporter, tmp_path: Path, steps: int) -> None:
    train_by_hand(RECIPE, steps, tmp_path / f"checkpoint_{steps:06d}")
    reporter = MemoryReporter(tmp_path)
    assert attempt(RECIPE, reporter)
    assert [row.step for row in reporter.rows] == list(range(steps + 1, STEPS + 1))
    assert is_equal(outcome(tmp_path), outcome(at_once.folder))


def train_by_hand(recipe: Recipe, steps: int, folder: Path) -> None:
    """Take the first steps without the loop, which keeps checkpoints at the end of epochs only."""
    state = TrainingState.create(recipe, STEPS_PER_EPOCH, CPU)
    on_device = OnDevice(recipe.data.augment, recipe.loss, recipe.cascade.num_classes, (0.0,), (1.0,))
    stepper = Stepper(recipe, state.model.train(), state, on_device, CPU, 0)
    for step in range(steps):
        batches = train_batches(
            open_images(recipe),
            epoch=step // STEPS_PER_EPOCH,
            seen_images=step % STEPS_PER_EPOCH * 2 * recipe.train.micro_batch_size,
            rank=0,
            world_size=1,
            batch_size=recipe.train.micro_batch_size,
            seed=recipe.train.seed,
            num_workers=0,
        )
        stepper.step([next(batches), next(batches)], StepSums.zeros(recipe.cascade.num_exits, CPU))
    save_checkpoint(folder, state, recipe)


@pytest.mark.parametrize(
    "parts",
    [
        {"train": {"ema_decay": None}},
        {"optimizer": {"name": "sgd"}},
        {"cascade": {"family": "t2t_vit"}},
        {"cascade": {"stages": RECIPE.cascade.stages[:1]}},
        {"train": {"backbone_epochs": 1}},
    ],
    ids=["no average", "sgd", "t2t_vit", "one stage", "backbone first"],
)
def test_other_recipes(tmp_path: Path, parts: dict[str, dict[str, Any]]) -> None:
    recipe = change(change(RECIPE, optimizer={"epochs": 1}), **parts)
    assert attempt(recipe, MemoryReporter(tmp_path / "at_once"))
    for step in (1, STEPS_PER_EPOCH + 2):
        assert not attempt(recipe, FailingReporter(tmp_path / "again", at_step=step, end=interrupt))
    assert attempt(recipe, MemoryReporter(tmp_path / "again"))
    assert is_equal(outcome(tmp_path / "again"), outcome(tmp_path / "at_once"))
