"""Suggestions are recipes of the space, parameters name them, and an illegal candidate says why."""

from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvt.config import ConfigError, Recipe, load_recipe, recipe_to_yaml, to_dict
from dvt.search import CascadeCost, IllegalCandidate, RandomSuggester, Space
from tests.unit.search.tiny import BASE, space

TRAINING: dict[str, Any] = {
    "optimizer.lr": {"low": 1e-3, "high": 1e-1, "log": True},
    "optimizer.warmup_epochs": {"low": 0, "high": 2.5},
    "optimizer.epochs": {"low": 3, "high": 30, "log": True},
    "loss.distill_weight": [0, 0.5],
    "train.ema_decay": [None, 0.99],
    "train.compile": [False, True],
}
BACKBONES: dict[str, Any] = {
    "num_exits": [1, 3],
    "depth": [1, 3],
    "embed_dim": [12, 16],
    "num_heads": [2, 3, 4],
    "feature_reuse_depth": [0, 1, "all"],
    "relation_reuse_depth": [0, "all"],
    "relation_upstream_depth": [1, "all"],
    "feature_reuse_dim": [4, 8, 24],
}
SPACES: dict[str, Space] = {
    "plain": space(),
    "capped": space(constraints={"max_macs": 7.8e5, "max_parameters": 37_000, "max_map_mib": 0.023}),
    "training": space(training=TRAINING),
    "backbones": space(BACKBONES, training=TRAINING, constraints={"max_macs": 1e6}),
    "shared": space({"is_reuse_shared": True}),
}
some_space = st.sampled_from(sorted(SPACES))


class Recorder(RandomSuggester):
    """Draws, and remembers what was asked for and answered."""

    def __init__(self, seed: int) -> None:
        super().__init__(np.random.default_rng(seed))
        self.params: dict[str, Any] = {}

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        self.params[name] = super().suggest_categorical(name, choices)
        return self.params[name]

    def suggest_int(self, name: str, low: int, high: int, **options: Any) -> int:
        self.params[name] = super().suggest_int(name, low, high, **options)
        return self.params[name]

    def suggest_float(self, name: str, low: float, high: float, **options: Any) -> float:
        self.params[name] = super().suggest_float(name, low, high, **options)
        return self.params[name]


def drawn(searched: Space, seed: int) -> tuple[Recipe | str, dict[str, Any]]:
    trial = Recorder(seed)
    try:
        return searched.suggest(trial), trial.params
    except IllegalCandidate as error:
        return str(error), trial.params


@settings(deadline=None, max_examples=60)
@given(name=some_space, seed=st.integers(0, 2**32 - 1))
def test_a_suggestion_is_a_legal_recipe_or_says_why_not(name: str, seed: int) -> None:
    searched = SPACES[name]
    recipe, params = drawn(searched, seed)
    if isinstance(recipe, str):
        assert "must be at most" in recipe
        assert ", got " in recipe
        with pytest.raises(IllegalCandidate) as again:
            searched.recipe_of(params)
        assert str(again.value) == recipe
        return
    assert load_recipe(to_dict(recipe)) == recipe
    cost, caps = CascadeCost.of(recipe.cascade), searched.constraints
    assert caps.max_macs is None or cost.macs[-1] <= caps.max_macs
    assert caps.max_parameters is None or cost.parameters <= caps.max_parameters
    assert caps.max_map_mib is None or cost.map_bytes <= caps.max_map_mib * 2**20
    assert cost.macs[0] <= searched.budgets.max_macs
    assert searched.recipe_of(params) == recipe
    assert searched.params_of(recipe) == params


@settings(deadline=None, max_examples=20)
@given(name=some_space, seed=st.integers(0, 2**32 - 1))
def test_names_and_their_order_repeat(name: str, seed: int) -> None:
    first, second = (list(drawn(SPACES[name], seed)[1].items()) for _ in range(2))
    assert first == second


def test_names_are_those_that_are_documented() -> None:
    stages = [{"token_grid": 2}, {"token_grid": 5, "feature_reuse_depth": 2, "relation_reuse_depth": 1}]
    searched = space(first_points=[{"cascade": {"stages": stages, "feature_reuse_dim": 16}}])
    assert searched.params_of(searched.first_points[0]) == {
        "num_exits": 2,
        "2_exits.grid_1": 0,
        "2_exits.grid_2": 2,
        "exit_2.feature_reuse_depth": 2,
        "exit_2.relation_reuse_depth": 1,
        "exit_2.relation_upstream_depth": 2,
        "feature_reuse_dim": 16,
    }
    params = drawn(SPACES["backbones"], 1)[1]
    names = list(params)
    assert names[:4] == ["depth", "embed_dim", f"num_heads.embed_dim_{params['embed_dim']}", "num_exits"]
    assert names[-len(TRAINING) :] == list(TRAINING)


