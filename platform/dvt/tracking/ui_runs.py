"""What the page of `dvt ui` shows of runs: which there are, and of each its front, its model and its example images.

All that the page decides by itself, where an image leaves and what a budget reaches, follows from these numbers.
"""

import hashlib
import json
import math
import re
import shlex
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import Run

from dvt.exits import FrontReport
from dvt.exits.bootstrap import FrontBands
from dvt.tracking.errors import TrackingError, one_sentence
from dvt.tracking.example_files import EXAMPLES_FILE
from dvt.tracking.front_files import front_report_of
from dvt.tracking.lookup import find_run, no_progress_bars
from dvt.tracking.picture_style import exit_colours
from dvt.tracking.run_fronts import FRONT_FILE, FRONT_FOLDER, FRONT_TAG, begun, front_text, tagged_runs
from dvt.tracking.runs import RunRecord
from dvt.train.storage import FINISHED, RUN, RunFolder

_VERSION = re.compile(r"models:/(?P<name>[^/@]+)/(?P<version>[0-9]+)")


@dataclass(frozen=True)
class FolderFront:
    """A run's folder, which holds its front; read without MLflow."""

    folder: RunFolder

    @property
    def key(self) -> str:
        """What the page calls it."""
        return "folder-" + hashlib.sha256(self.folder.address.encode()).hexdigest()[:12]

    def row(self) -> dict[str, Any]:
        """Its line in the list of runs."""
        return {"key": self.key, "name": self.folder.name, "experiment": self.folder.address, "begun": None}

    def content(self) -> dict[str, Any]:
        """All that is shown of it; see `front_content`.

        Raises:
            TrackingError: If it holds no front, or none that can be read.
        """
        path = f"{FRONT_FOLDER}/{FRONT_FILE}"
        if not self.folder.has(path):
            raise TrackingError(
                f"{self.folder.address} must hold {path}, got none; dvt front {self.folder.address} makes it"
            )
        examples = f"{FRONT_FOLDER}/{EXAMPLES_FILE}"
        images = self.folder.read(examples) if self.folder.has(examples) else None
        front = front_content(self.folder.read(path), images, self.folder.address)
        return self.row() | front | {"model": self._model(), "options": self._options()}

    def _model(self) -> dict[str, Any] | None:
        """The version that the run says it was registered as; which aliases that has, its folder does not know."""
        told = json.loads(self.folder.read(FINISHED)) if self.folder.has(FINISHED) else {}
        found = _VERSION.fullmatch(told.get("model", ""))
        return None if found is None else {"name": found["name"], "version": found["version"], "aliases": []}

    def _options(self) -> str:
        """What a command needs behind it to speak to the run's MLflow."""
        if not self.folder.has(RUN):
            return ""
        return shlex.join(["--tracking-uri", RunRecord.from_json(self.folder.read(RUN)).address])


