"""Shared weights on a Ray cluster: trained once, then many cascades are measured with what they inherit."""

import time
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, Protocol

import ray
from ray import train as ray_train
from ray.exceptions import RayError

from dvt.config import CascadeConfig, DataConfig, Recipe
from dvt.data import ImageSet, open_data
from dvt.search.elastic import ElasticCascade
from dvt.search.finetune import shared_recipe
from dvt.search.inherited import INHERITED, FirstImages, inherited_front, keep_inherited, read_inherited
from dvt.search.objective import EpochFront
from dvt.search.ray_trial import load_shared
from dvt.search.ray_tune import room_for
from dvt.search.space import Space
from dvt.search.study import CandidateStudy
from dvt.search.supernet import SHARED, train_supernet
from dvt.search.trial import exit_costs, metrics_of, trial_device
from dvt.train.errors import TrainingError
from dvt.train.failures import told_error
from dvt.train.ray_train import train_on_cluster
from dvt.train.sink import MetricSinkFactory
from dvt.train.storage import RunFolder


class MeasureObserver(Protocol):
    """Told on the driver how measuring goes."""

    def measured(self, measured: EpochFront) -> None:
        """A cascade was measured."""

    def failed(self, number: int, why: str) -> None:
        """A cascade could not be measured; it is passed over."""


def train_shared(space: Space, folder: RunFolder, make_sink: MetricSinkFactory) -> ray_train.Checkpoint:
    """Train the weights that all cascades of a space share, going on where an earlier try ended.

    Args:
        space: Its cascades.
        folder: The search's.
        make_sink: Makes the sink that metrics go to.

    Raises:
        CheckpointError: If a checkpoint cannot be read or written, or is of other shared weights.
        DataError: If the images cannot be used.
        Terminated: If it ended by SIGTERM; its last checkpoint is kept.
        TrainingError: If the workers failed too often, or too many steps in a row had a loss that is no number.
    """
    place = replace(folder.child(SHARED), lock=None)
    loop = partial(train_supernet, space=space, config=space.search.supernet)
    return train_on_cluster(shared_recipe(space), place, make_sink, loop, ends_by_sigterm=True)


def measure_inherited(
    space: Space, folder: RunFolder, study: CandidateStudy, shared: ray_train.Checkpoint, observer: MeasureObserver
) -> None:
    """Measure cascades with inherited weights, as many side by side as the cluster has room for.

    Args:
        space: What cascades are chosen from, and how many.
        folder: The search's; keeps what each is worth.
        study: Suggests cascades, and is told what they are worth.
        shared: The shared weights.
        observer: Told how it goes.

    Raises:
        CheckpointError: If the shared weights cannot be read.
        TrainingError: If the cluster has no room for a worker, or no cascade can be measured.
    """
    cluster = replace(space.base.cluster, num_workers=1)
    parallel = min(room_for(cluster), space.search.max_parallel or space.search.num_trials)
    weights = [ray.put(load_shared(space, shared))]
    resources = cluster.worker_resources
    task: Any = ray.remote(_measure).options(num_cpus=resources["CPU"], num_gpus=resources.get("GPU", 0))
    running: dict[Any, int] = {}
    why = ""
    while True:
        while len(running) < parallel and (candidate := study.next()) is not None:
            sent = task.remote(weights, space, candidate.recipe, replace(folder, lock=None), candidate.number)
            running[sent] = candidate.number
        if not running:
            break
        (done,), _ = ray.wait(list(running), num_returns=1)
        number = running.pop(done)
        try:
            measured: EpochFront = ray.get(done)
        except RayError as error:
            why = told_error(error)
            study.fail(number, why)
            observer.failed(number, why)
        else:
            study.finish(number, metrics_of(measured))
            observer.measured(measured)
    if not any(study.state_of(trial) == "finished" for _, trial in study.candidates()):
        raise TrainingError(f"of {space.search.num_trials} cascades one must be measured with inherited weights: {why}")


def _measure(weights: list[Any], space: Space, recipe: Recipe, folder: RunFolder, number: int) -> EpochFront:
    """What a cascade is worth with inherited weights, in a process of any node; kept there before it is told."""
    known = read_inherited(folder, number)  # the driver may have ended before it was told
    if known is not None:
        return known
    begun = time.perf_counter()
    elastic, images = _elastic(weights[0]), _images(recipe.data, space.base.cascade)
    config = space.search.supernet
    if config.num_images is not None:
        images = FirstImages(images, config.num_images)
    costs = exit_costs(recipe, space.budgets, folder.child(INHERITED), f"{number:05d}-costs.json")
    front = inherited_front(elastic, recipe.cascade, images, recipe.data, trial_device(recipe), costs)
    measured = EpochFront.of(front, space.budgets, epoch=0, train_s=time.perf_counter() - begun)
    keep_inherited(folder, number, measured)
    return measured


@lru_cache(maxsize=1)
def _elastic(weights: Any) -> ElasticCascade:
    """The shared weights, fetched once a process."""
    fetched: ElasticCascade = ray.get(weights)
    return fetched


@lru_cache(maxsize=1)
def _images(data: DataConfig, cascade: CascadeConfig) -> ImageSet:
    """The calibration images, opened once a process."""
    return open_data(data, cascade).calibration
