"""Rows of steps whose loss is no number, and checkpoints: what a run that they ended goes on from."""

import math
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pytest

import dvt.train.step
from dvt.train.checkpoint import load_checkpoint, load_model
from dvt.train.errors import TrainingError
from dvt.train.loop import train_cascade
from dvt.train.losses import Loss, cascade_loss
from dvt.train.notice import Order
from dvt.train.worker import Worker
from tests.unit.train.tiny import CPU, RECIPE, WORKER, MemoryReporter, change, is_equal, make_data

EVERY = change(RECIPE, train={"checkpoint_every_steps": 2, "log_every_steps": 3})  # twelve steps in two epochs


def run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, bad: Collection[int] = (), limit: int = 10, worker: Worker = WORKER
) -> MemoryReporter:
    """Train where the losses of the steps in `bad`, from 1, are NaN."""
    reporter = MemoryReporter(folder)
    with reporter.latest() as latest:
        step = load_checkpoint(latest).step if latest is not None else 0

    def loss_of(*told: object) -> Loss:
        nonlocal step
        step += 1
        loss = cascade_loss(*told)  # type: ignore[arg-type]  # whatever the step gives
        return replace(loss, total=loss.total * math.nan) if step in bad else loss

    with monkeypatch.context() as patch:
        patch.setattr(dvt.train.step, "cascade_loss", loss_of)
        train_cascade(change(EVERY, train={"max_skipped_steps": limit}), make_data(), worker, reporter)
    return reporter


def checkpoints(folder: Path) -> list[int]:
    return [load_checkpoint(each).step for each in sorted(folder.glob("checkpoint_*"))]


@pytest.mark.parametrize(
    ("bad", "steps"),
    [
        ((), [2, 4, 6, 8, 10, 12]),
        ((3,), [2, 4, 6, 8, 10, 12]),
        ((2,), [3, 4, 6, 8, 10, 12]),
        ((2, 3, 4), [5, 6, 8, 10, 12]),
        ((3, 4, 5, 6, 7), [2, 6, 8, 10, 12]),  # an epoch's end waits for nothing
        ((10, 11, 12), [2, 4, 6, 8, 12]),
    ],
)
def test_a_checkpoint_waits_for_the_end_of_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: Collection[int], steps: list[int]
) -> None:
    run(tmp_path, monkeypatch, bad)
    assert checkpoints(tmp_path) == steps


def test_a_run_that_a_row_ended_loses_no_step_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TrainingError, match="up to step 10;"):
        run(tmp_path / "ended", monkeypatch, bad=range(8, 99), limit=2)
    assert checkpoints(tmp_path / "ended") == [2, 4, 6]
    assert run(tmp_path / "ended", monkeypatch).rows[0].step == 8
    run(tmp_path / "whole", monkeypatch)
    ended, whole = (load_model(tmp_path / name / "checkpoint_000012") for name in ("ended", "whole"))
    assert is_equal(ended.state_dict(), whole.state_dict())


def test_on_notice_a_checkpoint_waits_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Ending:
        def after(self, step: int) -> Order:
            return Order.STOP if step == 5 else Order.GO_ON

    run(tmp_path, monkeypatch, bad=range(4, 99), worker=Worker(CPU, notice=Ending()))
    assert checkpoints(tmp_path) == [2, 5]
