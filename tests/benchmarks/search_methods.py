"""This search beside random search and NSGA-II without pruning, on the embedded data set, at equal compute.

Run by hand: `PYTHONPATH=platform python -m tests.benchmarks.search_methods --folder FOLDER`. Each search ends when its
compute is spent; one that is there is not run again, and one that was cut off goes on.

Compute is counted, not timed, so that it is the same on every machine and however busy it is: three times the
multiply-adds of all exits (forward and backward) for each training image, and once for each calibration image.
A search is worth the hypervolume of the front of all its finished trials, on validation images.
"""

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dvt.cli.cluster import connected
from dvt.config import Recipe, RunConfig
from dvt.exits import hypervolume
from dvt.models import macs_per_exit
from dvt.search import Space, load_space
from dvt.search.ray_tune import search_on_cluster
from dvt.search.record import open_search_folder, open_study, read_result
from dvt.search.results import TrialResult, union_front
from dvt.search.study import Candidate

ROOT = Path(__file__).resolve().parents[2]
METHODS = {
    "this search": "tpe --search.grace-epochs 2",  # of six epochs; the space's four are of the recipe's sixteen
    "random search": "random --search.is-pruned false",
    "NSGA-II": "nsga2 --search.is-pruned false",
}
LOG = "compute.jsonl"
MOST_TRIALS = 1000  # never reached: compute ends a search


class SpentError(Exception):
    """A search has used its compute."""


@dataclass
class Meter:
    """Counts what a search spends, in the order in which epochs end; a `SearchObserver`.

    Attributes:
        log: Keeps a line an event, over all tries of the search.
        most: Multiply-adds that may be spent.
        spent: Multiply-adds so far.
    """

    log: Path
    most: float
    spent: float = 0.0
    seen: set[tuple[int, int]] = field(default_factory=set)

    def __post_init__(self) -> None:
        for event in read_log(self.log):
            self.spent = event["spent"]
            self.seen |= {(event["trial"], epoch) for epoch in range(1, event["epoch"] + 1)}

    def started(self, candidate: Candidate) -> None:
        """Nothing is spent yet."""

    def measured(self, candidate: Candidate, metrics: Mapping[str, float]) -> None:
        """An epoch was trained, and those before it, which may not have been told where a try was cut off."""
        epoch = int(metrics["epoch"])
        new = {(candidate.number, each) for each in range(1, epoch + 1)} - self.seen
        if not new:
            return
        self.seen |= new
        self.spent += len(new) * macs_of_epoch(candidate.recipe)
        event = {"trial": candidate.number, "epoch": epoch, "spent": self.spent, "value": metrics["hypervolume"]}
        with self.log.open("a") as file:
            file.write(json.dumps(event) + "\n")

    def ended(self, candidate: Candidate, state: str, why: str) -> None:
        """End the search with the trial that used up what there was."""
        if self.spent >= self.most:
            raise SpentError


def macs_of_epoch(recipe: Recipe) -> float:
    """Multiply-adds of training and measuring one epoch."""
    images = 3 * recipe.data.train_images + recipe.data.calibration_images
    return float(images * macs_per_exit(recipe.cascade)[-1])


def read_log(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def search(space: Space, folder: Path, compute: float) -> list[tuple[float, float]]:
    """Search until the compute is spent.

    Returns:
        Where the search's hypervolume rose: compute spent, and hypervolume from there on.
    """
    place = open_search_folder(space, RunConfig(storage_path=str(folder)))
    log = Path(place.path, LOG)
    study = open_study(space, place)
    if not any(event["spent"] >= compute for event in read_log(log)):
        try:
            with connected(space.base.cluster):
                search_on_cluster(space, place, study, Meter(log, compute))
        except SpentError:
            pass
    return curve(space, read_log(log), read_result(space, place).finished, compute)


def curve(
    space: Space, events: Sequence[dict[str, Any]], finished: Sequence[TrialResult], compute: float
) -> list[tuple[float, float]]:
    """Where the hypervolume of the front of all finished trials rose, as far as the compute goes."""
    by_number = {trial.number: trial for trial in finished}
    total = space.base.optimizer.total_epochs
    done, points = [], []
    for event in events:
        if event["epoch"] == total and event["trial"] in by_number and event["spent"] <= compute:
            done.append(by_number[int(event["trial"])])
            front = union_front(done, space.budgets.high)
            points.append((event["spent"], hypervolume(front, space.budgets.low, space.budgets.high)))
    return points


def value_at(points: Sequence[tuple[float, float]], spent: float) -> float:
    """The hypervolume once so much was spent."""
    return max((value for at, value in points if at <= spent), default=0.0)


def spent_for(points: Sequence[tuple[float, float]], value: float) -> float:
    """What was spent when a hypervolume was reached; infinite if it was not."""
    return min((at for at, reached in points if reached >= value), default=float("inf"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Compare searches at equal compute.",
        epilog="Other fields are those of the space's base recipe and of its search, as for `dvt search run`.",
    )
    parser.add_argument("--folder", type=Path, required=True, help="keeps the searches")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--train-images", type=int, default=8192)
    parser.add_argument("--whole-trials", type=float, default=12, help="compute, in whole trials of the first point")
    parser.add_argument("--only", choices=METHODS, help="run the searches of this method, and compare nothing")
    asked, others = parser.parse_known_args()
    curves: dict[str, list[list[tuple[float, float]]]] = {name: [] for name in METHODS}
    compute = 0.0
    for seed in range(asked.seeds):
        for name, settings in METHODS.items():
            if asked.only not in (None, name):
                continue
            words = f"--search.sampler {settings} --search.seed {seed}"
            words += f" --optimizer.epochs {asked.epochs} --data.train-images {asked.train_images}"
            words += f" --search.num-trials {MOST_TRIALS}"
            space = load_space(ROOT / "search_spaces" / "embedded.yaml", [*words.split(), *others])
            compute = asked.whole_trials * asked.epochs * macs_of_epoch(space.first_points[0])
            folder = asked.folder / f"{name.replace(' ', '-')}-{seed}"
            points = search(space, folder.resolve(), compute)
            curves[name].append(points)
            print(f"seed {seed}, {name}: {value_at(points, compute):.4f} after {len(points)} whole trials", flush=True)
    if asked.only:
        return
    print("\nhypervolume at a share of the compute, median over seeds (least to largest)")
    for share in (0.25, 0.5, 0.75, 1.0):
        cells = []
        for name, runs in curves.items():
            values = [value_at(points, share * compute) for points in runs]
            cells.append(f"{name} {statistics.median(values):.4f} ({min(values):.4f} to {max(values):.4f})")
        print(f"{share:4.0%}  " + " · ".join(cells))
    goal = statistics.median(value_at(points, compute) for points in curves["random search"])
    shares = [spent_for(points, goal) / compute for points in curves["this search"]]
    print(f"\nrandom search's {goal:.4f} is reached by this search with {statistics.median(shares):.2f} of the compute")


if __name__ == "__main__":
    main()