def test_no_depth_is_asked_for_that_is_no_choice() -> None:
    searched = space({"num_exits": [2], "token_grids": [2, 5], "feature_reuse_depth": [0], "relation_reuse_depth": [0]})
    assert drawn(searched, 0)[1] == {}
    assert searched.size() == 1
    assert searched.recipe_of({}).cascade == searched.cheapest() == searched.dearest()


def test_broken_caps_are_told() -> None:
    params = {"num_exits": 1, "1_exits.grid_1": 3}
    caps = {"max_macs": 4e5}
    with pytest.raises(IllegalCandidate) as caught:
        space(constraints=caps).recipe_of(params)
    rule = "multiply-adds of the last exit must be at most 400000 (constraints.max_macs), got 479904"
    assert str(caught.value) == rule
    with pytest.raises(IllegalCandidate) as caught:
        space(budgets={"min_macs": 1e5, "max_macs": 3e5}).recipe_of(params)
    rule = "multiply-adds of the first exit must be at most 300000 (budgets.max_macs), got 479904"
    assert str(caught.value) == rule


def test_a_training_field_that_fits_alone_may_not_fit_with_others() -> None:
    base = BASE | {"optimizer": {"epochs": 30, "warmup_epochs": 0}}
    searched = space(base=base, training={"optimizer.epochs": [2, 30], "optimizer.warmup_epochs": [0, 20]})
    params = {"num_exits": 1, "1_exits.grid_1": 0, "optimizer.epochs": 2, "optimizer.warmup_epochs": 20}
    with pytest.raises(IllegalCandidate) as caught:
        searched.recipe_of(params)
    assert str(caught.value) == "optimizer.warmup_epochs must be at most epochs 2, got 20"


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({}, "num_exits must be given, got no value"),
        ({"num_exits": 4}, "num_exits must be a whole number from 1 to 3, got 4"),
        ({"num_exits": True}, "num_exits must be a whole number from 1 to 3, got true"),
        (
            {"num_exits": 1, "1_exits.grid_1": 0, "exit_2.feature_reuse_depth": 2},
            "exit_2.feature_reuse_depth must be a parameter of this candidate; choose from num_exits, 1_exits.grid_1",
        ),
    ],
)
def test_parameters_of_another_space_are_refused(params: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        space().recipe_of(params)
    assert str(caught.value) == sentence


def test_samples_repeat_by_seed_and_are_legal() -> None:
    searched = SPACES["capped"]
    first, second, other = (searched.sample(np.random.default_rng(seed), 8) for seed in (0, 0, 1))
    assert first == second != other
    assert all(searched.limits.broken_by(CascadeCost.of(recipe.cascade)) is None for recipe in first)
    share = searched.count_legal(np.random.default_rng(0), 200) / 200
    assert 0.3 < share < 0.9


def test_every_cascade_can_be_drawn() -> None:
    searched = space({"num_exits": [1, 2], "feature_reuse_dim": [8]})
    seen = {recipe.cascade for recipe in searched.sample(np.random.default_rng(0), 2_000)}
    assert seen == set(searched.legal_cascades())


def test_an_optuna_trial_fits_as_it_is() -> None:
    searched = SPACES["backbones"]
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=5))
    for _ in range(20):
        trial = study.ask()
        try:
            recipe = searched.suggest(trial)
        except IllegalCandidate:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            continue
        assert searched.params_of(recipe) == trial.params
        study.tell(trial, CascadeCost.of(recipe.cascade).macs[-1])


def test_first_points_can_be_enqueued() -> None:
    stages = [{"token_grid": 2}, {"token_grid": 7, "relation_reuse_depth": 1}]
    searched = space(first_points=[{"cascade": {"stages": stages, "feature_reuse_dim": 16}}])
    study = optuna.create_study()
    study.enqueue_trial(searched.params_of(searched.first_points[0]))
    suggested = searched.suggest(study.ask())
    assert suggested.cascade.token_grids == (2, 7)
    assert recipe_to_yaml(suggested).count("all") == 3  # the first stage's, which has nothing to reuse
