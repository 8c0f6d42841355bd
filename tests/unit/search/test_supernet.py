"""Training shared weights: which cascades a step trains, going on after an interruption, and what it refuses."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fsspec.implementations.local import LocalFileSystem

import dvt
from dvt.config import ConfigError
from dvt.data import DataSets
from dvt.exits import score_exits
from dvt.models import Cascade, macs_per_exit
from dvt.search.elastic import ElasticCascade
from dvt.search.inherited import (
    FirstImages,
    inherited_front,
    keep_inherited,
    read_inherited,
    save_inherited,
    score_inherited,
    start_inherited,
)
from dvt.search.objective import validation_front
from dvt.search.sandwich import Sandwich
from dvt.search.settings import SupernetConfig
from dvt.search.supernet import load_supernet, train_supernet
from dvt.train.checkpoint import read_tensors
from dvt.train.errors import CheckpointError, TrainingError
from dvt.train.folder_reporter import FolderReporter
from dvt.train.init_from import init_from
from dvt.train.loop import BEST_METRIC
from dvt.train.notice import NO_NOTICE, Notice, Order
from dvt.train.storage import RunFolder
from dvt.train.worker import Worker
from tests.unit.search import supernet_of_two
from tests.unit.search.made_up import embedded, epochs_of, front_of
from tests.unit.search.tiny import supernet_recipe, supernet_space
from tests.unit.train.tiny import CPU, MemoryImages, is_equal, make_data

CONFIG = SupernetConfig(num_random=1)
REPEATED = ("train/loss", "train/lr", "train/skipped_steps", "calibration/", "data/", "epoch")  # by each try alike
ROOT = Path(__file__).parents[3]


class InterruptedTrainingError(Exception):
    """What ends a training."""


class Rows(FolderReporter):
    """Keeps the metrics too, and ends the training after some steps."""

    def __init__(self, folder: Path, steps: int | None = None) -> None:
        kept = RunFolder(LocalFileSystem(), str(folder), folder.name)
        super().__init__(kept, self.note)
        self.folder = folder
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.steps = steps

    def note(self, metrics: Mapping[str, float], step: int) -> None:
        self.rows.append((step, {name: value for name, value in metrics.items() if name.startswith(REPEATED)}))

    @property
    def newest(self) -> Path | None:
        return max((self.folder / "checkpoints").glob("*"), default=None)

    def report(self, metrics: Mapping[str, float], step: int, checkpoint: Path | None) -> None:
        super().report(metrics, step, checkpoint)
        if step == self.steps and checkpoint is not None:
            raise InterruptedTrainingError


def train(
    folder: Path,
    config: SupernetConfig = CONFIG,
    steps: int | None = None,
    data: DataSets | None = None,
    notice: Notice = NO_NOTICE,
    **changes: Any,
) -> Rows:
    of = supernet_space()
    reporter = Rows(folder, steps)
    recipe, worker = supernet_recipe(of, **changes), Worker(CPU, notice=notice)
    train_supernet(recipe, data or make_data(), worker, reporter, space=of, config=config)
    return reporter


def require_same_weights(one: Rows, other: Rows) -> None:
    assert one.newest is not None
    assert other.newest is not None
    for name in ("model.safetensors", "ema.safetensors"):
        assert is_equal(read_tensors(one.newest / name), read_tensors(other.newest / name))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    return train(tmp_path_factory.mktemp("whole"))


def test_a_sandwich_holds_the_dearest_the_cheapest_and_random_ones() -> None:
    of = supernet_space()
    sandwich = Sandwich.of(of, num_random=3, seed=1)
    first, *drawn, last = sandwich.of_step(0)
    assert (first, last) == (of.dearest(), of.cheapest())
    assert len(drawn) == 3
    assert sandwich.of_step(0) == [first, *drawn, last]
    assert sandwich.of_step(1) != [first, *drawn, last]
    assert Sandwich.of(of, num_random=3, seed=2).of_step(0) != [first, *drawn, last]
    assert set(drawn) <= set(of.legal_cascades())


def test_only_the_newest_checkpoint_is_kept_and_epochs_are_told(whole: Rows) -> None:
    assert [path.name for path in (whole.folder / "checkpoints").iterdir()] == ["000000006"]
    assert [step for step, _ in whole.rows] == [1, 2, 3, 4, 5, 6]
    measured = [metrics for _, metrics in whole.rows if "epoch" in metrics]
    assert [metrics["epoch"] for metrics in measured] == [1, 2, 3]
    top1 = [value for name, value in measured[-1].items() if name.startswith("calibration/") and "exit" in name]
    assert measured[-1][BEST_METRIC] == pytest.approx(sum(top1) / len(top1))
    assert "train/loss" in whole.rows[0][1]


@pytest.mark.parametrize("step", [1, 2, 3])
def test_going_on_gives_the_same_weights_bit_for_bit(whole: Rows, tmp_path: Path, step: int) -> None:
    """At the end of an epoch, of two steps, and within the first and the second one."""
    with pytest.raises(InterruptedTrainingError):
        train(tmp_path, steps=step, checkpoint_every_steps=1)
    torch.manual_seed(99)  # whatever the second process has drawn
    resumed = train(tmp_path)
    assert resumed.rows == [row for row in whole.rows if row[0] > step]
    require_same_weights(resumed, whole)


def test_notice_of_the_end_keeps_a_checkpoint_of_that_step(whole: Rows, tmp_path: Path) -> None:
    class Told:
        def after(self, step: int) -> Order:
            return Order.STOP if step == 3 else Order.GO_ON

    stopped = train(tmp_path, notice=Told())
    assert stopped.rows[-1][0] == 3
    assert stopped.newest is not None
    assert stopped.newest.name == "000000003"
    require_same_weights(train(tmp_path), whole)


def with_a_broken_image() -> DataSets:
    data = make_data()
    assert isinstance(data.train, MemoryImages)
    data.train.images[7] = math.nan
    return data


def test_steps_whose_loss_is_no_number_are_passed_over(tmp_path: Path) -> None:
    rows = [metrics for _, metrics in train(tmp_path, data=with_a_broken_image()).rows]
    passed = ["train/loss" not in metrics for metrics in rows]
    assert [sum(passed[index : index + 2]) for index in (0, 2, 4)] == [1, 1, 1]  # one of the two steps of each epoch
    assert [metrics["train/skipped_steps"] for metrics in rows] == [sum(passed[: index + 1]) for index in range(6)]
    assert all(math.isfinite(value) for metrics in rows for value in metrics.values())


def test_too_many_of_them_end_the_training_and_the_last_one_is_kept(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="at most 0 steps in a row may have a loss or gradients that are no num"):
        train(tmp_path, data=with_a_broken_image(), max_skipped_steps=0)
    (kept,) = tmp_path.glob("not_finite_*")
    (worker,) = json.loads((kept / "batch.json").read_text())["workers"].values()
    assert 7 in [index for batch in worker for index in batch["indices"]]
    load_supernet(kept / "checkpoint", supernet_space(), CONFIG)


def test_every_weight_moves(whole: Rows) -> None:
    of = supernet_space()
    torch.manual_seed(supernet_recipe(of).train.seed)
    before = ElasticCascade(of.cascades).state_dict()
    assert whole.newest is not None
    after = read_tensors(whole.newest / "model.safetensors")
    still = {name for name in after if torch.equal(before[name], after[name])}
    # The last block's context reaches the patches alone, which nobody reads after the last stage.
    assert {name for name in still if not name.startswith("shared.grid_4.stage.feature_reuse.1.")} == set()


def test_distilling_from_the_dearest_changes_the_weights(whole: Rows, tmp_path: Path) -> None:
    distilled = train(tmp_path, replace(CONFIG, distill=0.5))
    assert distilled.rows[0][1]["train/loss"] != whole.rows[0][1]["train/loss"]


def test_scores_are_those_of_the_cascade_that_inherits(whole: Rows) -> None:
    of, data = supernet_space(), make_data()
    assert whole.newest is not None
    elastic = load_supernet(whole.newest, of, CONFIG)
    config = of.dearest()
    scores = score_inherited(elastic, config, data.calibration, supernet_recipe(of).data, CPU)
    batch = data.calibration.read(range(len(data.calibration)))
    alone = Cascade(config).eval()
    alone.load_state_dict(elastic.inherit(config))
    with torch.inference_mode():
        expected = score_exits(alone(batch.images), batch.labels)
    assert (scores.correct == expected.correct).all()
    assert scores.confidence == pytest.approx(expected.confidence, abs=1e-6)
    costs = macs_per_exit(config)
    front = inherited_front(elastic, config, data.calibration, supernet_recipe(of).data, CPU, costs)
    assert front == validation_front(scores, costs)


def test_a_training_of_its_own_starts_from_what_a_cascade_inherits(whole: Rows, tmp_path: Path) -> None:
    of = supernet_space()
    assert whole.newest is not None
    elastic = load_supernet(whole.newest, of, CONFIG)
    recipe = replace(supernet_recipe(of), cascade=of.dearest())
    save_inherited(tmp_path / "inherited", elastic, recipe)
    model = Cascade(recipe.cascade)
    init_from(model, str(tmp_path / "inherited"))
    inherited = elastic.inherit(recipe.cascade)
    assert all(torch.equal(tensor, inherited[name]) for name, tensor in model.state_dict().items())


def test_two_workers_train_as_one_with_twice_the_batch(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(dvt.__file__).parent.parent)}
    command = [sys.executable, "-m", "tests.unit.search.supernet_of_two", "1", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, env=environment) as other:
        try:
            both = supernet_of_two.train(0, tmp_path)
            assert other.wait(60) == 0
        finally:
            other.kill()
    one = supernet_of_two.train_alone(tmp_path / "one")
    for (step, metrics), row in zip(both, one, strict=True):
        assert step == row[0]
        alone = {name: value for name, value in row[1].items() if name.startswith(REPEATED)}
        assert {name: metrics[name] for name in alone} == pytest.approx(alone, rel=1e-4)
    weights = [
        read_tensors(next((tmp_path / name / "checkpoints").glob("*/model.safetensors"))) for name in ("0", "one")
    ]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], rtol=1e-3, atol=1e-4, msg=name)
    assert not (tmp_path / "1" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (replace(CONFIG, sharing="position"), "must have the supernet"),
        (replace(CONFIG, num_random=2), "must have the supernet"),
    ],
)
def test_other_shared_weights_are_not_gone_on_with(whole: Rows, config: SupernetConfig, why: str) -> None:
    with pytest.raises(CheckpointError, match=why):
        train(whole.folder, config)
    assert whole.newest is not None
    with pytest.raises(CheckpointError, match=why):
        load_supernet(whole.newest, supernet_space(), config)


def test_a_checkpoint_of_a_cascade_is_refused(whole: Rows, tmp_path: Path) -> None:
    assert whole.newest is not None
    folder = tmp_path / "checkpoints" / "000000001"
    folder.mkdir(parents=True)
    (tmp_path / "latest.json").write_text('{"checkpoint": "000000001", "epoch": 1}')
    for path in whole.newest.iterdir():
        if path.suffix != ".json":
            (folder / path.name).write_bytes(path.read_bytes())
    with pytest.raises(CheckpointError, match=r"supernet\.json must tell what shares the weights"):
        train(tmp_path)


def test_what_shared_weights_cannot_do_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        train(tmp_path, compile=True, init_from="timm:vit_tiny_patch16_224")
    assert str(caught.value) == (
        "train.compile must be false where cascades share weights, got true\n"
        "train.init_from must be null where cascades share weights, got timm:vit_tiny_patch16_224"
    )


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError) as caught:
        SupernetConfig(num_random=-1, distill=1.5)
    assert str(caught.value) == "num_random must be at least 0, got -1\ndistill must be from 0 to 1, got 1.5"


def test_a_trial_starts_from_weights_that_are_kept_with_it(whole: Rows, tmp_path: Path) -> None:
    of = supernet_space()
    loaded = []

    def load() -> ElasticCascade:
        assert whole.newest is not None
        loaded.append(load_supernet(whole.newest, of, CONFIG))
        return loaded[-1]

    trial = RunFolder(LocalFileSystem(), str(tmp_path), "mine")
    recipe = replace(supernet_recipe(of), cascade=of.dearest())
    first, again = (start_inherited(trial, recipe, load) for _ in range(2))
    assert first == again
    assert len(loaded) == 1
    assert first.train.init_from is not None
    model = Cascade(recipe.cascade)
    init_from(model, first.train.init_from)
    inherited = loaded[0].inherit(recipe.cascade)
    assert all(torch.equal(tensor, inherited[name]) for name, tensor in model.state_dict().items())


def test_what_was_measured_is_read_back(tmp_path: Path) -> None:
    search = RunFolder(LocalFileSystem(), str(tmp_path), "mine")
    (measured,) = epochs_of(front_of((6e5, 0.5), (2e6, 0.75)), embedded())
    assert read_inherited(search, 3) is None
    keep_inherited(search, 3, measured)
    assert read_inherited(search, 3) == measured


def test_fewer_images_are_the_first_ones() -> None:
    images = make_data().calibration
    fewer = FirstImages(images, 4)
    assert len(fewer) == 4
    assert len(FirstImages(images, 10_000)) == len(images)
    assert torch.equal(fewer.read([3]).images, images.read([3]).images)
