"""What a person reads when a search space cannot be used: every problem at once, one sentence each."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from dvt.config import ConfigError
from dvt.search import load_space, space_from_dict
from tests.unit.search.tiny import BASE, BUDGETS, NOWHERE, space, tree

BAD: dict[str, tuple[dict[str, Any], list[str]]] = {
    "unknown fields": (
        tree({"token_grid": [2, 4]}, constraint={"max_macs": 1e6}, budgets=BUDGETS | {"min_mac": 1}),
        [
            "cascade.token_grid must be a known field, got 'token_grid'; did you mean token_grids?",
            "budgets.min_mac must be a known field, got 'min_mac'; did you mean min_macs?",
            "constraint must be a known field, got 'constraint'; did you mean constraints?",
        ],
    ),
    "decreasing grids": (
        tree({"token_grids": [7, 5, 2]}),
        ["cascade.token_grids must be strictly increasing, got 7, 5, 2"],
    ),
    "repeated grids": (
        tree({"token_grids": [2, 5, 5]}),
        ["cascade.token_grids must be strictly increasing, got 2, 5, 5"],
    ),
    "several lists": (
        tree({"num_exits": [], "feature_reuse_depth": ["all", 0], "relation_upstream_depth": [0, 1]}),
        [
            "cascade.num_exits must list at least one value, got none",
            "cascade.feature_reuse_depth must be strictly increasing, got all, 0",
            "cascade.relation_upstream_depth.0 must be at least 1, got 0",
        ],
    ),
    "too many exits": (
        tree({"num_exits": [3, 6], "token_grids": [2, 3, 4, 5, 6, 7]}),
        ["cascade.num_exits.1 must be at most 5, the exits of a cascade, got 6"],
    ),
    "more exits than grids": (
        tree({"token_grids": [2, 3]}),
        ["cascade.num_exits.2 must be at most 2, the values of token_grids, got 3"],
    ),
    "a grid too fine": (
        tree({"token_grids": [2, 3, 40]}),
        ["cascade.token_grids.2 must be at most 28 for family vit and image_size 28, got 40"],
    ),
    "a depth above the stage's": (
        tree({"feature_reuse_depth": [0, 3], "relation_upstream_depth": [1, 4]}),
        [
            "cascade.feature_reuse_depth.1 must be at most 2, the stages' depth, got 3",
            "cascade.relation_upstream_depth.1 must be at most 2, the stages' depth, got 4",
        ],
    ),
    "a depth that is all": (
        tree({"feature_reuse_depth": [0, 2, "all"]}),
        ["cascade.feature_reuse_depth.2 must not repeat 2, the stages' depth, got all"],
    ),
    "no depth for a shallow stage": (
        tree({"feature_reuse_depth": [2], "depth": [1, 2]}),
        ["cascade.feature_reuse_depth must hold a value of at most depth 1, got 2"],
    ),
    "heads that divide nothing": (
        tree({"embed_dim": [16, 18], "num_heads": [4, 8]}),
        ["cascade.num_heads must hold a divisor of embed_dim 18, got 4, 8"],
    ),
    "budgets the wrong way round": (
        tree(budgets={"min_macs": 2e6, "max_macs": 1e6}),
        ["budgets.max_macs must be greater than min_macs 2000000, got 1000000"],
    ),
    "the least budget below the cheapest exit": (
        tree(budgets={"min_macs": 1e4, "max_macs": 1e6}),
        ["budgets.min_macs must be at least 45024, the cost of the cheapest exit, got 10000"],
    ),
    "all budgets below the cheapest exit": (
        tree(budgets={"min_macs": 1e4, "max_macs": 2e4}),
        ["budgets.max_macs must be at least 45024, the cost of the cheapest exit, got 20000"],
    ),
    "empty after constraints": (
        tree(constraints={"max_macs": 40_000, "max_map_mib": 0}),
        [
            (
                "constraints must leave a cascade, got none within max_macs 40000, max_map_mib 0; the least of each is "
                "45024 multiply-adds, 7786 parameters, 0 MiB of relationship maps"
            )
        ],
    ),
    "empty through parameters": (
        tree(constraints={"max_parameters": 7_000}),
        [
            (
                "constraints must leave a cascade, got none within max_parameters 7000; the least of each is "
                "45024 multiply-adds, 7786 parameters, 0 MiB of relationship maps"
            )
        ],
    ),
    "a base that is not there": (
        tree(base="jobs/recipes/nothing.yaml"),
        ["base must name a recipe from nowhere, got jobs/recipes/nothing.yaml, where no file is; check the path"],
    ),
    "a base that is no recipe": (
        tree(base=BASE | {"optimizer": {"lr": -1, "epoch": 3}}),
        [
            "base.optimizer.epoch must be a known field, got 'epoch'; did you mean epochs?",
            "base.optimizer.lr must be greater than 0, got -1",
            "base.optimizer.warmup_lr must be at most lr -1.0, got 1e-06",
            "base.optimizer.min_lr must be at most lr -1.0, got 1e-05",
        ],
    ),
    "a base with what cascades differ in": (
        tree(base=BASE | {"exits": {"budgets_macs": [1.5]}, "loss": {"exit_weights": [1, 1, 1]}}),
        [
            "base.exits.budgets_macs must be empty, since cascades differ in what their first exit costs, got 1.5",
            "base.loss.exit_weights must be empty, or one weight an exit where cascade.num_exits is one number, got 3",
        ],
    ),
    "missing sections": (
        tree(base=None, budgets=None),
        ["base must be given", "budgets must be given"],
    ),
    "training fields": (
        tree(
            training={
                "optimizer.learning_rate": [1e-3],
                "cascade.mlp_ratio": [2, 4],
                "optimizer.lr": {"low": 1e-6, "high": 1e-3, "log": True},
                "optimizer.epochs": {"low": 3, "high": 2},
                "optimizer.name": {"low": 1, "high": 2},
                "loss.distill_weight": 0.5,
                "loss.label_smoothing": [0, 2],
                "train.seed": [],
                "optimizer.weight_decay": [0.1, 0.1],
            }
        ),
        [
            (
                "training.optimizer.learning_rate must be a field of data, optimizer, loss or train; "
                "did you mean optimizer.min_lr?"
            ),
            "training.cascade.mlp_ratio must be a field of data, optimizer, loss or train",
            (
                "training.optimizer.lr must be valid in the base recipe, got 1e-06: "
                "optimizer.min_lr must be at most lr 1e-06, got 1e-05"
            ),
            "training.optimizer.epochs.high must be greater than low 3, got 2",
            "training.optimizer.name must be a list of values, since the field is no number",
            "training.loss.distill_weight must be a list of values, or low, high and log, got 0.5",
            (
                "training.loss.label_smoothing must be valid in the base recipe, got 2: "
                "loss.label_smoothing must be from 0 to 0.99, got 2"
            ),
            "training.train.seed must list at least one value, got none",
            "training.optimizer.weight_decay must not repeat a value, got 0.1, 0.1",
        ],
    ),
    "first points outside": (
        tree(
            first_points=[
                {"cascade": {"stages": [{"token_grid": 2}, {"token_grid": 4}]}},
                {"cascade": {"stages": [{"token_grid": 2}, {"token_grid": 5, "feature_reuse_depth": 1}]}},
                {"cascade": {"stages": [{"token_grid": 2}]}, "optimizer": {"lr": 3e-3}},
                {"cascade": {"stages": [{"token_grid": 7}]}},
            ],
            constraints={"max_macs": 4e5},
        ),
        [
            "first_points.0.cascade.stages.1.token_grid must be one of 2, 3, 5, 7, got 4",
            "first_points.1.exit_2.feature_reuse_depth must be a whole number from 0 to 2 by 2, got 1",
            "first_points.2.optimizer.lr must be 0.001 in this space, got 0.003",
            (
                "first_points.3 must keep to the caps: multiply-adds of the last exit must be at most 400000 "
                "(constraints.max_macs), got 479904"
            ),
        ],
    ),
    "first points that are no recipes": (
        tree(first_points=[{"cascade": {"stage": []}}, 3]),
        [
            "first_points.0.cascade.stage must be a known field, got 'stage'; did you mean stages?",
            "first_points.1 must hold recipe fields and values, got 3",
        ],
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_space_gives_its_sentences(name: str) -> None:
    fields, sentences = BAD[name]
    with pytest.raises(ConfigError) as caught:
        space_from_dict(fields, NOWHERE)
    assert str(caught.value).splitlines() == sentences


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_space(tmp_path / "none.yaml")
    sentence = f"SPACE must name a readable YAML file, got {tmp_path / 'none.yaml'} (No such file or directory)"
    assert str(caught.value) == sentence


def test_a_base_is_found_from_the_folder_above_and_overridden(tmp_path: Path) -> None:
    (tmp_path / "spaces").mkdir()
    (tmp_path / "recipe.yaml").write_text("name: a\ndata: {root: x}\n", encoding="utf-8")
    place = tmp_path / "spaces" / "s.yaml"
    place.write_text(
        "name: s\nbase: recipe.yaml\ncascade: {num_exits: [1], token_grids: [7]}\n"
        "budgets: {min_macs: 2e9, max_macs: 3e9}\n",
        encoding="utf-8",
    )
    loaded = load_space(place, ["--data.root", "y"])
    assert (loaded.base.name, loaded.base.data.root, loaded.size()) == ("a", "y", 1)


def test_one_number_of_exits_may_have_weights() -> None:
    stages = [{"token_grid": grid} for grid in (2, 3, 5)]
    base = BASE | {"loss": {"exit_weights": [1, 1, 2]}, "cascade": BASE["cascade"] | {"stages": stages}}
    assert space({"num_exits": [3]}, base=base).base.loss.exit_weights == (1, 1, 2)


def test_fields_of_a_base_file_can_be_changed(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(BASE), encoding="utf-8")
    base = {"recipe": "base.yaml", "optimizer": {"epochs": 7}, "loss": {"distill_weight": 0.5}}
    found = space_from_dict(tree(base=base), tmp_path).base
    assert (found.optimizer.epochs, found.optimizer.warmup_epochs, found.loss.distill_weight) == (7, 1, 0.5)
    assert space_from_dict(tree(base=base), tmp_path, ["--optimizer.epochs", "8"]).base.optimizer.epochs == 8
    with pytest.raises(ConfigError) as caught:
        space_from_dict(tree(base=base | {"los": {}}), tmp_path)
    told = "base.los must be a known field, got 'los'; did you mean loss?"
    assert [str(problem) for problem in caught.value.problems] == [told]


def test_the_command_line_sets_fields_of_the_search_and_of_the_base() -> None:
    path = Path(__file__).resolve().parents[3] / "search_spaces" / "embedded.yaml"
    words = ["--search.sampler=random", "--optimizer.epochs", "3", "--search.num-trials", "7", "--train.seed", "5"]
    space = load_space(path, words)
    assert (space.search.sampler, space.search.num_trials) == ("random", 7)
    assert (space.base.optimizer.epochs, space.base.train.seed) == (3, 5)
    with pytest.raises(
        ConfigError, match=r"^search.samplr must be a known field, got 'samplr'; did you mean sampler\?$"
    ):
        load_space(path, ["--search.samplr", "random"])
    with pytest.raises(ConfigError, match=r"^search.num_trials must be followed by a value, got none$"):
        load_space(path, ["--search.num-trials"])


@pytest.mark.parametrize(
    ("budgets", "told"),
    [
        (
            {"min_macs": 1e5, "max_ms": 3},
            "budgets must hold min_macs and max_macs, or min_ms and max_ms, got min_macs, max_ms",
        ),
        ({}, "budgets must hold min_macs and max_macs, or min_ms and max_ms, got none"),
        ({"min_ms": 3, "max_ms": 2}, "budgets.max_ms must be greater than min_ms 3, got 2"),
        ({"min_ms": 0, "max_ms": 2}, "budgets.min_ms must be greater than 0, got 0"),
    ],
)
def test_budgets_are_of_one_unit(budgets: dict[str, float], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        space_from_dict(tree() | {"budgets": budgets}, NOWHERE)
    assert str(caught.value) == told


def test_budgets_may_be_milliseconds() -> None:
    space = space_from_dict(tree() | {"budgets": {"min_ms": 0.5, "max_ms": 20}}, NOWHERE)
    assert (space.budgets.unit, space.budgets.low, space.budgets.high) == ("ms", 0.5, 20)
    assert space.limits.first_exit_macs == float("inf")
