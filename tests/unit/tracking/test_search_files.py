"""What a search leaves in files."""

import csv
import json
from dataclasses import replace
from pathlib import Path

from dvt.config import load_recipe
from dvt.search import BudgetRange
from dvt.search.results import SharedResult
from dvt.tracking.search_files import write_search_files
from tests.unit.search.made_up import embedded, front_of, result_of, trials_of

FRONTS = [
    front_of((6e5, 0.70), (2e6, 0.90)),
    front_of((8e5, 0.60)),
    front_of((7e5, 0.72), (5e6, 0.97)),
    front_of((6.5e5, 0.71)),
    front_of((9e5, 0.99)),
]
STATES = ["finished", "finished", "finished", "finished", "stopped"]


def test_tables_and_recipes_name_what_they_are_of(tmp_path: Path) -> None:
    result = result_of(trials_of(FRONTS, STATES), reference=0)
    write_search_files(tmp_path, result)
    points = json.loads((tmp_path / "front.json").read_text())
    assert [(row["trial"], row["macs"], row["accuracy"]) for row in points] == [
        (0, 6e5, 0.70), (3, 6.5e5, 0.71), (2, 7e5, 0.72), (0, 2e6, 0.90), (2, 5e6, 0.97),
    ]  # fmt: skip
    with (tmp_path / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows] == STATES
    assert float(rows[2]["hypervolume"]) == result.trials[2].epochs[-1].hypervolume
    assert {path.name for path in (tmp_path / "recipes").iterdir()} == {Path(row["recipe"]).name for row in points}
    for row in points:
        recipe = load_recipe(tmp_path / row["recipe"])
        assert recipe == result.trials[row["trial"]].recipe
    told = (tmp_path / points[2]["recipe"]).read_text()
    assert told.startswith("# Trial 2 of the search embedded-search-001.\n")
    assert "#   700000  72.00 %\n#   5e+06  97.00 %\n" in told
    for name in ("front", "hypervolume", "importance", "parallel"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_table_of_the_front_says_all_that_json_does(tmp_path: Path) -> None:
    write_search_files(tmp_path, result_of(trials_of(FRONTS, STATES), reference=0))
    points = json.loads((tmp_path / "front.json").read_text())
    rows = rows_of(tmp_path / "front.csv")
    assert list(rows[0]) == ["trial", "recipe", "macs", "accuracy", "thresholds", "exit_shares"] == list(points[0])
    assert points[0]["thresholds"] == [0.5, "-inf"]
    assert (rows[0]["thresholds"], rows[0]["exit_shares"]) == ("0.5 -inf", "0.25 0.75")
    assert [(row["recipe"], float(row["macs"])) for row in rows] == [(row["recipe"], row["macs"]) for row in points]


def test_the_best_trial_has_a_recipe_though_it_is_not_on_the_front(tmp_path: Path) -> None:
    first, second, third = trials_of([front_of((6e5, 0.7)), front_of((7e5, 0.8)), front_of((6e5, 0.6))])
    best = replace(third, epochs=(replace(third.epochs[0], hypervolume=0.9),))
    write_search_files(tmp_path, result_of((first, second, best)))
    place = tmp_path / "recipes" / "embedded-search-001-0002.yaml"
    assert load_recipe(place) == best.recipe
    assert "Mean multiply-adds" not in place.read_text()
    assert "hypervolume 0.9000.\n" in place.read_text()
    assert "#   dvt train --recipe embedded-search-001-0002.yaml\n" in place.read_text()


def test_milliseconds_stand_under_their_name(tmp_path: Path) -> None:
    result = result_of(trials_of([front_of((0.5, 0.7), (2, 0.9))]))
    write_search_files(tmp_path, replace(result, budgets=BudgetRange(min_ms=0.4, max_ms=9)))
    assert [row["ms"] for row in rows_of(tmp_path / "front.csv")] == ["0.5", "2"]
    (row,) = rows_of(tmp_path / "trials.csv")
    assert (row["ms"], "macs" in row) == ("2", False)
    (recipe,) = (tmp_path / "recipes").iterdir()
    assert (
        "# Mean milliseconds and top-1 of its points on the search's front:\n#   0.5  70.00 %\n" in recipe.read_text()
    )


def test_failures_are_told_in_the_table_and_have_no_recipe(tmp_path: Path) -> None:
    (trial,) = trials_of(FRONTS[:1], ["failed"])
    write_search_files(tmp_path, result_of((replace(trial, epochs=(), why="RuntimeError: out of memory, at\nstep 3"),)))
    (row,) = rows_of(tmp_path / "trials.csv")
    assert (row["state"], row["epochs"], row["hypervolume"], row["macs"]) == ("failed", "0", "", "")
    assert row["why"] == "RuntimeError: out of memory, at\nstep 3"
    assert (row["token_grids"], row["exits"]) == ("2 4 7", "3.0")
    assert json.loads((tmp_path / "front.json").read_text()) == []
    assert (tmp_path / "front.csv").read_text() == "trial,recipe,macs,accuracy,thresholds,exit_shares\n"
    assert list((tmp_path / "recipes").iterdir()) == []


def test_with_shared_weights_recipes_train_in_full_and_what_was_measured_is_a_table(tmp_path: Path) -> None:
    made = result_of(trials_of(FRONTS[:2]))
    short = replace(embedded().base.optimizer, epochs=1, warmup_epochs=0)
    trials = tuple(replace(trial, recipe=replace(trial.recipe, optimizer=short)) for trial in made.trials)
    shared = SharedResult(embedded().base, made.trials, train_s=10)
    write_search_files(tmp_path, replace(made, trials=trials, shared=shared))
    (path,) = (tmp_path / "recipes").iterdir()
    assert load_recipe(path).optimizer == embedded().base.optimizer
    assert "# Reached after 1 epochs from shared weights, not by this recipe, on validation images" in path.read_text()
    rows = rows_of(tmp_path / "inherited.csv")
    assert [float(row["hypervolume"]) for row in rows] == [trial.epochs[-1].hypervolume for trial in made.trials]
    assert rows[0]["token_grids"] == "2 4 7"
    write_search_files(tmp_path / "others", made)
    assert not (tmp_path / "others" / "inherited.csv").exists()
