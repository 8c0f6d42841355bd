"""How a space is searched: by whom, how many trials, and which are stopped early.

The comment behind a field is its documentation: meaning, unit and range.
"""

from dataclasses import dataclass
from typing import Literal

from dvt.config import Rules


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """How a space is searched."""

    objective: Literal["hypervolume", "pareto"] = "hypervolume"  # one number, or accuracy and mean cost at a budget
    sampler: Literal["tpe", "nsga2", "random"] = "tpe"  # Optuna's sampler that suggests candidates
    num_trials: int = 30  # candidates to train, those that fail or are stopped early among them
    max_parallel: int | None = None  # trials at a time; null is as many as the cluster has room for
    seed: int = 0  # seed of the suggestions; training has the recipe's
    is_pruned: bool = True  # whether asynchronous successive halving stops what falls behind, by hypervolume
    grace_epochs: int = 2  # epochs that every trial is given
    reduction_factor: float = 3  # one trial in so many goes on from each rung
    study_uri: str | None = None  # database of the Optuna study; null is a SQLite file in the search's folder

    def __post_init__(self) -> None:
        rules = Rules()
        for name in ("num_trials", "grace_epochs"):
            rules.at_least(name, getattr(self, name), 1)
        if self.max_parallel is not None:
            rules.at_least("max_parallel", self.max_parallel, 1)
        rules.at_least("seed", self.seed, 0)
        rules.above("reduction_factor", self.reduction_factor, 1)
        rules.enforce()
