"""One trial in this process: measured by epoch, kept, and gone on with."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dvt.config import Recipe, load_recipe
from dvt.exits import ExitScores, hypervolume
from dvt.models import macs_per_exit
from dvt.search.choices import BudgetRange
from dvt.search.objective import validation_front
from dvt.search.record import read_search, space_tree
from dvt.search.trial import FrontKeeper, checkpoint_name, exit_costs, read_epochs, train_alone, trial_folder
from dvt.train.storage import RunFolder
from tests.unit.search.made_up import ROOT, embedded

BUDGETS = BudgetRange(min_macs=1e4, max_macs=1e6)


class CutOffError(Exception):
    """The trial's process is gone."""


@pytest.fixture
def recipe() -> Recipe:
    words = "--cascade.embed-dim 16 --cascade.depth 2 --data.train-images 128 --data.calibration-images 64"
    words += " --train.micro-batch-size 32 --train.ema-decay 0.9 --optimizer.epochs 3 --optimizer.warmup-epochs 0"
    words += " --cluster.num-workers 1"
    return load_recipe(ROOT / "jobs" / "recipes" / "embedded.yaml", words.split())


def keeper_of(folder: RunFolder, recipe: Recipe) -> FrontKeeper:
    return FrontKeeper(folder, recipe, BUDGETS, exit_costs(recipe, BUDGETS, folder))


def weights(folder: RunFolder) -> str:
    path = Path(folder.path, "checkpoints", checkpoint_name(folder), "model.safetensors")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_trial_that_is_cut_off_goes_on_bit_for_bit(search: RunFolder, recipe: Recipe) -> None:
    whole, broken = trial_folder(search, 0), trial_folder(search, 1)
    told: list[Mapping[str, float]] = []
    train_alone(recipe, whole, keeper_of(whole, recipe), told.append)

    def cut(metrics: Mapping[str, float]) -> None:
        raise CutOffError

    for _ in range(2):
        with pytest.raises(CutOffError):
            train_alone(recipe, broken, keeper_of(broken, recipe), cut)
    train_alone(recipe, broken, keeper_of(broken, recipe), lambda metrics: None)

    assert [metrics["epoch"] for metrics in told] == [1, 2, 3]
    assert weights(broken) == weights(whole)
    first, second = read_epochs(whole), read_epochs(broken)
    assert [epoch.hypervolume for epoch in first] == [metrics["hypervolume"] for metrics in told]
    assert [replace(epoch, train_s=0) for epoch in first] == [replace(epoch, train_s=0) for epoch in second]
    assert second[0].train_s < second[1].train_s < second[2].train_s
    assert len(list(Path(broken.path, "checkpoints").iterdir())) == 1


def test_half_a_checkpoint_is_not_taken_for_one(search: RunFolder, recipe: Recipe) -> None:
    place = trial_folder(search, 0)
    half = Path(place.path, "checkpoints", "000000004")  # of the first epoch
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"half")
    train_alone(recipe, place, keeper_of(place, recipe), lambda metrics: None)
    assert [epoch.epoch for epoch in read_epochs(place)] == [1, 2, 3]


def test_an_epoch_is_worth_its_validation_front(search: RunFolder, recipe: Recipe) -> None:
    place = trial_folder(search, 0)
    generator = np.random.default_rng(0)
    confidence = generator.random((3, 200), dtype=np.float32)
    scores = ExitScores(confidence, generator.random((3, 200)) < confidence)
    metrics = keeper_of(place, recipe).start_clock()(scores, 1)
    front = validation_front(scores, macs_per_exit(recipe.cascade))
    assert metrics["hypervolume"] == hypervolume(front.points, 1e4, 1e6)
    (epoch,) = read_epochs(place)
    assert epoch.front == front
    within = [point for point in front.points if point.macs <= 1e6]
    assert (epoch.top1, epoch.cost) == (within[-1].accuracy, within[-1].macs)
    dear, cheap = front.points[-1], front.points[0]
    at = FrontKeeper(place, recipe, BUDGETS, exit_costs(recipe, BUDGETS, place), budget=(cheap.macs + dear.macs) / 2)
    told = at.start_clock()(scores, 2)
    assert cheap.macs <= told["cost"] <= (cheap.macs + dear.macs) / 2 < dear.macs
    assert told["hypervolume"] == metrics["hypervolume"]


def test_budgets_in_milliseconds_are_measured_once(search: RunFolder, recipe: Recipe) -> None:
    place, budgets = trial_folder(search, 0), BudgetRange(min_ms=0.1, max_ms=10)
    costs = exit_costs(recipe, budgets, place)
    assert len(costs) == 3
    assert 0 < costs[0] < costs[1] < costs[2] < 1000
    assert exit_costs(recipe, budgets, place) == costs
    assert all(math.isfinite(cost) for cost in costs)


def test_a_search_is_read_back_as_it_was_asked_for(search: RunFolder) -> None:
    space, folder = read_search(search.path)
    assert folder.path == search.path
    assert space == embedded()
    assert space_tree(space) == space_tree(embedded())
