"""A run with notice of its end keeps a checkpoint after that very step, and goes on from there bit for bit."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from dvt.train.checkpoint import load_checkpoint
from dvt.train.loop import train_cascade
from dvt.train.notice import Order
from tests.resume.runs import RECIPE, STEPS_PER_EPOCH, open_images, outcome
from tests.resume.test_resume import STEPS
from tests.unit.train.tiny import WORKER, MemoryReporter, change, is_equal

QUIET = change(RECIPE, train={"log_every_steps": 100})


@dataclass(frozen=True)
class Told:
    """Gives an order after one step."""

    step: int
    order: Order

    def after(self, step: int) -> Order:
        return self.order if step == self.step else Order.GO_ON


@pytest.fixture(scope="module")
def at_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("at_once")
    train_cascade(QUIET, open_images(QUIET), WORKER, MemoryReporter(folder))
    return folder


@pytest.mark.parametrize("step", [1, STEPS_PER_EPOCH + 2, STEPS_PER_EPOCH, STEPS])
def test_stopped_and_run_again(at_once: Path, tmp_path: Path, step: int) -> None:
    first, second = MemoryReporter(tmp_path), MemoryReporter(tmp_path)
    train_cascade(QUIET, open_images(QUIET), replace(WORKER, notice=Told(step, Order.STOP)), first)
    assert (first.rows[-1].step, first.rows[-1].has_checkpoint) == (step, True)
    assert load_checkpoint(max(tmp_path.glob("checkpoint_*"))).step == step
    last = tmp_path / f"checkpoint_{step:06d}"
    if step % STEPS_PER_EPOCH == 0:  # the epoch's own checkpoint, with its accuracy, is of the same step
        last.rename(tmp_path / f"checkpoint_{step - 1:06d}")
    train_cascade(QUIET, open_images(QUIET), WORKER, second)
    assert is_equal(outcome(tmp_path), outcome(at_once))
    assert "calibration/top1_mean" in second.rows[-1].metrics


@pytest.mark.parametrize("step", [2, STEPS_PER_EPOCH])
def test_a_checkpoint_is_kept_and_training_goes_on(at_once: Path, tmp_path: Path, step: int) -> None:
    class Renaming(MemoryReporter):
        def report(self, metrics: object, step: int, checkpoint: Path | None) -> None:
            there = self.folder / f"checkpoint_{step:06d}"
            if there.exists():
                there.rename(self.folder / f"checkpoint_{step:06d}_before")
            super().report(metrics, step, checkpoint)  # type: ignore[arg-type]

    reporter = Renaming(tmp_path)
    train_cascade(QUIET, open_images(QUIET), replace(WORKER, notice=Told(step, Order.KEEP)), reporter)
    kept = [row.step for row in reporter.rows if row.has_checkpoint]
    assert kept == sorted([step, *range(STEPS_PER_EPOCH, STEPS + 1, STEPS_PER_EPOCH)])
    for path in tmp_path.glob("*_before"):
        path.rename(tmp_path / f"before_{path.name}")
    assert is_equal(outcome(tmp_path), outcome(at_once))
