"""What a search leaves in files: front and trials as tables, pictures, a recipe for each cascade on the front."""

import csv
import json
from pathlib import Path
from typing import Any

from dvt.config import recipe_to_yaml
from dvt.search.importance import features_of
from dvt.search.results import SearchResult, TrialResult
from dvt.tracking.front_files import save_picture
from dvt.tracking.search_plots import draw_hypervolume, draw_importances, draw_parallel, draw_search_front

RECIPES = "recipes"
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
    _write_table(folder / "trials.csv", [_trial_row(trial, result.budgets.unit) for trial in result.trials])
    rows = [_point_row(result, index) for index in range(len(result.front))]
    (folder / "front.json").write_text(json.dumps(rows, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    _write_table(folder / "front.csv", [{name: row[name] for name in row if name != "thresholds"} for row in rows])
    for trial in chosen_trials(result):
        place = folder / recipe_name(result, trial.number)
        place.write_text(_header(result, trial) + recipe_to_yaml(trial.recipe), encoding="utf-8")


def chosen_trials(result: SearchResult) -> list[TrialResult]:
    """The trials that hold a point of the front, and the one of the largest hypervolume."""
    numbers = {point.trial for point in result.front} | ({result.best.number} if result.best else set())
    return [trial for trial in result.finished if trial.number in numbers]


def recipe_name(result: SearchResult, number: int) -> str:
    """Where the recipe of a trial is, from the report's folder."""
    return f"{RECIPES}/{result.name}-{number:04d}.yaml"


def _trial_row(trial: TrialResult, unit: str) -> dict[str, Any]:
    last = trial.last
    row: dict[str, Any] = {"trial": trial.number, "state": trial.state, "epochs": len(trial.epochs)}
    row |= {
        "hypervolume": last.hypervolume if last else "",
        "top1": last.top1 if last else "",
        unit: last.macs if last else "",
        "train_s": trial.train_s,
        "why": trial.why,
    }
    return row | {"token_grids": " ".join(map(str, trial.recipe.cascade.token_grids))} | features_of(trial)


def _point_row(result: SearchResult, index: int) -> dict[str, Any]:
    """A point of the front; `FrontPoint.to_dict` tells thresholds as JSON can hold them."""
    point = result.front[index]
    told = point.point.to_dict()
    cost = told.pop("macs")
    place = {"trial": point.trial, "recipe": recipe_name(result, point.trial), result.budgets.unit: cost}
    return place | told


def _write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
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
    unit = "multiply-adds" if result.budgets.unit == "macs" else "milliseconds"
    lines = [
        f"Trial {trial.number} of the search {result.name}.",
        "",
        f"Reached after {last.epoch} epochs, on validation images: hypervolume {last.hypervolume:.4f}.",
        *([f"Mean {unit} and top-1 of its points on the search's front:", *points] if points else []),
        "",
        "Command:",
        f"  dvt train --recipe {Path(recipe_name(result, trial.number)).name}",
    ]
    return "".join(f"# {line}".rstrip() + "\n" for line in lines) + "\n"
