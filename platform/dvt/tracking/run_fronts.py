"""The fronts of runs: kept with each run, and read back to compare runs at a budget across experiments.

A run with a front carries the digest of its `front.json` as a tag: by it MLflow finds such runs, and a copy on this
machine is known to be the newest, so that each front is fetched once.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import Run, ViewType

from dvt.config import ConfigError, Problem
from dvt.exits import FrontReport
from dvt.tracking.errors import TrackingError, one_sentence
from dvt.tracking.front_files import front_report_of
from dvt.tracking.lookup import check_store, no_progress_bars
from dvt.tracking.runs import RunRecord, log_artifacts, log_tags

FRONT_FOLDER, FRONT_FILE = "front", "front.json"
FRONT_TAG = "front.sha256"
_PAGE = 1000  # runs that MLflow tells of at once
_MOST_EXPERIMENTS = 1000


@dataclass(frozen=True, kw_only=True)
class RunFront:
    """A run and its front."""

    run_id: str
    name: str
    experiment: str
    started: datetime
    report: FrontReport


@dataclass(frozen=True, kw_only=True)
class RunAtBudget:
    """What a run reaches within a budget: thresholds chosen on calibration images, measured on test images."""

    run_id: str
    name: str
    experiment: str
    started: datetime
    top1: float  # accuracy on the test images, from 0 to 1
    macs: float  # mean multiply-adds an image on the test images; may lie a little over the budget
    token_grids: tuple[int, ...]  # (E,), tokens a side of each stage
    thresholds: tuple[float, ...]  # (E,), the last of them -inf
    exit_shares: tuple[float, ...]  # (E,), of the test images


def log_front(record: RunRecord, folder: Path) -> None:
    """Keep the front's files (JSON, CSV, pictures) with the run, in its artifact folder `front`.

    Raises:
        TrackingError: If a file cannot be kept.
    """
    log_artifacts(record, folder, FRONT_FOLDER)
    report = folder / FRONT_FILE
    if report.is_file():  # last, so that who finds the tag finds the file
        log_tags(record, {FRONT_TAG: hashlib.sha256(report.read_bytes()).hexdigest()})


def runs_with_fronts(uri: str, experiments: Sequence[str] = ()) -> Iterator[RunFront]:
    """Runs that have a front on test images, newest first.

    Args:
        uri: The tracking address.
        experiments: Names of the experiments to look in; none is all.

    Raises:
        ConfigError: If there is no experiment of a name.
        TrackingError: If MLflow does not answer, or a front cannot be read.
    """
    for run, experiment in tagged_runs(uri, experiments):
        yield RunFront(
            run_id=run.info.run_id,
            name=str(run.info.run_name),
            experiment=experiment,
            started=begun(run),
            report=_read_front(run, uri),
        )


def tagged_runs(uri: str, experiments: Sequence[str] = ()) -> Iterator[tuple[Run, str]]:
    """The runs of `runs_with_fronts` and the names of their experiments, without the fronts themselves."""
    check_store(uri)
    client = MlflowClient(tracking_uri=uri)
    names = _experiments(client, uri, experiments)
    token = None
    while names:
        with one_sentence("list runs", uri):
            page = client.search_runs(
                list(names),
                filter_string=f"tags.`{FRONT_TAG}` LIKE '%'",
                run_view_type=ViewType.ACTIVE_ONLY,
                max_results=_PAGE,
                order_by=["attributes.start_time DESC"],
                page_token=token,
            )
        for run in page:
            yield run, names[str(run.info.experiment_id)]
        token = page.token
        if not token:
            return


def begun(run: Run) -> datetime:
    """When a run was started."""
    return datetime.fromtimestamp(run.info.start_time / 1000, UTC)


def best_runs(uri: str, budget_macs: float, experiments: Sequence[str] = ()) -> list[RunAtBudget]:
    """Runs by what they reach within a budget, the most accurate first; of equally accurate ones the cheaper.

    Args:
        uri: The tracking address.
        budget_macs: Mean multiply-adds an image that may be spent.
        experiments: Names of the experiments to look in; none is all.

    Raises:
        ConfigError: If there is no experiment of a name, or not even the cheapest exit of any run is within the budget.
        TrackingError: If MLflow does not answer, or holds no run with a front.
    """
    found, cheapest = [], []
    for run in runs_with_fronts(uri, experiments):
        cheapest.append(run.report.calibration_front.points[0].macs)
        at_budget = run_at_budget(run, budget_macs)
        if at_budget is not None:
            found.append(at_budget)
    if not cheapest:
        where = " of " + ", ".join(experiments) if experiments else ""
        raise TrackingError(
            f"MLflow must hold a run{where} with a front, got none; dvt train and dvt front RUN keep one"
        )
    if not found:
        least = f"{min(cheapest):.12g}, the cost of the cheapest run's first exit"
        raise ConfigError([Problem("budget_macs", f"must be at least {least}, got {budget_macs:.12g}")])
    return sorted(found, key=lambda run: (-run.top1, run.macs))


def run_at_budget(run: RunFront, budget_macs: float) -> RunAtBudget | None:
    """What a run reaches within a budget; None if not even its first exit is."""
    report = run.report
    within = [index for index, point in enumerate(report.calibration_front.points) if point.macs <= budget_macs]
    if not within:
        return None
    point = report.test_points[within[-1]]
    return RunAtBudget(
        run_id=run.run_id,
        name=run.name,
        experiment=run.experiment,
        started=run.started,
        top1=point.accuracy,
        macs=point.macs,
        token_grids=tuple(row.token_grid for row in report.exits),
        thresholds=point.thresholds,
        exit_shares=point.exit_shares,
    )


def _experiments(client: MlflowClient, uri: str, wanted: Sequence[str]) -> dict[str, str]:
    """Names of experiments by id."""
    with one_sentence("list experiments", uri):
        known = {
            str(each.experiment_id): each.name for each in client.search_experiments(max_results=_MOST_EXPERIMENTS)
        }
    missing = [name for name in wanted if name not in known.values()]
    if missing:
        rule = f"must be an experiment of MLflow, got {missing[0]!r}; choose from {', '.join(sorted(known.values()))}"
        raise ConfigError([Problem("experiment", rule)])
    return {key: name for key, name in known.items() if not wanted or name in wanted}


def _read_front(run: Run, uri: str) -> FrontReport:
    try:
        return front_report_of(front_text(run, uri), f"the front of run {run.info.run_id}")
    except ValueError as error:
        raise TrackingError(f"{error}; measure it again by dvt front {run.info.run_id}") from error


def front_text(run: Run, uri: str) -> str:
    """The `front.json` of a run that carries `FRONT_TAG`, from this machine's copy where that is the newest.

    Raises:
        TrackingError: If MLflow does not hand it over.
    """
    digest, run_id = run.data.tags[FRONT_TAG], run.info.run_id
    copy = _cache_folder() / f"{run_id}-{digest[:16]}.json"
    content = copy.read_bytes() if copy.is_file() else b""
    if hashlib.sha256(content).hexdigest() != digest:
        with tempfile.TemporaryDirectory(prefix="dvt-") as scratch:
            with one_sentence(f"hand over the front of run {run_id}", uri), no_progress_bars():
                path = f"{FRONT_FOLDER}/{FRONT_FILE}"
                file = download_artifacts(run_id=run_id, artifact_path=path, dst_path=scratch, tracking_uri=uri)
            content = Path(file).read_bytes()
        partial = copy.with_suffix(f".{os.getpid()}")
        partial.write_bytes(content)
        partial.replace(copy)
    return content.decode(errors="replace")


def _cache_folder() -> Path:
    home = os.environ.get("XDG_CACHE_HOME", "")
    folder = (Path(home) if Path(home).is_absolute() else Path.home() / ".cache") / "dvt" / "fronts"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
