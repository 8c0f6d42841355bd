"""A trial's process, started by Ray Tune: one worker trains in it, several are joined by Ray Train.

A candidate that cannot be trained has failed, and the search goes on. What any other trial would meet too (images that
cannot be used, a full disk, a storage that does not answer) ends the search and leaves the trial under way: it goes on
from its last checkpoint once that is mended.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from ray import train as ray_train
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback

from dvt.config import ConfigError, Recipe, recipe_from_dict
from dvt.data import DataError
from dvt.search.elastic import ElasticCascade
from dvt.search.inherited import start_inherited
from dvt.search.ray_scheduler import METRIC
from dvt.search.space import Space
from dvt.search.supernet import load_supernet
from dvt.search.trial import (
    FrontKeeper,
    exit_costs,
    is_trained,
    metrics_of,
    read_epochs,
    tell_logs,
    train_alone,
    trial_folder,
)
from dvt.train.errors import CheckpointError, TrainingError
from dvt.train.loop import train_cascade
from dvt.train.ray_checkpoint import local_copy
from dvt.train.ray_train import train_on_cluster
from dvt.train.storage import RunFolder

FAILED, ENDS_SEARCH = "failed", "ends_search"  # told with a sentence in place of metrics


def run_trial(config: dict[str, Any], folder: RunFolder, space: Space, shared: ray_train.Checkpoint | None) -> None:
    """Train one trial, in a process of its own on any node, and tell Tune each epoch.

    Args:
        config: Its `number`, `recipe` and `budget`, as the searcher suggests them.
        folder: The search's.
        space: What is searched, and how.
        shared: Weights to start from; None for its own.
    """
    recipe, place = recipe_from_dict(config["recipe"]), trial_folder(folder, config["number"])
    tell_logs(place, config["number"])
    past, total_epochs = read_epochs(place), recipe.optimizer.total_epochs
    if past and past[-1].epoch >= total_epochs and not is_trained(place, total_epochs):
        past = past[:-1]  # cut off after its last measurement, so the epoch is trained again
    if past:  # what was measured may not have been told when the trial was cut off
        tune.report(metrics_of(past[-1]))
        if past[-1].epoch >= total_epochs:
            return
    try:
        if shared is not None:
            recipe = start_inherited(place, recipe, partial(load_shared, space, shared))
        costs = exit_costs(recipe, space.budgets, place)
        _train(recipe, place, FrontKeeper(place, recipe, space.budgets, costs, config["budget"]))
    except (ConfigError, TrainingError) as error:  # would come again
        tune.report({FAILED: str(error)})
    except (CheckpointError, DataError) as error:  # not the candidate's fault, who goes on once it is mended
        tune.report({ENDS_SEARCH: str(error)})


def _train(recipe: Recipe, place: RunFolder, keeper: FrontKeeper) -> None:
    if recipe.cluster.most_workers == 1:
        train_alone(recipe, place, keeper, lambda metrics: tune.report(dict(metrics)))
    else:
        loop = partial(train_cascade, on_scores=keeper.start_clock())
        train_on_cluster(recipe, place, partial(_TuneSink, TuneReportCallback()), loop)


class _TuneSink:
    """Hands each epoch's metrics from Ray Train's controller to the trial that waits for it."""

    def __init__(self, callback: TuneReportCallback) -> None:
        self._callback = callback

    def log_metrics(self, metrics: Mapping[str, float], step: int, time_ms: int | None = None) -> None:
        if METRIC in metrics:
            self._callback.after_report(None, [dict(metrics)], None)  # type: ignore[arg-type]  # it reads no context

    def close(self) -> None:
        """Nothing is held back."""


def load_shared(space: Space, shared: ray_train.Checkpoint) -> ElasticCascade:
    """The weights that a space's cascades share, from wherever they are kept.

    Raises:
        CheckpointError: If they cannot be read, or are of other cascades.
    """
    with local_copy(shared) as kept:
        return load_supernet(kept, space, space.search.supernet)
