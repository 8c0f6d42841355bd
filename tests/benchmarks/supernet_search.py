"""A search with shared weights beside trainings of their own: what the best cascade is worth, and the compute it took.

Run by hand, on folders of searches that `dvt search run` or `search_methods` left:

    PYTHONPATH=platform python -m tests.benchmarks.supernet_search --shared FOLDER [...] --alone FOLDER [...]

Compute is counted as in `search_methods`; of a search with shared weights it is that of training them, of measuring
cascades, and of training the best on. Trainings of their own are the first `--trials` different ones that finished.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dvt.config import CascadeConfig
from dvt.exits import hypervolume
from dvt.models import macs_per_exit
from dvt.search import Space
from dvt.search.finetune import shared_recipe
from dvt.search.record import read_result, read_search
from dvt.search.results import SharedResult, TrialResult, union_front
from dvt.search.sandwich import Sandwich
from tests.benchmarks.search_methods import macs_of_epoch


@dataclass(frozen=True)
class Worth:
    """What some trials found, and what that took in multiply-adds."""

    best: float
    front: float
    compute: float

    @classmethod
    def of(cls, space: Space, trials: Sequence[TrialResult], compute: float) -> "Worth":
        front = union_front(trials, space.budgets.high)
        return cls(
            best=max(trial.epochs[-1].hypervolume for trial in trials),
            front=hypervolume(front, space.budgets.low, space.budgets.high),
            compute=compute,
        )


def compute_of_trials(trials: Sequence[TrialResult]) -> float:
    return sum(trial.epochs[-1].epoch * macs_of_epoch(trial.recipe) for trial in trials)


def compute_of_sharing(space: Space) -> float:
    """Multiply-adds of training the shared weights, from which cascades each step really takes."""
    recipe, config = shared_recipe(space), space.search.supernet
    sandwich = Sandwich.of(space, config.num_random, recipe.train.seed)
    batch = recipe.train.micro_batch_size * recipe.train.grad_accum_steps * recipe.cluster.num_workers
    epochs, steps = recipe.optimizer.total_epochs, recipe.data.train_images // batch
    trained = sum(map(cost, (cascade for step in range(epochs * steps) for cascade in sandwich.of_step(step))))
    measured = epochs * recipe.data.calibration_images * (cost(sandwich.dearest) + cost(sandwich.cheapest))
    return 3 * batch * trained + measured


def compute_of_measuring(space: Space, shared: SharedResult) -> float:
    images = space.base.data.calibration_images
    images = min(images, space.search.supernet.num_images or images)
    return sum(images * cost(trial.recipe.cascade) for trial in shared.inherited)


def cost(cascade: CascadeConfig) -> float:
    """Multiply-adds of all exits for an image."""
    return float(macs_per_exit(cascade)[-1])


def tell_shared(folder: str, alone: Worth) -> None:
    space, place = read_search(folder)
    result = read_result(space, place)
    assert result.shared is not None, f"{folder} must be of a search with shared weights"
    parts = {
        "training shared weights": compute_of_sharing(space),
        f"measuring {len(result.shared.inherited)} cascades": compute_of_measuring(space, result.shared),
        f"training {len(result.finished)} on": compute_of_trials(result.trials),
    }
    worth = Worth.of(space, result.finished, sum(parts.values()))
    print(f"\n{folder}")
    for name, compute in parts.items():
        print(f"  {name}: {compute / alone.compute:.3f} of the compute of the trainings of their own")
    for name, own, theirs in (("best cascade", worth.best, alone.best), ("front of all", worth.front, alone.front)):
        print(f"  {name}: hypervolume {own:.4f}, of the trainings of their own {theirs:.4f}")
    print(f"  in all {worth.compute / alone.compute:.3f} of the compute")


def trainings(folders: Sequence[str], most: int) -> Worth:
    """The first different finished trials of some searches."""
    found: dict[object, TrialResult] = {}
    space = read_search(folders[0])[0]
    for folder in folders:
        own, place = read_search(folder)
        for trial in read_result(own, place).finished:
            found.setdefault((trial.recipe.cascade, trial.recipe.optimizer, trial.recipe.loss), trial)
    trials = list(found.values())[:most]
    return Worth.of(space, trials, compute_of_trials(trials))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", nargs="+", required=True, help="folders of searches with shared weights")
    parser.add_argument("--alone", nargs="+", required=True, help="folders of searches without, of whole trainings")
    parser.add_argument("--trials", type=int, default=30, help="trainings of their own to compare with")
    asked = parser.parse_args()
    alone = trainings([str(Path(folder).resolve()) for folder in asked.alone], asked.trials)
    for folder in asked.shared:
        tell_shared(str(Path(folder).resolve()), alone)


if __name__ == "__main__":
    main()
