"""Searching on a Ray cluster through Ray Tune: trials side by side, stopped early, started again where they failed.

The Optuna study (`study.py`) is the one memory: Tune is given its candidates and tells it what became of them, so that
a search that was interrupted in any way goes on from the study and the trials' own folders, not from Tune's.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from ray import train as ray_train
from ray import tune
from ray.tune.execution import class_cache
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from dvt.config import ClusterConfig, to_dict
from dvt.search.ray_scheduler import EPOCH, METRIC, make_scheduler
from dvt.search.ray_trial import ENDS_SEARCH, FAILED, run_trial
from dvt.search.space import Space
from dvt.search.study import Candidate, CandidateStudy
from dvt.train.errors import CheckpointError, TrainingError
from dvt.train.ray_room import count_room, told_need
from dvt.train.scratch import scratch_folder
from dvt.train.storage import RunFolder

# A trial of several workers only waits for them: it must take no core from them, and Tune 2.60 refuses to reserve none.
_NEXT_TO_NOTHING = {"memory": 1.0}


class SearchObserver(Protocol):
    """Told on the driver how a search goes."""

    def started(self, candidate: Candidate) -> None:
        """A trial begins, or goes on."""

    def measured(self, candidate: Candidate, metrics: Mapping[str, float]) -> None:
        """A trial ended an epoch; `metrics` as of `metrics_of`."""

    def ended(self, candidate: Candidate, state: str, why: str) -> None:
        """A trial is `finished`, was `stopped` early or has `failed`."""


def search_on_cluster(
    space: Space,
    folder: RunFolder,
    study: CandidateStudy,
    observer: SearchObserver,
    shared: ray_train.Checkpoint | None = None,
) -> None:
    """Train candidates until there are as many as the space asks for, going on where an earlier try ended.

    Args:
        space: What is searched, and how.
        folder: The search's; keeps the trials.
        study: Suggests candidates.
        observer: Told how it goes.
        shared: Weights that candidates start from, each from what its cascade inherits; None starts each from its own.

    Raises:
        CheckpointError: If a trial meets what any other would: images that cannot be used, a full disk, a storage that
            does not answer. Trials that were under way go on with the next call.
        TrainingError: If not a single trial has room on the cluster.
    """
    _be_quiet()
    _keep_credentials()
    cluster, total_epochs = space.base.cluster, space.base.optimizer.total_epochs
    room = room_for(cluster, reading=int(space.base.data.engine == "ray"))
    parallel = min(room, space.search.max_parallel or space.search.num_trials)
    searcher = _StudySearcher(study, observer, total_epochs)
    trainable = partial(run_trial, folder=replace(folder, lock=None), space=space, shared=shared)
    with scratch_folder() as scratch:
        tune.Tuner(
            tune.with_resources(trainable, tune.PlacementGroupFactory([trial_resources(cluster)])),
            tune_config=tune.TuneConfig(
                num_samples=space.search.num_trials,
                search_alg=searcher,
                scheduler=make_scheduler(space, folder, study),
                max_concurrent_trials=parallel,
                reuse_actors=cluster.most_workers == 1,  # a thread that waits for other workers cannot be ended
            ),
            run_config=tune.RunConfig(
                name=folder.name,
                storage_path=str(scratch),  # Tune's own records; ours outlive them
                failure_config=tune.FailureConfig(max_failures=cluster.max_failures),
                stop=_Stopper(searcher),
                verbose=0,
            ),
        ).fit()
    if searcher.error is not None:
        raise searcher.error


def room_for(cluster: ClusterConfig, reading: int = 0) -> int:
    """How many trials the cluster's nodes have room for at a time, so that none waits for what others hold.

    For each worker `reading` cores, 0 or 1, are left on any node to read its images.

    Raises:
        TrainingError: If it is none.
    """
    workers = count_room(cluster, reading)
    if workers < cluster.most_workers:
        told = told_need(cluster, reading)
        raise TrainingError(
            f"the cluster must have room for the {cluster.most_workers} workers of a trial with {told} each, got room "
            f"for {workers}; add nodes or lower base.cluster.num_workers"
        )
    return workers // cluster.most_workers


def trial_resources(cluster: ClusterConfig) -> dict[str, float]:
    """What Tune reserves for a trial: all of a single worker; several are reserved by Ray Train."""
    return cluster.worker_resources if cluster.most_workers == 1 else _NEXT_TO_NOTHING


class _StudySearcher(Searcher):
    """Tune's view of the study.

    Attributes:
        error: What study or observer raised; ends the search.
    """

    def __init__(self, study: CandidateStudy, observer: SearchObserver, total_epochs: int) -> None:
        super().__init__(metric=METRIC, mode="max")
        self._study, self._observer, self._total_epochs = study, observer, total_epochs
        self._live: dict[str, Candidate] = {}
        self._epochs: dict[int, int] = {}  # the last one that was told, by number
        self.error: Exception | None = None

    def suggest(self, trial_id: str) -> Any:
        with self._kept():
            candidate = None if self.error else self._study.next()
            if candidate is not None:
                self._live[trial_id] = candidate
                self._observer.started(candidate)
                return {
                    "number": candidate.number,
                    "recipe": to_dict(candidate.recipe),
                    "budget": candidate.budget,
                }
        return Searcher.FINISHED

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        with self._kept():
            self._note(self._live[trial_id], result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        candidate = self._live.pop(trial_id)
        if self.error:  # all trials are ended, not because of what they are worth: they are still in flight
            return
        with self._kept():
            self._note(candidate, result or {})  # Tune tells the result that a trial is stopped for here alone
            state, why = self._tell(candidate.number, result or {}, error)
            self._observer.ended(candidate, state, why)

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """Keep an error to raise it once Tune has ended: Tune 2.60 raises others in its place, or none."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  it is raised once Tune has ended
            self.error = self.error or error

    def _note(self, candidate: Candidate, result: Mapping[str, Any]) -> None:
        """Keep an epoch's metrics, unless they are known.

        Raises:
            CheckpointError: If the trial met what any other would meet.
        """
        if ENDS_SEARCH in result:
            raise CheckpointError(result[ENDS_SEARCH])
        if METRIC in result and self._epochs.get(candidate.number, 0) < result[EPOCH]:
            self._epochs[candidate.number] = int(result[EPOCH])
            self._study.report(candidate.number, int(result[EPOCH]), result[METRIC])
            self._observer.measured(candidate, result)

    def _tell(self, number: int, result: Mapping[str, Any], error: bool) -> tuple[str, str]:
        why = str(result.get(FAILED, "")) or ("its process failed too often" if error or METRIC not in result else "")
        if why:
            self._study.fail(number, why)
            return "failed", why
        if int(result[EPOCH]) < self._total_epochs:
            self._study.stop(number)
            return "stopped", ""
        self._study.finish(number, result)
        return "finished", ""

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune 2.60 keeps a pickled copy to restore from, which is never done here."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study is kept already."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing."""


class _Stopper(Stopper):
    """Ends all trials once the study or the observer has failed."""

    def __init__(self, searcher: _StudySearcher) -> None:
        self._searcher = searcher

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._searcher.error is not None


def _be_quiet() -> None:
    """Leave what is printed, Ctrl-C and rows without the metric to this project (Ray 2.60)."""
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    for name in ("ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _keep_credentials() -> None:
    """Leave AWS credentials out of what Tune hands to its trials, as Ray 2.60 writes that to its logs.

    Trials have those of the job or of their node, as all other workers do.
    """
    for name in [name for name in class_cache.ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")]:
        class_cache.ENV_VARS_TO_PROPAGATE.discard(name)
