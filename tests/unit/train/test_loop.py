"""The loop: what it reports and when, and every way in which it ends."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dvt.config import AugmentConfig, ConfigError, Recipe
from dvt.data import DataError, DataSets, derive_seed
from dvt.models import Cascade
from dvt.train.checkpoint import MODEL, load_checkpoint, load_model, save_checkpoint
from dvt.train.errors import CheckpointError, TrainingError
from dvt.train.loop import BEST_METRIC, count_steps_per_epoch, train_cascade
from dvt.train.losses import cascade_loss
from dvt.train.state import TrainingState
from dvt.train.worker import Worker
from tests.unit.train.tiny import (
    CASCADE,
    CPU,
    RECIPE,
    WORKER,
    MemoryImages,
    MemoryReporter,
    change,
    is_equal,
    make_data,
)

TRAINED = {
    "train/loss",
    "train/lr",
    "train/images_per_s",
    "train/data_wait_s",
    "train/elapsed_s",
    "system/node_0/cpu_utilization_percentage",
    "system/node_0/system_memory_usage_megabytes",
    "system/node_0/system_memory_usage_percentage",
    "train/exit_1/loss",
    "train/exit_2/loss",
    "train/exit_1/top1",
    "train/exit_2/top1",
    "data/skipped_images",
    "train/num_workers",
    "train/skipped_steps",
}
MEASURED = {"calibration/exit_1/top1", "calibration/exit_2/top1", "calibration/top1_mean", "epoch"}


def run(recipe: Recipe, folder: Path, data: DataSets | None = None) -> MemoryReporter:
    """Six steps an epoch of RECIPE, two epochs."""
    reporter = MemoryReporter(folder)
    train_cascade(recipe, data or make_data(), WORKER, reporter)
    return reporter


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> MemoryReporter:
    return run(RECIPE, tmp_path_factory.mktemp("ran"))


def fails(error: type[Exception], action: Callable[[], object]) -> str:
    with pytest.raises(error) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_rows_every_few_steps_and_at_the_end_of_an_epoch(ran: MemoryReporter) -> None:
    assert [row.step for row in ran.rows] == [2, 4, 6, 8, 10, 12]
    for row in ran.rows:
        assert set(row.metrics) == (TRAINED | MEASURED if row.step % 6 == 0 else TRAINED)
        assert all(math.isfinite(value) for value in row.metrics.values())
    assert [row.metrics["epoch"] for row in ran.rows if row.step % 6 == 0] == [1, 2]


@pytest.mark.parametrize(("every", "steps"), [(1, list(range(1, 13))), (4, [4, 6, 8, 12]), (100, [6, 12])])
def test_how_often_rows_come(tmp_path: Path, every: int, steps: list[int]) -> None:
    reporter = run(change(RECIPE, train={"log_every_steps": every}), tmp_path)
    assert [row.step for row in reporter.rows] == steps


def test_a_checkpoint_once_an_epoch(ran: MemoryReporter) -> None:
    assert [row.step for row in ran.rows if row.has_checkpoint] == [6, 12]
    checkpoints = sorted(ran.folder.iterdir())
    assert [load_checkpoint(folder).step for folder in checkpoints] == [6, 12]
    assert load_checkpoint(checkpoints[0]).recipe == RECIPE


def test_rows_say_what_the_steps_since_the_last_came_to(ran: MemoryReporter, tmp_path: Path) -> None:
    each = {row.step: row.metrics for row in run(change(RECIPE, train={"log_every_steps": 1}), tmp_path).rows}
    for row in ran.rows:
        two = [each[row.step - 1], each[row.step]]
        for name in ("train/loss", "train/exit_1/loss", "train/exit_2/loss", "train/exit_1/top1", "train/exit_2/top1"):
            assert row.metrics[name] == pytest.approx(sum(metrics[name] for metrics in two) / 2), name
        assert row.metrics["train/lr"] == two[1]["train/lr"]
        assert row.metrics["train/loss"] == pytest.approx(
            row.metrics["train/exit_1/loss"] + row.metrics["train/exit_2/loss"]
        )
        assert row.metrics["train/exit_1/top1"] * 8 == round(row.metrics["train/exit_1/top1"] * 8)  # of eight images


def test_rates_and_times(ran: MemoryReporter) -> None:
    for row in ran.rows:
        assert row.metrics["train/images_per_s"] > 0
        assert 0 <= row.metrics["train/data_wait_s"] < 8 / row.metrics["train/images_per_s"]


def test_the_averaged_model_is_measured_on_calibration_images(ran: MemoryReporter) -> None:
    images = make_data().calibration
    assert isinstance(images, MemoryImages)
    for row, folder in zip([row for row in ran.rows if row.has_checkpoint], sorted(ran.folder.iterdir()), strict=True):
        with torch.no_grad():
            predicted = load_model(folder)(images.images).argmax(dim=-1)
        top1 = (predicted == images.labels).double().mean(dim=1).tolist()
        assert [row.metrics[f"calibration/exit_{index}/top1"] for index in (1, 2)] == pytest.approx(top1)
        assert row.metrics[BEST_METRIC] == pytest.approx(sum(top1) / 2)


def test_the_test_images_are_not_touched(tmp_path: Path) -> None:
    data = make_data()
    object.__setattr__(data, "test", None)
    run(RECIPE, tmp_path, data)


@pytest.mark.parametrize("ema_decay", [0.9, None])
def test_the_model_trains_on_after_it_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ema_decay: float | None
) -> None:
    modes: list[bool] = []
    advance = TrainingState.advance

    def noted(state: TrainingState) -> None:
        modes.append(state.model.training)
        advance(state)

    monkeypatch.setattr(TrainingState, "advance", noted)
    run(change(RECIPE, train={"ema_decay": ema_decay, "log_every_steps": 100}), tmp_path, make_data(num_train=4))
    assert modes == [True, True]


def test_what_does_not_fill_a_step_is_left_out(tmp_path: Path) -> None:
    reporter = run(change(RECIPE, train={"grad_accum_steps": 4}), tmp_path)
    assert [row.step for row in reporter.rows] == [1, 2]


@pytest.mark.parametrize(("world_size", "most"), [(1, 6), (2, 3)])
def test_an_epoch_must_fill_a_step(tmp_path: Path, world_size: int, most: int) -> None:
    fits, asks_too_much = (change(RECIPE, train={"grad_accum_steps": most + more}) for more in (0, 1))
    assert count_steps_per_epoch(fits, 24, world_size) == 1
    message = (
        f"train.grad_accum_steps must be at most {most}, the micro-batches of each worker in an epoch, got {most + 1}"
    )
    reporter = MemoryReporter(tmp_path / "runs")
    worker = Worker(CPU, 0, world_size)
    assert fails(ConfigError, lambda: train_cascade(asks_too_much, make_data(), worker, reporter)) == message
    assert (reporter.rows, list(tmp_path.iterdir())) == ([], [])


def test_an_epoch_must_fill_a_batch(tmp_path: Path) -> None:
    told = fails(ConfigError, lambda: run(RECIPE, tmp_path, make_data(num_train=3)))
    assert told == "train.micro_batch_size must be at most 3 for 3 training images on 1 workers, got 4"


def told_of(limit: int, row: int, step: int, folder: Path) -> str:
    return (
        f"at most {limit} steps in a row may have a loss or gradients that are no numbers (train.max_skipped_steps), "
        f"got {row} up to step {step}; look at the last one in {folder}/not_finite_{step:09d}, and lower optimizer.lr, "
        f"set optimizer.clip_grad or mend the images"
    )


@pytest.mark.parametrize(("every", "limit", "step"), [(2, 0, 2), (4, 3, 4), (100, 5, 6), (1, 6, 7)])
def test_losses_that_are_no_numbers_end_a_run(tmp_path: Path, every: int, limit: int, step: int) -> None:
    data = make_data()
    assert isinstance(data.train, MemoryImages)
    data.train.images[:] = torch.nan
    recipe = change(RECIPE, train={"log_every_steps": every, "max_skipped_steps": limit, "grad_accum_steps": 2})
    recipe = change(recipe, train={"micro_batch_size": 2})
    assert fails(TrainingError, lambda: run(recipe, tmp_path, data)) == told_of(limit, step, step, tmp_path)
    place = tmp_path / f"not_finite_{step:09d}"
    assert sorted(path.name for path in place.iterdir()) == ["batch.json", "batch_rank_0000.safetensors", "checkpoint"]
    state = TrainingState.create(recipe, 6, CPU)  # no step changed it
    assert is_equal(load_model(place / "checkpoint").state_dict(), state.model.state_dict())
    assert load_checkpoint(place / "checkpoint").skipped_steps == (step, step)


def test_the_kept_batch_gives_the_loss_that_is_no_number_again(tmp_path: Path) -> None:
    weights = (3e38, 3e38)
    recipe = change(RECIPE, loss={"exit_weights": weights}, train={"log_every_steps": 3, "max_skipped_steps": 0})
    recipe = change(recipe, data={"augment": AugmentConfig(mixup=0.8, cutmix=1.0, mix_prob=1.0)})
    assert fails(TrainingError, lambda: run(recipe, tmp_path)) == told_of(0, 3, 3, tmp_path)
    place = tmp_path / "not_finite_000000003"
    kept, told = load_file(place / "batch_rank_0000.safetensors"), json.loads((place / "batch.json").read_text())
    assert sorted(kept) == ["images_0", "targets_0"]
    assert (told["step"], told["epoch"], told["world_size"]) == (2, 0, 1)
    (micro_batch,) = told["workers"]["0"]
    data = make_data()
    assert isinstance(data.train, MemoryImages)
    assert micro_batch["labels"] == data.train.labels[micro_batch["indices"]].tolist()
    assert micro_batch["seed"] == derive_seed(RECIPE.train.seed, 2, 0, 0)
    model = load_model(place / "checkpoint").train()
    torch.manual_seed(micro_batch["seed"])
    loss = cascade_loss(model(kept["images_0"]), kept["targets_0"], recipe.loss)
    assert loss.total.isinf()


def test_a_single_bad_image_costs_its_step_in_each_epoch(tmp_path: Path) -> None:
    data = make_data()
    assert isinstance(data.train, MemoryImages)
    data.train.images[7] = torch.nan
    rows = run(RECIPE, tmp_path, data).rows
    counts = [row.metrics["train/skipped_steps"] for row in rows]
    assert (counts[2], counts[5]) == (1, 2)
    assert counts == sorted(counts)
    assert all(math.isfinite(value) for row in rows for value in row.metrics.values())
    assert load_checkpoint(tmp_path / "checkpoint_000012").skipped_steps[0] == 2


def test_where_no_step_of_a_row_counts_there_is_no_loss(tmp_path: Path) -> None:
    data = make_data()
    assert isinstance(data.train, MemoryImages)
    data.train.images[:] = torch.nan
    rows = run(change(RECIPE, train={"max_skipped_steps": 12}), tmp_path, data).rows
    assert [row.metrics["train/skipped_steps"] for row in rows] == [2, 4, 6, 8, 10, 12]
    assert not [name for row in rows for name in row.metrics if "loss" in name or name.startswith("train/exit")]


@pytest.mark.parametrize("most", [2, 6])
def test_one_worker_of_a_range_takes_the_steps_of_the_most(tmp_path: Path, most: int) -> None:
    """Of each step it takes all micro-batches, one after another."""
    ranged = change(RECIPE, cluster={"num_workers": (1, most)})
    fixed = change(RECIPE, train={"grad_accum_steps": most})
    for name, recipe in (("ranged", ranged), ("fixed", fixed)):
        reporter = run(recipe, tmp_path / name)
        assert [row.step for row in reporter.rows if row.has_checkpoint] == [6 // most, 12 // most]
    both = (load_model(tmp_path / name / f"checkpoint_{12 // most:06d}").state_dict() for name in ("ranged", "fixed"))
    assert is_equal(*both)


def test_a_model_that_diverges_in_the_last_step_of_an_epoch_is_not_kept(tmp_path: Path) -> None:
    recipe = change(RECIPE, optimizer={"lr": 1e30, "warmup_epochs": 0}, train={"grad_accum_steps": 6})
    told = fails(TrainingError, lambda: run(recipe, tmp_path))
    assert told == "the model must give finite logits, got others; lower optimizer.lr or set optimizer.clip_grad"
    assert list(tmp_path.iterdir()) == []


LARGE = change(RECIPE, train={"micro_batch_size": 100, "log_every_steps": 2})  # ten steps of a thousand images


def test_a_file_in_a_thousand_may_be_skipped_and_is_counted(tmp_path: Path) -> None:
    rows = run(LARGE, tmp_path, make_data(1000, skipped={3: "a.jpg"})).rows
    counts = {row.step: row.metrics["data/skipped_images"] for row in rows}
    assert all(row.metrics.get("data/skipped_images/corrupt", 0) == counts[row.step] for row in rows)
    for epoch in (0, 1):  # in each epoch none until it is met, then one
        of_epoch = [counts[10 * epoch + step] for step in (2, 4, 6, 8, 10)]
        assert of_epoch == sorted(of_epoch)
        assert set(of_epoch) <= {0, 1}
        assert of_epoch[-1] == 1


def test_more_skipped_files_are_an_error(tmp_path: Path) -> None:
    data = make_data(1000, skipped={3: "b.jpg", 500: "a.jpg", 700: "b.jpg"})
    assert fails(DataError, lambda: run(LARGE, tmp_path, data)) == (
        "2 of 1000 training images (0.20%) could not be read, more than the 0.1% that is let pass; "
        "the first is a.jpg; replace or remove them"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_calibration_image_that_cannot_be_read(tmp_path: Path) -> None:
    data = make_data()
    object.__setattr__(data, "calibration", MemoryImages.noise(12, 2, unreadable=frozenset({9})))
    assert fails(DataError, lambda: run(RECIPE, tmp_path, data)) == "image 9 cannot be read"
    assert list(tmp_path.iterdir()) == []


def test_a_finished_run_returns_at_once(ran: MemoryReporter, tmp_path: Path) -> None:
    shutil.copytree(ran.folder, tmp_path / "runs")
    data = make_data(unreadable=frozenset(range(24)))
    assert run(RECIPE, tmp_path / "runs", data).rows == []


def test_a_checkpoint_that_cannot_be_read_is_no_fresh_start(ran: MemoryReporter, tmp_path: Path) -> None:
    shutil.copytree(ran.folder, tmp_path / "runs")
    path = tmp_path / "runs" / "checkpoint_000012" / MODEL
    path.write_bytes(path.read_bytes()[:1000])
    told = fails(CheckpointError, lambda: run(RECIPE, tmp_path / "runs"))
    assert told == f"{path} must be as it was written, got other bytes; use another checkpoint"


STILL = {"lr": 1e-30, "warmup_lr": 0.0, "min_lr": 0.0}  # training that leaves weights as they are


@pytest.mark.parametrize("ema_decay", [0.9, None])
def test_a_run_may_start_from_anothers_weights(ran: MemoryReporter, tmp_path: Path, ema_decay: float | None) -> None:
    source = ran.folder / "checkpoint_000012"
    train = {"init_from": str(source), "seed": 9, "ema_decay": ema_decay}
    reporter = run(change(RECIPE, optimizer=STILL, train=train), tmp_path)
    found, expected = (load_model(folder).state_dict() for folder in (reporter.folder / "checkpoint_000012", source))
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-6, atol=1e-9, msg=name)


def test_going_on_comes_before_starting_from_anothers_weights(ran: MemoryReporter, tmp_path: Path) -> None:
    shutil.copytree(ran.folder / "checkpoint_000006", tmp_path / "runs" / "checkpoint_000006")
    recipe = change(RECIPE, train={"init_from": str(tmp_path / "gone")})
    reporter = run(recipe, tmp_path / "runs")
    assert [row.step for row in reporter.rows] == [8, 10, 12]
    found, expected = (load_model(path / "checkpoint_000012") for path in (reporter.folder, ran.folder))
    assert is_equal(found.state_dict(), expected.state_dict())


def test_weights_to_start_from_that_are_missing(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    recipe = change(RECIPE, train={"init_from": str(gone)})
    told = fails(CheckpointError, lambda: run(recipe, tmp_path / "runs"))
    assert told == f"{gone}/training_state.pt must be there, got no such file; use a complete checkpoint folder"


def test_a_run_whose_model_is_another(tmp_path: Path) -> None:
    other = change(RECIPE, cascade={"embed_dim": 32})
    (tmp_path / "runs").mkdir()
    save_checkpoint(tmp_path / "runs" / "checkpoint_000006", TrainingState.create(other, 6, CPU), other)
    told = fails(CheckpointError, lambda: run(RECIPE, tmp_path / "runs"))
    assert told == (
        f"checkpoint {tmp_path}/runs/checkpoint_000006 must have the recipe's cascade, got embed_dim 32 instead of "
        f"{CASCADE.embed_dim}; choose the recipe it was trained with"
    )


def test_scratch_space_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run(RECIPE, tmp_path / "runs")
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


@pytest.mark.parametrize("compiles", [True, False])
def test_stages_are_compiled_where_the_recipe_asks(
    compiles: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ran: MemoryReporter
) -> None:
    asked: list[Cascade] = []

    def compile_plainly(cascade: Cascade) -> None:
        asked.append(cascade)
        for stage in cascade.stages:
            stage.compile(backend="eager", disable=True)

    monkeypatch.setattr(Cascade, "compile_stages", compile_plainly)
    run(change(RECIPE, train={"compile": compiles}), tmp_path)
    assert len(asked) == compiles
    with ran.latest() as expected, MemoryReporter(tmp_path).latest() as folder:
        assert expected is not None
        assert folder is not None
        for name in (MODEL, "ema.safetensors"):
            assert (folder / name).read_bytes() == (expected / name).read_bytes()
