"""What a search leaves in files: front and trials as tables, pictures, a recipe for each cascade on the front.

In the tables a cell with a value for each exit, such as thresholds, holds them with spaces between.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dvt.config import recipe_to_yaml
from dvt.search.importance import features_of
from dvt.search.results import SearchResult, TrialResult, UnionPoint
from dvt.tracking.front_files import save_picture
from dvt.tracking.search_plots import draw_hypervolume, draw_importances, draw_parallel, draw_search_front

RECIPES = "recipes"
# Of the tables, also where they have no row; the cost stands under the name of its unit.
_TRIAL_COLUMNS = ("trial", "state", "epochs", "hypervolume", "top1", "cost", "train_s", "why", "token_grids")
_POINT_COLUMNS = ("trial", "recipe", "cost", "accuracy", "thresholds", "exit_shares")
_MOST_TOLD = 8  # points of a front in a recipe's header


def write_search_files(folder: Path, result: SearchResult) -> None:
    """Write what a search found so far.

    Args:
        folder: Where to write; made if it is not there.
        result: What to write.

    Raises:
        OSError: If the folder cannot be written to.
    """
    (folder / RECIPES).mkdir(parents=True, exist_ok=True)
    draws = {
        "front": draw_search_front,
        "hypervolume": draw_hypervolume,
        "importance": draw_importances,
        "parallel": draw_parallel,
    }
    for name, draw in draws.items():
        save_picture(draw(result), folder / f"{name}.png")
    unit = result.budgets.unit
    trials = [_trial_row(trial, unit) for trial in result.trials]
    _write_table(folder / "trials.csv", [unit if name == "cost" else name for name in _TRIAL_COLUMNS], trials)
    if result.shared:
        inherited = [_trial_row(trial, unit) for trial in result.shared.inherited]
        _write_table(folder / "inherited.csv", [unit if name == "cost" else name for name in _TRIAL_COLUMNS], inherited)
    rows = [_point_row(result, point) for point in result.front]
    (folder / "front.json").write_text(json.dumps(rows, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    _write_table(folder / "front.csv", [unit if name == "cost" else name for name in _POINT_COLUMNS], rows)
    for trial in chosen_trials(result):
        recipe = result.shared.in_full(trial.recipe) if result.shared else trial.recipe
        place = folder / recipe_name(result, trial.number)
        place.write_text(_header(result, trial) + recipe_to_yaml(recipe), encoding="utf-8")


def chosen_trials(result: SearchResult) -> list[TrialResult]:
    """The trials that hold a point of the front, and the one of the largest hypervolume."""
    numbers = {point.trial for point in result.front} | ({result.best.number} if result.best else set())
    return [trial for trial in result.finished if trial.number in numbers]


def recipe_name(result: SearchResult, number: int) -> str:
    """Where the recipe of a trial is, from the report's folder."""
    return f"{RECIPES}/{result.name}-{number:04d}.yaml"


def _trial_row(trial: TrialResult, unit: str) -> dict[str, Any]:
    row: dict[str, Any] = {"trial": trial.number, "state": trial.state, "epochs": len(trial.epochs)}
    if trial.last:
        row |= {"hypervolume": trial.last.hypervolume, "top1": trial.last.top1, unit: trial.last.cost}
    row |= {"train_s": trial.train_s, "why": trial.why, "token_grids": list(trial.recipe.cascade.token_grids)}
    return row | features_of(trial)


def _point_row(result: SearchResult, point: UnionPoint) -> dict[str, Any]:
    """A point of the front; `FrontPoint.to_dict` tells thresholds as JSON can hold them."""
    told = point.point.to_dict()
    cost = told.pop("macs")
    place = {"trial": point.trial, "recipe": recipe_name(result, point.trial), result.budgets.unit: cost}
    return place | told


def _write_table(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows below the columns, which are there without a row too, and below others that some row has."""
    names = list(dict.fromkeys([*columns, *(name for row in rows for name in row)]))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)


def _cell(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, list) else value


def _header(result: SearchResult, trial: TrialResult) -> str:
    """What a recipe says of itself: where it is from, what it reached, and how to train it again."""
    last = trial.epochs[-1]
    own = [point for point in result.front if point.trial == trial.number]
    step = max(1, -(-len(own) // _MOST_TOLD))
    points = [f"  {point.macs:.6g}  {100 * point.accuracy:.2f} %" for point in own[::step]]
    start = " from shared weights, not by this recipe" if result.shared else ""
    unit = "multiply-adds" if result.budgets.unit == "macs" else "milliseconds"
    lines = [
        f"Trial {trial.number} of the search {result.name}.",
        "",
        f"Reached after {last.epoch} epochs{start}, on validation images: hypervolume {last.hypervolume:.4f}.",
        *([f"Mean {unit} and top-1 of its points on the search's front:", *points] if points else []),
        "",
        "Command:",
        f"  dvt train --recipe {Path(recipe_name(result, trial.number)).name}",
    ]
    return "".join(f"# {line}".rstrip() + "\n" for line in lines) + "\n"
