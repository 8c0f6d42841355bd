"""Twenty steps on the embedded data set give the losses that they gave before.

Whoever means to change the numbers (a loss, a schedule, an augmentation, an initialisation, an order) says so and
writes the file anew, from the root of the repository: `.venv/bin/python -m tests.golden.test_loss_curve`
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from dvt.config import DataConfig, LossConfig, OptimizerConfig, Recipe, TrainConfig
from dvt.data import open_data
from dvt.train.loop import train_cascade
from tests.unit.train.tiny import CASCADE, WORKER, change

FILE = Path(__file__).with_name("loss_curve.json")
RELATIVE = 2e-5  # a hundred times what other instructions (SSE instead of AVX-512) do to it
NAMES = ("train/loss", "train/exit_1/loss", "train/exit_2/loss", "train/lr")

# Everything on that a recipe may have on; ten steps an epoch.
RECIPE = change(
    Recipe(
        name="golden",
        cascade=CASCADE,
        data=DataConfig(
            source="embedded", train_images=160, calibration_images=20, loader_workers=0, eval_batch_size=20
        ),
        optimizer=OptimizerConfig(lr=2e-2, clip_grad=1.0, epochs=2, warmup_epochs=0.4, cooldown_epochs=0),
        loss=LossConfig(exit_weights=(0.5, 1.0), distill_weight=0.5, distill_temperature=2.0),
        train=TrainConfig(micro_batch_size=8, grad_accum_steps=2, amp="off", ema_decay=0.9, log_every_steps=1),
    ),
    cascade={"drop_path": 0.1},
)


class CurveReporter:
    """Keeps the losses, and no checkpoint."""

    def __init__(self) -> None:
        self.curve: dict[str, list[float]] = {name: [] for name in NAMES}

    @contextmanager
    def latest(self) -> Iterator[None]:
        yield None

    def report(self, metrics: Mapping[str, float], step: int, checkpoint: Path | None) -> None:
        for name, values in self.curve.items():
            values.append(float(f"{metrics[name]:.8g}"))

    def keep(self, folder: Path) -> str:
        raise AssertionError(f"{folder} is of a loss that is no number")


def draw_curve(recipe: Recipe = RECIPE) -> dict[str, list[float]]:
    """The losses of each step, in float32 on one thread."""
    reporter = CurveReporter()
    torch.set_num_threads(1)  # as a script too, where no conftest has done it
    train_cascade(recipe, open_data(recipe.data, recipe.cascade), WORKER, reporter)
    return reporter.curve


@pytest.fixture(scope="module")
def golden() -> dict[str, list[float]]:
    curve: dict[str, list[float]] = json.loads(FILE.read_text(encoding="utf-8"))
    return curve


def largest_change(curve: Mapping[str, list[float]], golden: Mapping[str, list[float]]) -> float:
    pairs = [pair for name in NAMES for pair in zip(curve[name], golden[name], strict=True)]
    return max(abs(value - kept) / abs(kept) for value, kept in pairs)


def test_the_loss_curve_is_what_it_was(golden: dict[str, list[float]]) -> None:
    curve = draw_curve()
    assert [len(values) for values in curve.values()] == [20] * len(NAMES)
    for name, values in curve.items():
        assert values == pytest.approx(golden[name], rel=RELATIVE), name


@pytest.mark.parametrize(
    "parts",
    [
        {"optimizer": {"weight_decay": 0.1}},
        {"loss": {"label_smoothing": 0.101}},
        {"cascade": {"norm_eps": 1e-4}},
    ],
    ids=["decay", "smoothing", "epsilon"],
)
def test_the_curve_tells_changes(golden: dict[str, list[float]], parts: dict[str, dict[str, Any]]) -> None:
    assert largest_change(draw_curve(change(RECIPE, **parts)), golden) > 2 * RELATIVE


if __name__ == "__main__":
    FILE.write_text(json.dumps(draw_curve(), indent=1) + "\n", encoding="utf-8")
