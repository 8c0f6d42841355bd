"""Metrics of a search for Prometheus, told by the driver: trials by state, and the best so far."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import get_args

from dvt.search.results import TrialResult, TrialState
from dvt.search.study import Candidate
from dvt.train.ray_metrics import HeldGauges


class SearchGauges:
    """Exports how a search goes; a `SearchObserver`.

    Args:
        search: Its name, the tag `search` of every gauge.
        known: What earlier tries of it found. Their trials that had not ended count once they go on.
        gauges: Export the values.
    """

    def __init__(self, search: str, known: Iterable[TrialResult], gauges: HeldGauges) -> None:
        self._gauges, self._tags = gauges, {"search": search}
        known = [trial for trial in known if trial.state != "running"]
        self._states: dict[int, str] = {trial.number: trial.state for trial in known}
        self._hypervolumes = {trial.number: trial.last.hypervolume for trial in known if trial.last}
        self._top1 = max((trial.last.top1 for trial in known if trial.last), default=0.0)
        self._num_epochs = sum(len(trial.epochs) for trial in known)
        self._tell()

    @classmethod
    @contextmanager
    def exported(cls, search: str, known: Iterable[TrialResult]) -> Iterator["SearchGauges"]:
        """Export a search while the context lasts."""
        gauges = HeldGauges()
        try:
            yield cls(search, known, gauges)
        finally:
            gauges.close()

    def started(self, candidate: Candidate) -> None:
        """A trial begins, or goes on."""
        self._states[candidate.number] = "running"
        self._tell()

    def measured(self, candidate: Candidate, metrics: Mapping[str, float]) -> None:
        """A trial ended an epoch."""
        self._hypervolumes[candidate.number] = metrics["hypervolume"]
        self._top1 = max(self._top1, metrics["top1"])
        self._num_epochs += 1
        self._tell()

    def ended(self, candidate: Candidate, state: str, why: str) -> None:
        """A trial was finished, stopped early, or has failed."""
        self._states[candidate.number] = state
        self._tell()

    def _tell(self) -> None:
        states = list(self._states.values())
        for state in get_args(TrialState):
            self._gauges.hold("dvt_search_trials", float(states.count(state)), {**self._tags, "state": state})
        self._gauges.hold("dvt_search_epochs", float(self._num_epochs), self._tags)
        if self._hypervolumes:
            self._gauges.hold("dvt_search_best_hypervolume", max(self._hypervolumes.values()), self._tags)
            self._gauges.hold("dvt_search_best_top1", self._top1, self._tags)
