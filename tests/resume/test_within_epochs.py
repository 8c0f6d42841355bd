"""Checkpoints within epochs: a run goes on at any step with the images that would have followed."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dvt
from dvt.data.order import EXACT, TrainOrder
from dvt.train.checkpoint import STATE, load_checkpoint
from dvt.train.loop import train_cascade
from tests.resume.runs import RECIPE, FailingReporter, Interruption, attempt, interrupt, outcome
from tests.resume.test_resume import ROOT, measured
from tests.unit.train.tiny import WORKER, MemoryImages, MemoryReporter, change, is_equal, make_data

OFTEN = change(RECIPE, train={"checkpoint_every_steps": 3, "log_every_steps": 100}, optimizer={"epochs": 1})


@pytest.mark.parametrize("loader_workers", [0, 2])
def test_interrupted_within_an_epoch_after_a_checkpoint(tmp_path: Path, loader_workers: int) -> None:
    recipe = change(OFTEN, data={"loader_workers": loader_workers})
    whole = MemoryReporter(tmp_path / "at_once")
    assert attempt(recipe, whole)
    assert [(row.step, row.has_checkpoint) for row in whole.rows] == [(3, True), (4, True), (6, True), (8, True)]
    tries = [FailingReporter(tmp_path / "again", at_step=step, is_kept=True, end=interrupt) for step in (3, 6)]
    for each in tries:
        assert not attempt(recipe, each)
    last = MemoryReporter(tmp_path / "again")
    assert attempt(recipe, last)
    assert [[row.step for row in each.rows] for each in (*tries, last)] == [[3], [4, 6], [8]]
    assert is_equal(outcome(tmp_path / "again"), outcome(tmp_path / "at_once"))
    assert measured(*tries, last) == measured(whole)


def test_killed_within_an_epoch_after_a_checkpoint_there(tmp_path: Path) -> None:
    recipe = change(RECIPE, train={"checkpoint_every_steps": 3})
    assert attempt(recipe, MemoryReporter(tmp_path / "at_once"))
    environment = {**os.environ, "PYTHONPATH": str(Path(dvt.__file__).parent.parent)}
    command = [sys.executable, "-m", "tests.resume.runs", str(tmp_path / "again"), "7", "3"]
    ended = subprocess.run(command, cwd=ROOT, env=environment, timeout=120, check=False)
    assert ended.returncode == -signal.SIGKILL
    last = MemoryReporter(tmp_path / "again")
    assert attempt(recipe, last)
    assert [row.step for row in last.rows] == [7, 8, 9, 10, 11, 12]  # from the checkpoint within the second epoch
    assert is_equal(outcome(tmp_path / "again"), outcome(tmp_path / "at_once"))


def test_a_checkpoint_without_a_position_goes_by_its_step(tmp_path: Path) -> None:
    whole = MemoryReporter(tmp_path / "at_once")
    assert attempt(OFTEN, whole)
    again = MemoryReporter(tmp_path / "again")
    again.folder.mkdir()
    kept = whole.folder / "checkpoint_000006"
    assert load_checkpoint(kept).position is not None
    older = kept.rename(again.folder / kept.name)
    content = torch.load(older / STATE, weights_only=True)
    assert content.pop("position") == {"epoch": 1, "images": 16, "skipped": []}
    torch.save(content, older / STATE)
    assert attempt(OFTEN, again)
    assert [row.step for row in again.rows] == [8]
    assert is_equal(outcome(again.folder), outcome(whole.folder))


def test_interrupted_where_images_of_shards_are_mixed_in_a_window(tmp_path: Path) -> None:
    """Sets in memory with blocks of seven images, as of shards."""
    data = replace(make_data(num_train=36), train_order=TrainOrder(np.arange(36) // 7, window=10))
    train_cascade(OFTEN, data, WORKER, MemoryReporter(tmp_path / "at_once"))
    for step in (3, 6):
        with pytest.raises(Interruption):
            train_cascade(
                OFTEN, data, WORKER, FailingReporter(tmp_path / "again", at_step=step, is_kept=True, end=interrupt)
            )
    train_cascade(OFTEN, data, WORKER, MemoryReporter(tmp_path / "again"))
    assert is_equal(outcome(tmp_path / "again"), outcome(tmp_path / "at_once"))
    train_cascade(OFTEN, replace(data, train_order=EXACT), WORKER, MemoryReporter(tmp_path / "exact"))
    assert not is_equal(outcome(tmp_path / "exact"), outcome(tmp_path / "at_once"))


@dataclass(frozen=True)
class NotedImages(MemoryImages):
    """Notes which images were read in which epoch."""

    seen: list[tuple[int, int]] = field(default_factory=list)

    def read(self, indices: Any, *, epoch: int = 0, seed: int = 0) -> Any:
        self.seen.extend((epoch, index) for index in indices)
        return super().read(indices, epoch=epoch, seed=seed)


@dataclass
class TakingUp(MemoryReporter):
    """Goes on from a checkpoint that another reporter kept."""

    start: Path | None = None

    @contextmanager
    def latest(self) -> Iterator[Path | None]:
        yield self.start


@pytest.mark.parametrize(
    ("changes", "left_out"),
    [
        ({"grad_accum_steps": 1}, 0),  # the 16 images that are left are four steps of 4
        ({"micro_batch_size": 6, "grad_accum_steps": 1}, 4),  # two steps of 6
        ({"micro_batch_size": 10}, 16),  # no step of 20
    ],
)
def test_steps_of_another_size_take_up_the_images_that_are_left(
    tmp_path: Path, changes: dict[str, int], left_out: int
) -> None:
    """Of the 40 images of the first epoch three steps of 8 were trained on."""
    data, seen = make_data(num_train=40), list[tuple[int, int]]()
    assert isinstance(data.train, MemoryImages)
    data = replace(data, train=NotedImages(data.train.images, data.train.labels, seen=seen))
    first = FailingReporter(tmp_path / "first", at_step=3, is_kept=True, end=interrupt)
    with pytest.raises(Interruption):
        train_cascade(OFTEN, data, WORKER, first)
    assert len(seen) == 24
    second = TakingUp(tmp_path / "second", start=tmp_path / "first" / "checkpoint_000003")
    train_cascade(change(OFTEN, train=changes), data, WORKER, second)
    of_first = [index for epoch, index in seen if epoch == 0]
    size = changes.get("micro_batch_size", 4) * changes.get("grad_accum_steps", 2)
    used = of_first[: 40 - left_out]  # more may be read than fill a step
    assert len(set(of_first)) == len(of_first)
    assert len(used) == 40 - left_out
    ends = [row for row in second.rows if "epoch" in row.metrics]
    assert [row.step for row in ends] == [3 + 16 // size, 3 + 16 // size + 40 // size]
    assert ends[-1].metrics["train/lr"] == pytest.approx(OFTEN.optimizer.min_lr)  # the schedule went by epochs
