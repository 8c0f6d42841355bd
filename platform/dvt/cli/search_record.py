"""A search in MLflow: one parent run, and a child run a trial with its hypervolume by epoch and its front."""

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from dvt.config import to_dict
from dvt.config.logs import bound
from dvt.search.space import Space
from dvt.search.study import Candidate
from dvt.search.trial import read_epochs, trial_folder
from dvt.tracking import (
    MlflowSink,
    MlflowSinkFactory,
    RunRecord,
    closed_as_it_ends,
    finish_run,
    log_front,
    log_metrics,
    log_tags,
    open_run,
)
from dvt.tracking.runs import RunStatus
from dvt.train.storage import RUN, RunFolder

logger = logging.getLogger(__name__)

_STATUS: dict[str, RunStatus] = {"finished": "FINISHED", "stopped": "FINISHED", "failed": "FAILED"}


class SearchRecord:
    """The MLflow runs of a search; a `SearchObserver`.

    Args:
        space: What is searched.
        folder: The search's.
        parent: Its run.

    Attributes:
        parent: The search's run.
    """

    def __init__(self, space: Space, folder: RunFolder, parent: RunRecord) -> None:
        self._space, self._folder, self.parent = space, folder, parent
        self._sinks: dict[int, MlflowSink] = {}

    @classmethod
    @contextmanager
    def opened(cls, space: Space, folder: RunFolder, tracking_uri: str) -> Iterator["SearchRecord"]:
        """The search's run, the same one after a restart; closed with how the context ends."""
        resume = RunRecord.from_json(folder.read(RUN)) if folder.has(RUN) else None
        tags = {f"search.{name}": str(value) for name, value in to_dict(space.search).items() if name != "study_uri"}
        tags["search.space"] = space.name
        parent = open_run(space.base, tracking_uri=tracking_uri, run_name=folder.name, resume=resume, tags=tags)
        folder.write(RUN, parent.to_json())
        record = cls(space, folder, parent)
        with closed_as_it_ends(parent), bound(run_id=parent.run_id):
            try:
                yield record
            finally:
                record._leave()

    def of(self, number: int) -> RunRecord:
        """A trial's run."""
        record = RunRecord.from_json(trial_folder(self._folder, number).read(RUN))
        return replace(record, tracking_uri=self.parent.tracking_uri)  # with today's credentials

    def started(self, candidate: Candidate) -> None:
        """Open the trial's run, the same one after a restart."""
        place = trial_folder(self._folder, candidate.number)
        resume = RunRecord.from_json(place.read(RUN)) if place.has(RUN) else None
        record = open_run(
            candidate.recipe,
            tracking_uri=self.parent.tracking_uri,
            run_name=candidate.recipe.name,
            resume=resume,
            parent=self.parent,
            tags={"search": self._folder.name, "trial": str(candidate.number)},
        )
        place.write(RUN, record.to_json())
        self._sinks[candidate.number] = MlflowSinkFactory.of(record)()
        with bound(trial=candidate.number, run_id=record.run_id):
            logger.info("the trial begins or goes on")

    def measured(self, candidate: Candidate, metrics: Mapping[str, float]) -> None:
        """Keep an epoch's metrics."""
        told = {f"search/{name}": metrics[name] for name in ("hypervolume", "top1", "train_s")}
        told[f"search/mean_{self._space.budgets.unit}"] = metrics["cost"]
        self._sinks[candidate.number].log_metrics(told, step=int(metrics["epoch"]))

    def ended(self, candidate: Candidate, state: str, why: str) -> None:
        """Keep the trial's front, and close its run."""
        record = self.of(candidate.number)
        self._sinks.pop(candidate.number).close()
        log_tags(record, {"search.state": state} | ({"search.why": why} if why else {}))
        epochs = read_epochs(trial_folder(self._folder, candidate.number))
        if epochs:
            with tempfile.TemporaryDirectory(prefix="dvt-") as scratch:
                Path(scratch, "validation_front.json").write_text(json.dumps(epochs[-1].to_dict()), encoding="utf-8")
                log_front(record, Path(scratch))
        if state == "finished" and epochs:
            told = {"search/hypervolume": epochs[-1].hypervolume}
            log_metrics(self.parent, told, step=candidate.number)
        finish_run(record, _STATUS[state])
        with bound(trial=candidate.number, run_id=record.run_id):
            logger.info("the trial %s", f"has failed: {why}" if state == "failed" else f"is {state}")

    def _leave(self) -> None:
        """Close the runs of trials that an interruption cut off."""
        for number, sink in self._sinks.items():
            sink.close()
            finish_run(self.of(number), "KILLED")
