"""The study of candidates: what is suggested, told and gone on with, on a real SQLite file."""

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from dvt.config import ConfigError
from dvt.search import Space, load_space
from dvt.search.study import Candidate, CandidateStudy
from tests.unit.search import tiny

ROOT = Path(__file__).resolve().parents[3]
NAME = "embedded-search-001"


def space_of(**settings: Any) -> Space:
    words = [word for name, value in settings.items() for word in (f"--search.{name}", str(value))]
    return load_space(ROOT / "search_spaces" / "embedded.yaml", words)


def opened(folder: Path, **settings: Any) -> CandidateStudy:
    return CandidateStudy(space_of(**settings), f"sqlite:///{folder}/study.db", NAME)


def worth(candidate: Candidate) -> dict[str, float]:
    """Some value that follows from the candidate alone."""
    grids = candidate.recipe.cascade.token_grids
    return {"hypervolume": sum(grids) / 20, "top1": sum(grids) / 25, "cost": 1e6 * len(grids), "epoch": 2}


def finish(study: CandidateStudy, count: int) -> list[Candidate]:
    candidates = []
    for _ in range(count):
        candidate = study.next()
        assert candidate is not None
        study.finish(candidate.number, worth(candidate))
        candidates.append(candidate)
    return candidates


def test_the_first_point_comes_first_and_carries_its_number(tmp_path: Path) -> None:
    candidate = opened(tmp_path).next()
    assert candidate is not None
    assert candidate.number == 0
    assert candidate.recipe.cascade.token_grids == (2, 4, 7)
    assert candidate.recipe.name == "embedded-0000"


def test_as_many_as_were_asked_for_and_no_more(tmp_path: Path) -> None:
    study = opened(tmp_path, num_trials=3)
    finish(study, 3)
    assert study.next() is None
    # Asked for more, the same search goes on.
    assert opened(tmp_path, num_trials=4).next() is not None


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_an_interruption_changes_no_suggestion(tmp_path: Path, sampler: str) -> None:
    (tmp_path / "whole").mkdir()
    whole = finish(opened(tmp_path / "whole", sampler=sampler, num_trials=16), 16)
    parts = finish(opened(tmp_path, sampler=sampler, num_trials=16), 12)
    parts += finish(opened(tmp_path, sampler=sampler, num_trials=16), 4)
    assert [candidate.params for candidate in parts] == [candidate.params for candidate in whole]
    assert len({tuple(candidate.params.items()) for candidate in whole}) == 16


def test_what_was_in_flight_is_given_out_again_and_first(tmp_path: Path) -> None:
    study = opened(tmp_path)
    finish(study, 2)
    cut_off = [study.next(), study.next()]
    again = opened(tmp_path)
    assert [again.next(), again.next()] == cut_off
    newer = again.next()
    assert newer is not None
    assert newer not in cut_off


def test_an_illegal_candidate_is_not_given_out_and_says_why(tmp_path: Path) -> None:
    told: dict[int, str] = {}
    space = space_of(sampler="random")
    study = CandidateStudy(space, f"sqlite:///{tmp_path}/study.db", NAME, told.__setitem__)
    numbers = {candidate.number for candidate in finish(study, 20)}
    assert told
    assert study.refused() == told
    assert not numbers & set(told)
    assert all("must be at most" in why for why in told.values())


def test_a_failed_trial_is_told_and_does_not_stop_the_search(tmp_path: Path) -> None:
    study = opened(tmp_path)
    first = study.next()
    assert first is not None
    study.fail(first.number, "the disk was full")
    finish(study, 12)
    trials = {candidate.number: trial for candidate, trial in study.candidates()}
    assert trials[0].state == TrialState.FAIL
    assert CandidateStudy.why_failed(trials[0]) == "the disk was full"
    assert [trial.state for number, trial in trials.items() if number] == [TrialState.COMPLETE] * 12


def test_a_stopped_trial_is_told_as_pruned_with_its_last_value(tmp_path: Path) -> None:
    study = opened(tmp_path)
    candidate = study.next()
    assert candidate is not None
    for epoch, value in ((1, 0.1), (2, 0.3)):
        study.report(candidate.number, epoch, value)
    study.stop(candidate.number)
    (trial,) = optuna.load_study(study_name=NAME, storage=f"sqlite:///{tmp_path}/study.db").get_trials(
        states=[TrialState.PRUNED]
    )
    assert (trial.value, trial.intermediate_values) == (0.3, {1: 0.1, 2: 0.3})


def test_a_known_recipe_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A space of few cascades is exhausted rather than trained twice."""
    monkeypatch.setattr("dvt.search.study.MOST_REFUSED", 120)
    words = ["--search.sampler", "random", "--search.num-trials", "1000"]
    space = load_space(ROOT / "search_spaces" / "reuse_ablation.yaml", words)
    study = CandidateStudy(space, f"sqlite:///{tmp_path}/study.db", NAME)
    seen = []
    while (candidate := study.next()) is not None:
        study.finish(candidate.number, {"hypervolume": 0.5})
        seen.append(candidate.recipe.cascade)
    assert len(seen) == len(set(seen)) == space.size()


def test_a_small_space_is_tried_whole_though_the_sampler_repeats_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dvt.search.study.MOST_REFUSED", 100)
    choices = {"num_exits": [1, 2], "feature_reuse_depth": [2], "relation_reuse_depth": [0], "feature_reuse_dim": [8]}
    small = tiny.space(choices, search={"num_trials": 40})
    assert small.size() == 10
    study = CandidateStudy(small, f"sqlite:///{tmp_path}/study.db", NAME)
    found = {candidate.recipe.cascade for candidate in finish(study, 10)}
    assert len(found) == 10
    assert study.next() is None


def test_the_pareto_objective_has_two_values_and_a_budget(tmp_path: Path) -> None:
    study = opened(tmp_path, objective="pareto", sampler="nsga2")
    candidates = finish(study, 14)
    budgets = space_of().budgets
    assert all(budgets.low <= float(str(candidate.params["budget"])) <= budgets.high for candidate in candidates)
    loaded = optuna.load_study(study_name=NAME, storage=f"sqlite:///{tmp_path}/study.db")
    assert [direction.name for direction in loaded.directions] == ["MAXIMIZE", "MINIMIZE"]
    given = [trial for trial in loaded.get_trials(states=[TrialState.COMPLETE]) if "given" in trial.user_attrs]
    values = [(trial.values[0], trial.values[1]) for trial in given]
    assert values == [(worth(candidate)["top1"], worth(candidate)["cost"]) for candidate in candidates]


@pytest.mark.parametrize("uri", ["sqlite:////nowhere/at/all/study.db", "mine", "mine://x", "sqlite:///FOLDER/text.db"])
def test_a_database_that_cannot_be_used_is_told_in_a_sentence(tmp_path: Path, uri: str) -> None:
    (tmp_path / "text.db").write_text("no database, but text" * 100)
    with pytest.raises(ConfigError, match=r"^search\.study_uri must be a database that can be written, got: .+; check"):
        CandidateStudy(space_of(), uri.replace("FOLDER", str(tmp_path)), NAME)


def test_a_database_that_refuses_is_told_without_its_password() -> None:
    with pytest.raises(ConfigError) as caught:
        CandidateStudy(space_of(), "postgresql+psycopg://ann:pa55w0rd@127.0.0.1:9/study", NAME)
    assert str(caught.value).startswith("search.study_uri must be a database that can be written, got: ")
    assert "pa55w0rd" not in str(caught.value)
