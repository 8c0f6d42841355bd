"""A trial's process: what it tells Tune, and what the study hears of it."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dvt.config import ConfigError, Recipe, to_dict
from dvt.data import DataError
from dvt.search import ray_trial
from dvt.search.ray_trial import ENDS_SEARCH, FAILED, run_trial
from dvt.search.ray_tune import _Stopper, _StudySearcher
from dvt.search.study import Candidate, CandidateStudy
from dvt.search.trial import FrontKeeper, trial_folder
from dvt.train.errors import CheckpointError, TrainingError
from dvt.train.past_run import CHECKPOINTS, ROWS, SNAPSHOT
from dvt.train.storage import RunFolder
from tests.unit.search.made_up import embedded, epochs_of, front_of

CANDIDATE = embedded().first_points[0]
TOTAL = CANDIDATE.optimizer.total_epochs


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Mapping[str, Any]]:
    """What Tune is told, the epochs by their numbers."""
    rows: list[Mapping[str, Any]] = []
    monkeypatch.setattr(ray_trial.tune, "report", rows.append)
    return rows


def run(search: RunFolder, monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> int:
    """Run the trial; how often it was trained."""
    trained = []

    def train(recipe: Recipe, place: RunFolder, keeper: FrontKeeper) -> None:
        trained.append(recipe)
        if error is not None:
            raise error

    monkeypatch.setattr(ray_trial, "_train", train)
    config = {"number": 0, "recipe": to_dict(CANDIDATE), "budget": None}
    run_trial(config, replace(search, lock=None), embedded(), None)
    return len(trained)


def measured(search: RunFolder, epochs: int) -> RunFolder:
    """The trial's folder after so many measurements."""
    place = trial_folder(search, 0)
    for epoch in epochs_of(front_of((1e5, 0.5)), embedded(), epochs):
        place.filesystem.makedirs(f"{place.path}/epochs", exist_ok=True)
        place.write(f"epochs/{epoch.epoch:05d}.json", json.dumps(epoch.to_dict()))
    return place


def keep_alone(place: RunFolder, epoch: int | None) -> None:
    place.write("latest.json", json.dumps({"checkpoint": "000000001", "epoch": epoch}))


def keep_on_cluster(place: RunFolder, epoch: int | None) -> None:
    metrics = {ROWS: [], **({} if epoch is None else {"epoch": epoch})}
    place.filesystem.makedirs(f"{place.path}/{CHECKPOINTS}")
    place.write(f"{CHECKPOINTS}/{SNAPSHOT}", json.dumps({"latest_checkpoint_result": {"metrics": metrics}}))


@pytest.mark.parametrize("keep", [keep_alone, keep_on_cluster])
def test_a_trial_whose_last_checkpoint_is_kept_is_not_trained_again(
    search: RunFolder, told: list[Any], monkeypatch: pytest.MonkeyPatch, keep: Any
) -> None:
    keep(measured(search, TOTAL), TOTAL)
    assert run(search, monkeypatch) == 0
    assert [row["epoch"] for row in told] == [TOTAL]


@pytest.mark.parametrize("keep", [keep_alone, keep_on_cluster, None])
@pytest.mark.parametrize("kept", [TOTAL - 1, None])
def test_a_trial_that_was_cut_off_before_its_last_checkpoint_trains_its_last_epoch_again(
    search: RunFolder, told: list[Any], monkeypatch: pytest.MonkeyPatch, keep: Any, kept: int | None
) -> None:
    """Measured to the end, it would be taken for finished, with the weights of the epoch before."""
    place = measured(search, TOTAL)
    if keep is not None:
        keep(place, kept)
    assert run(search, monkeypatch) == 1
    assert [row["epoch"] for row in told] == [TOTAL - 1]


@pytest.mark.parametrize(
    ("error", "key"),
    [
        (ConfigError("of the candidate"), FAILED),
        (TrainingError("of the candidate"), FAILED),
        (CheckpointError("no space is left"), ENDS_SEARCH),
        (DataError("no image is there"), ENDS_SEARCH),
    ],
)
def test_only_what_is_the_candidates_own_fault_fails_it(
    search: RunFolder, told: list[Any], monkeypatch: pytest.MonkeyPatch, error: Exception, key: str
) -> None:
    run(search, monkeypatch, error)
    assert told == [{key: str(error)}]


class Observer:
    """Notes how trials ended."""

    def __init__(self) -> None:
        self.states: list[str] = []

    def started(self, candidate: Candidate) -> None: ...

    def measured(self, candidate: Candidate, metrics: Mapping[str, float]) -> None: ...

    def ended(self, candidate: Candidate, state: str, why: str) -> None:
        self.states.append(state)


@pytest.mark.parametrize("is_told_at_its_end", [False, True])
def test_a_search_that_cannot_go_on_leaves_its_trials_under_way(tmp_path: Path, is_told_at_its_end: bool) -> None:
    uri, observer = f"sqlite:///{tmp_path}/study.db", Observer()
    searcher = _StudySearcher(CandidateStudy(embedded(), uri, "s"), observer, TOTAL)
    suggested = [searcher.suggest(name) for name in ("a", "b")]
    told = {ENDS_SEARCH: "no space is left"}
    if not is_told_at_its_end:
        searcher.on_trial_result("a", told)
    searcher.on_trial_complete("a", told)
    assert _Stopper(searcher).stop_all()
    searcher.on_trial_complete("b", {})
    assert searcher.suggest("c") == searcher.FINISHED
    assert str(searcher.error) == "no space is left"
    assert observer.states == []
    again = CandidateStudy(embedded(), uri, "s")
    candidates = [again.next() for _ in suggested]
    assert [each.number for each in candidates if each is not None] == [each["number"] for each in suggested]
