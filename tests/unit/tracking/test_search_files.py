"""What a search leaves in files."""

import csv
import json
from pathlib import Path

from dvt.config import load_recipe
from dvt.tracking.search_files import write_search_files
from tests.unit.search.made_up import front_of, result_of, trials_of

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
