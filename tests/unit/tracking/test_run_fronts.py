"""Runs with fronts, found in a real SQLite store and ordered at a budget."""

import math
from pathlib import Path

import pytest
from mlflow import MlflowClient

from dvt.config import ConfigError
from dvt.exits import ExitRow, Front, FrontPoint, FrontReport
from dvt.tracking import RunRecord, TrackingError, check_tracking, log_front, open_run
from dvt.tracking.front_files import write_front_files
from dvt.tracking.run_fronts import best_runs, runs_with_fronts
from tests.unit.tracking.tiny import tiny_recipe

INF = math.inf
CHEAP, DEAR = 100.0, 300.0


def report(first: float, middle: float, last: float, macs: float = CHEAP) -> FrontReport:
    """Two exits; on test images each point is as accurate as told, on calibration images 0.1 more."""
    vectors = ((-INF, -INF), (0.5, -INF), (INF, -INF))
    shares = ((1.0, 0.0), (0.5, 0.5), (0.0, 1.0))
    costs = (macs, (macs + DEAR) / 2, DEAR)
    test = [FrontPoint(*each) for each in zip(costs, (first, middle, last), vectors, shares, strict=True)]
    chosen = [FrontPoint(each.macs, each.accuracy + 0.1, each.thresholds, each.exit_shares) for each in test]
    exits = (
        ExitRow(exit_index=1, token_grid=2, num_tokens=4, macs=macs, test_top1=first),
        ExitRow(exit_index=2, token_grid=4, num_tokens=16, macs=DEAR, test_top1=last),
    )
    return FrontReport(
        recipe="r", exits=exits, budgets=(), calibration_front=Front(tuple(chosen)), test_points=tuple(test)
    )


def run_of(uri: str, folder: Path, name: str, front: FrontReport, experiment: str = "dvt") -> RunRecord:
    record = open_run(tiny_recipe(experiment), tracking_uri=uri, run_name=name)
    write_front_files(folder / name, front)
    log_front(record, folder / name)
    return record


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "dvt" / "fronts"


@pytest.fixture(scope="module")
def filled(store: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunRecord]:
    folder = tmp_path_factory.mktemp("fronts")
    fronts = {
        "early": (report(0.70, 0.75, 0.80), "dvt"),
        "late": (report(0.50, 0.60, 0.90), "dvt"),
        "costly": (report(0.72, 0.74, 0.76, macs=250.0), "other"),
    }
    made = {name: run_of(store, folder, name, front, where) for name, (front, where) in fronts.items()}
    open_run(tiny_recipe(), tracking_uri=store, run_name="without a front")
    return made


def test_the_order_depends_on_the_budget(store: str, filled: dict[str, RunRecord]) -> None:
    assert [(run.name, run.top1, run.macs) for run in best_runs(store, 199)] == [
        ("early", 0.70, 100.0),
        ("late", 0.50, 100.0),
    ]
    assert [(run.name, run.top1) for run in best_runs(store, 260)] == [
        ("early", 0.75),
        ("costly", 0.72),
        ("late", 0.60),
    ]
    best = best_runs(store, 1e9)[0]
    assert (best.name, best.experiment, best.top1, best.macs) == ("late", "dvt", 0.90, DEAR)
    assert (best.token_grids, best.thresholds, best.exit_shares) == ((2, 4), (INF, -INF), (0.0, 1.0))
    assert best.run_id == filled["late"].run_id


def test_one_experiment_alone(store: str, filled: dict[str, RunRecord]) -> None:
    assert [run.name for run in best_runs(store, 1e9, ["other"])] == ["costly"]
    assert [run.name for run in runs_with_fronts(store)] == ["costly", "late", "early"]  # newest first


def test_a_front_is_fetched_once_and_again_when_it_changed(
    store: str, filled: dict[str, RunRecord], cache: Path, tmp_path: Path
) -> None:
    best_runs(store, 1e9)
    copies = {path: path.stat().st_mtime_ns for path in cache.iterdir()}
    assert len(copies) == 3
    best_runs(store, 1e9)
    assert {path: path.stat().st_mtime_ns for path in cache.iterdir()} == copies
    broken = next(iter(copies))
    broken.write_text("{}")
    assert len(best_runs(store, 1e9)) == 3

    write_front_files(tmp_path, report(0.1, 0.2, 0.3))
    log_front(filled["late"], tmp_path)
    assert best_runs(store, 1e9)[0].name == "early"
    write_front_files(tmp_path, report(0.50, 0.60, 0.90))
    log_front(filled["late"], tmp_path)


def test_what_cannot_be_told_is_one_sentence(store: str, filled: dict[str, RunRecord], tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        best_runs(store, 99)
    assert [str(problem) for problem in caught.value.problems] == [
        "budget_macs must be at least 100, the cost of the cheapest run's first exit, got 99"
    ]
    with pytest.raises(ConfigError) as caught:
        best_runs(store, 1e9, ["othr"])
    assert [str(problem) for problem in caught.value.problems] == [
        "experiment must be an experiment of MLflow, got 'othr'; choose from Default, dvt, other"
    ]
    with pytest.raises(TrackingError) as told:
        best_runs(store, 1e9, ["Default"])
    assert str(told.value) == (
        "MLflow must hold a run of Default with a front, got none; dvt train and dvt front RUN keep one"
    )
    with pytest.raises(TrackingError, match="must name MLflow's SQLite file"):
        best_runs(f"sqlite:///{tmp_path}/nowhere.db", 1e9)
    assert list(tmp_path.iterdir()) == []


def test_a_deleted_run_is_not_listed(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    check_tracking(uri)
    records = [run_of(uri, tmp_path, name, report(0.1, 0.2, 0.3)) for name in ("kept", "gone")]
    MlflowClient(tracking_uri=uri).delete_run(records[1].run_id)
    assert [run.name for run in runs_with_fronts(uri)] == ["kept"]
