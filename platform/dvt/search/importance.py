"""How much each choice of a search mattered, by Optuna's fANOVA.

A conditional space has parameters that only some trials have, such as the second grid of three, and fANOVA compares
trials on what all of them have. So a trial is described by features of its recipe that every cascade has.

Beside `study.py` and `ray_tune.py` this is the one module that knows Optuna: it asks its evaluator, and keeps nothing
in the search's own study.

Source: Hutter, Hoos, Leyton-Brown, "An Efficient Approach for Assessing Hyperparameter Importance", ICML 2014.
"""

import math
import statistics
from collections.abc import Mapping, Sequence

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.importance import FanovaImportanceEvaluator

from dvt.config import flatten, to_dict
from dvt.search.results import TrialResult

LEAST_TRIALS = 4  # fewer say nothing of what mattered
LEAST_SPREAD = 1e-6  # of hypervolumes; a smaller one is rounding, not what a choice brought
_TREES = 64


def features_of(trial: TrialResult) -> dict[str, float]:
    """What a trial chose, as numbers that every trial has.

    Returns:
        By name: exits, grids, reuse depths (mean of the later stages, in blocks; 0 where there are none), widths, and
        the training fields that the searcher chose.
    """
    config = trial.recipe.cascade
    reuses = [config.reuse(index) for index in range(1, config.num_exits)]

    def mean(name: str) -> float:
        return statistics.fmean(getattr(reuse, name) for reuse in reuses) if reuses else 0.0

    features = {
        "exits": float(config.num_exits),
        "first grid": float(config.token_grids[0]),
        "last grid": float(config.token_grids[-1]),
        "feature reuse depth": mean("feature_depth"),
        "relation reuse depth": mean("relation_depth"),
        "relation upstream depth": mean("relation_upstream_depth"),
        "context width": float(config.feature_reuse_dim),
        "depth": float(config.depth),
        "width": float(config.embed_dim),
        "heads": float(config.num_heads),
    }
    fields = flatten(to_dict(trial.recipe))
    chosen = {name: fields[name] for name in trial.params if name in fields and not name.startswith("cascade.")}
    return features | {name: float(value) for name, value in chosen.items() if isinstance(value, int | float)}


def varied_features(trials: Sequence[TrialResult]) -> dict[str, tuple[float, ...]]:
    """The features in which trials differ, each with its value in every trial."""
    rows = [features_of(trial) for trial in trials]
    names = [name for name in (rows[0] if rows else ()) if all(name in row for row in rows)]
    columns = {name: tuple(row[name] for row in rows) for name in names}
    return {name: values for name, values in columns.items() if len(set(values)) > 1}


def importances(trials: Sequence[TrialResult], seed: int = 0) -> Mapping[str, float]:
    """How much of the difference in hypervolume each feature explains.

    Args:
        trials: Trained to the end, each with an epoch at least.
        seed: Of the forest.

    Returns:
        By feature, the largest first, summing to 1; nothing where there are fewer than four trials, or they differ in
        no feature or, but for rounding, not in hypervolume.
    """
    values = [trial.epochs[-1].hypervolume for trial in trials]
    columns = varied_features(trials)
    if len(trials) < LEAST_TRIALS or not columns or max(values) - min(values) < LEAST_SPREAD:
        return {}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    distributions: dict[str, BaseDistribution] = {name: _range(column) for name, column in columns.items()}
    for index, value in enumerate(_from_0_to_1(values)):
        params = {name: column[index] for name, column in columns.items()}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, value=value))
    evaluator = FanovaImportanceEvaluator(n_trees=_TREES, seed=seed)
    shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(share) for name, share in shares.items()}


def _from_0_to_1(values: Sequence[float]) -> list[float]:
    """Values by their place between the least and the largest, which changes no share of their variance.

    A forest splits nothing whose variance is below the rounding of numbers around 1 (scikit-learn 1.9), and Optuna 5.0
    raises where no tree has split.
    """
    low, high = min(values), max(values)
    return [(value - low) / (high - low) for value in values]


def _range(column: Sequence[float]) -> FloatDistribution:
    """The interval of a feature's values, in log where they are positive and span more than a decade or so."""
    low, high = min(column), max(column)
    return FloatDistribution(low, high, log=low > 0 and math.log10(high / low) >= 0.9)
