"""Made-up results of searches for tests: trials of the embedded space with fronts that are worked by hand."""

import functools
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from dvt.exits import Front, FrontPoint, hypervolume
from dvt.search import Space, load_space
from dvt.search.objective import EpochFront
from dvt.search.results import SearchResult, TrialResult, TrialState

ROOT = Path(__file__).resolve().parents[3]


@functools.cache  # reading it takes longer than most tests
def embedded() -> Space:
    return load_space(ROOT / "search_spaces" / "embedded.yaml")


def front_of(*places: tuple[float, float]) -> Front:
    """A front of (cost, accuracy); the thresholds are those of two exits."""
    return Front(tuple(FrontPoint(macs, accuracy, (0.5, -math.inf), (0.25, 0.75)) for macs, accuracy in places))


def epochs_of(front: Front, space: Space, count: int = 1) -> tuple[EpochFront, ...]:
    value = hypervolume(front.points, space.budgets.low, space.budgets.high)
    last = front.points[-1]
    made = (EpochFront(epoch, value, last.accuracy, last.macs, 60.0 * epoch, front) for epoch in range(1, count + 1))
    return tuple(made)


def trials_of(fronts: Sequence[Front], states: Sequence[TrialState] = (), seed: int = 0) -> tuple[TrialResult, ...]:
    """One trial a front, of different cascades; the first is the space's first point."""
    space = embedded()
    recipes = [*space.first_points, *space.sample(np.random.default_rng(seed), len(fronts) - 1)]
    return tuple(
        TrialResult(
            number=number,
            state=states[number] if states else "finished",
            recipe=replace(recipe, name=f"embedded-{number:04d}"),
            params=space.params_of(recipe),
            epochs=epochs_of(front, space),
        )
        for number, (recipe, front) in enumerate(zip(recipes, fronts, strict=True))
    )


def result_of(trials: tuple[TrialResult, ...], reference: int | None = None) -> SearchResult:
    return SearchResult("embedded-search-001", embedded().budgets, trials, reference)