class UiRuns:
    """The runs that the page may show.

    Args:
        uri: The tracking address; None shows folders alone.
        run_ids: Runs of MLflow to show; with no folders either, all that have a front.
        folders: Folders of runs to show.
        experiments: Names of the experiments to look in where no run is named; none is all.
    """

    def __init__(
        self,
        uri: str | None,
        run_ids: Sequence[str] = (),
        folders: Sequence[FolderFront] = (),
        experiments: Sequence[str] = (),
    ) -> None:
        self._uri, self._run_ids, self._experiments = uri, tuple(run_ids), tuple(experiments)
        self._folders = {each.key: each for each in folders}
        self._lock = threading.Lock()  # one request at a time talks to MLflow
        self._kept: dict[tuple[str, str], dict[str, Any]] = {}  # of runs by their front's digest

    def rows(self) -> list[dict[str, Any]]:
        """One row a run, in the order asked for, else the newest first; `is_chosen` are to be shown at once.

        Raises:
            ConfigError: If there is no experiment of a name.
            TrackingError: If MLflow does not answer, or a run has no front.
        """
        with self._lock:
            if self._run_ids or self._folders:
                asked = [folder.row() for folder in self._folders.values()]
                return [row | {"is_chosen": True} for row in [*asked, *map(self._row_of, self._run_ids)]]
            found = tagged_runs(str(self._uri), self._experiments)
            rows = [_row(run, experiment) for run, experiment in found]
            return [row | {"is_chosen": index < 3} for index, row in enumerate(rows)]

    def content(self, key: str) -> dict[str, Any] | None:
        """All that is shown of a run; None of one that is not there to be shown.

        Args:
            key: As a row tells it.

        Raises:
            TrackingError: If MLflow does not answer, or the front cannot be read.
        """
        with self._lock:
            if key in self._folders:
                return self._folders[key].content()
            if self._uri is None or ((self._run_ids or self._folders) and key not in self._run_ids):
                return None
            run = self._run(key)
            digest = run.data.tags[FRONT_TAG]
            if (key, digest) not in self._kept:
                text, images = front_text(run, self._uri), self._examples(key)
                self._kept[key, digest] = front_content(text, images, f"the front of run {key}")
            return _row(run, "") | self._kept[key, digest] | {"model": self._model(key)}

    def _row_of(self, run_id: str) -> dict[str, Any]:
        run = self._run(run_id)
        with one_sentence(f"read run {run_id}", str(self._uri)):
            experiment = MlflowClient(tracking_uri=self._uri).get_experiment(run.info.experiment_id)
        return _row(run, experiment.name)

    def _run(self, run_id: str) -> Run:
        """A run that has a front."""
        uri = str(self._uri)
        find_run(uri, run_id)
        with one_sentence(f"read run {run_id}", uri):
            run: Run = MlflowClient(tracking_uri=uri).get_run(run_id)
        if FRONT_TAG not in run.data.tags:
            raise TrackingError(f"run {run_id} must have a front, got none; dvt front {run_id} makes it")
        return run

    def _examples(self, run_id: str) -> str | None:
        """The example images kept with a run; runs of before there were any have none."""
        uri, path = str(self._uri), f"{FRONT_FOLDER}/{EXAMPLES_FILE}"
        with one_sentence(f"hand over the example images of run {run_id}", uri), no_progress_bars():
            client = MlflowClient(tracking_uri=uri)
            if path not in [file.path for file in client.list_artifacts(run_id, FRONT_FOLDER)]:
                return None
            with tempfile.TemporaryDirectory(prefix="dvt-") as scratch:
                file = download_artifacts(run_id=run_id, artifact_path=path, dst_path=scratch, tracking_uri=uri)
                return Path(file).read_text(encoding="utf-8")

    def _model(self, run_id: str) -> dict[str, Any] | None:
        """The newest version that was registered from a run."""
        with one_sentence(f"find the models of run {run_id}", str(self._uri)):
            client = MlflowClient(tracking_uri=self._uri)
            versions = client.search_model_versions(f"run_id = '{run_id}'")
            if not versions:
                return None
            newest = max(versions, key=lambda version: (version.creation_timestamp, int(version.version)))
            aliases = client.get_model_version(newest.name, newest.version).aliases  # a search tells none
        return {"name": newest.name, "version": str(newest.version), "aliases": sorted(aliases)}


def front_content(text: str, examples: str | None, path: str) -> dict[str, Any]:
    """A front as the page takes it: the points of its curve by rising budget, its exits, and example images.

    Args:
        text: Of a `front.json`.
        examples: Of an `examples.json`, if there is one.
        path: Where they are from, for messages.

    Returns:
        Accuracies and shares from 0 to 1, costs in multiply-adds; a threshold is a number, `all` or `closed`.

    Raises:
        TrackingError: If the text is no front.
    """
    try:
        report = front_report_of(text, path)
        stored = json.loads(text).get("bands")
        bands = None if stored is None else FrontBands.from_dict(stored)
        images = [] if examples is None else json.loads(examples)["images"]
    except (ValueError, KeyError) as error:
        raise TrackingError(f"{path} must be readable, got {error}; measure it again by dvt front") from error
    static = report.static_reference
    rows = zip(report.exits, exit_colours(len(report.exits)), strict=True)
    return {
        "exits": [
            {"name": f"exit {row.exit_index}", "grid": row.token_grid, "macs": row.macs, "top1": row.test_top1}
            | {"colour": colour}
            for row, colour in rows
        ],
        "points": _points(report, bands),
        "static": None
        if static is None
        else {"macs": static.macs, "top1": static.test_top1, "grid": static.token_grid},
        "level": None if bands is None else bands.level,
        "examples": images,
    }


def _points(report: FrontReport, bands: FrontBands | None) -> list[dict[str, Any]]:
    made = []
    for index, (chosen, test) in enumerate(zip(report.calibration_front.points, report.test_points, strict=True)):
        band = None if bands is None else bands.test_points[index]
        made.append(
            {
                "budget": chosen.macs,  # the least budget that these thresholds are within
                "macs": test.macs,
                "top1": test.accuracy,
                "band": None if band is None else [band.accuracy_low, band.accuracy_high],
                "shares": list(test.exit_shares),
                "thresholds": [_told_threshold(value) for value in test.thresholds],
            }
        )
    return made


def _told_threshold(threshold: float) -> float | str:
    """A threshold in JSON, which has no infinite numbers."""
    if math.isinf(threshold):
        return "closed" if threshold > 0 else "all"
    return threshold


def _row(run: Run, experiment: str) -> dict[str, Any]:
    told = {"key": run.info.run_id, "name": str(run.info.run_name), "begun": begun(run).isoformat(timespec="seconds")}
    return told | ({"experiment": experiment} if experiment else {})
