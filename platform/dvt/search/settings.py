"""How a space is searched: by whom, how many trials, which are stopped early, and what weights they start from.

The comment behind a field is its documentation: meaning, unit and range.
"""

from dataclasses import dataclass, field
from typing import Literal

from dvt.config import Recipe, Rules

Sharing = Literal["grid", "position"]


@dataclass(frozen=True, kw_only=True)
class SupernetConfig:
    """How cascades share their weights, how these are trained, and what becomes of them."""

    sharing: Sharing = "grid"  # stages that share weights: those of one token grid, or at one position of a cascade
    num_random: int = 2  # random cascades trained in each step, besides the dearest and the cheapest
    distill: float = 0.0  # share of the dearest cascade's last probabilities in the targets of the others
    epochs: int | None = None  # of training the shared weights; null is the base recipe's
    num_measured: int = 300  # cascades measured with inherited weights, of which the best are trained on
    num_images: int | None = None  # calibration images they are measured on; null is all
    finetune_epochs: int = 2  # that the best are trained on from what they inherit
    finetune_lr: float = 0.5  # their learning rate, a multiple of the base recipe's

    def __post_init__(self) -> None:
        rules = Rules()
        rules.at_least("num_random", self.num_random, 0)
        rules.between("distill", self.distill, 0, 1)
        rules.above("finetune_lr", self.finetune_lr, 0)
        for name, least in (("epochs", 1), ("num_measured", 1), ("num_images", 2), ("finetune_epochs", 1)):
            if getattr(self, name) is not None:
                rules.at_least(name, getattr(self, name), least)
        rules.enforce()


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """How a space is searched."""

    mode: Literal["trials", "supernet"] = "trials"  # each candidate from its own first weights, or from shared ones
    objective: Literal["hypervolume", "pareto"] = "hypervolume"  # one number, or accuracy and mean cost at a budget
    sampler: Literal["tpe", "nsga2", "random"] = "tpe"  # Optuna's sampler that suggests candidates
    num_trials: int = 30  # candidates to train, those that fail or are stopped early among them
    max_parallel: int | None = None  # trials at a time; null is as many as the cluster has room for
    seed: int = 0  # seed of the suggestions; training has the recipe's
    is_pruned: bool = True  # whether asynchronous successive halving stops what falls behind, by hypervolume
    grace_epochs: int = 2  # epochs that every trial is given
    reduction_factor: float = 3  # one trial in so many goes on from each rung
    # database of the Optuna study, its password in DVT_STUDY_URI; null is a SQLite file in the search's folder
    study_uri: str | None = None
    supernet: SupernetConfig = field(default_factory=SupernetConfig)  # of mode supernet

    def __post_init__(self) -> None:
        rules = Rules()
        for name in ("num_trials", "grace_epochs"):
            rules.at_least(name, getattr(self, name), 1)
        if self.max_parallel is not None:
            rules.at_least("max_parallel", self.max_parallel, 1)
        rules.at_least("seed", self.seed, 0)
        rules.above("reduction_factor", self.reduction_factor, 1)
        if self.mode == "supernet":
            rule = f"must be hypervolume in mode supernet, got {self.objective}"
            rules.require(self.objective == "hypervolume", "objective", rule)
            rules.at_least("supernet.num_measured", self.supernet.num_measured, self.num_trials)
        rules.enforce()


def require_sharable(recipe: Recipe) -> None:
    """Refuse a recipe that asks for what shared weights cannot do.

    Raises:
        ConfigError: Naming each field.
    """
    rules = Rules()
    rules.require(not recipe.train.compile, "train.compile", "must be false where cascades share weights, got true")
    source = recipe.train.init_from
    rules.require(source is None, "train.init_from", f"must be null where cascades share weights, got {source}")
    rules.enforce()
