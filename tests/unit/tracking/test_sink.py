import math
import pickle
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mlflow import MlflowClient

from dvt.tracking import (
    MlflowSinkFactory,
    RunRecord,
    TrackingError,
    all_handed_on,
    finish_run,
    log_metrics,
    open_run,
)
from dvt.tracking.git import package_folder
from dvt.tracking.spool import Spool
from tests.unit.tracking.tiny import tiny_recipe


@pytest.fixture
def record(store: str) -> RunRecord:
    return open_run(tiny_recipe(), tracking_uri=store, run_name="sink")


def history(record: RunRecord, name: str) -> list[tuple[int, float]]:
    found = MlflowClient(tracking_uri=record.tracking_uri).get_metric_history(record.run_id, name)
    return [(metric.step, metric.value) for metric in found]


def test_infinity_is_the_largest_float_and_nan_is_nan(record: RunRecord) -> None:
    sink = MlflowSinkFactory.of(record)()
    sink.log_metrics({"loss": math.inf, "low": -math.inf, "bad": math.nan}, step=4)
    sink.close()
    assert history(record, "loss") == [(4, sys.float_info.max)]
    assert history(record, "low") == [(4, -sys.float_info.max)]
    assert math.isnan(history(record, "bad")[0][1])


def test_a_row_has_the_time_that_it_was_measured_at(record: RunRecord) -> None:
    sink = MlflowSinkFactory.of(record)()
    before_ms = time.time_ns() // 1_000_000
    sink.log_metrics({"loss": 2.0}, step=1, time_ms=1_700_000_000_000)
    sink.log_metrics({"loss": 1.0}, step=2)
    sink.close()
    earlier, now = MlflowClient(tracking_uri=record.tracking_uri).get_metric_history(record.run_id, "loss")
    assert earlier.timestamp == 1_700_000_000_000
    assert before_ms <= now.timestamp <= time.time_ns() // 1_000_000


def test_more_metrics_than_mlflow_takes_at_once(record: RunRecord) -> None:
    log_metrics(record, {f"m/{index}": float(index) for index in range(1201)}, step=0)
    assert history(record, "m/1200") == [(0, 1200.0)]


def test_threads_may_share_a_sink(record: RunRecord) -> None:
    sink = MlflowSinkFactory.of(record)()
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(sink.log_metrics, {"threads": float(step)}, step) for step in range(20)]:
            done.result()
    sink.close()
    assert sorted(history(record, "threads")) == [(step, float(step)) for step in range(20)]


def test_a_factory_logs_to_the_same_run_from_another_process(record: RunRecord) -> None:
    code = """
import pickle, sys
factory = pickle.loads(bytes.fromhex(sys.argv[1]))
sink = factory()
for step in range(10):
    sink.log_metrics({f"process/{sys.argv[2]}": step * 1.5}, step)
sink.close()
"""
    words = [sys.executable, "-c", code, pickle.dumps(MlflowSinkFactory.of(record)).hex()]
    environment = {"PYTHONPATH": str(package_folder().parent)}
    workers = [subprocess.Popen([*words, str(rank)], env=environment, cwd="/") for rank in range(2)]
    assert [worker.wait(120) for worker in workers] == [0, 0]
    for rank in range(2):
        assert history(record, f"process/{rank}") == [(step, step * 1.5) for step in range(10)]


def test_a_file_on_another_node_is_told_and_none_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "node-7")
    with pytest.raises(TrackingError) as caught:
        MlflowSinkFactory(f"sqlite:///{tmp_path}/mlflow.db", "abc")()
    assert str(caught.value) == (
        f"MLflow's SQLite file must be reachable from every node, got {tmp_path}/mlflow.db, which is not on node-7; "
        "give the address of an MLflow server as run.tracking_uri or MLFLOW_TRACKING_URI"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_closed_sink_says_so(record: RunRecord) -> None:
    sink = MlflowSinkFactory.of(record)()
    sink.close()
    with pytest.raises(TrackingError) as caught:
        sink.log_metrics({"late": 1.0}, step=0)
    assert str(caught.value) == f"the metric sink of run {record.run_id} must be open, got a closed one"


def test_a_deleted_run_says_so_and_takes_no_more(record: RunRecord) -> None:
    sink = MlflowSinkFactory.of(record)()
    MlflowClient(tracking_uri=record.tracking_uri).delete_run(record.run_id)
    sink.log_metrics({"late": 1.0}, step=0)
    told = (
        f"MLflow at {record.tracking_uri} must keep the metrics of run {record.run_id}, got an error "
        f"(The run {record.run_id} must be in the 'active' state. Current state is deleted)"
    )
    sink._sender.join(60)
    with pytest.raises(TrackingError) as caught:
        sink.log_metrics({"late": 2.0}, step=1)
    assert str(caught.value) == told
    with pytest.raises(TrackingError) as caught:
        sink.close()
    assert str(caught.value) == told


def test_more_calls_than_are_handed_on_together(record: RunRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dvt.tracking.sink._MOST_CALLS", 7)
    sink = MlflowSinkFactory.of(record)()
    for step in range(50):
        sink.log_metrics({"many": float(step)}, step)
    sink.close()
    assert history(record, "many") == [(step, float(step)) for step in range(50)]


def test_what_another_process_could_not_hand_on_is_handed_on_by_the_next_sink(record: RunRecord) -> None:
    spool = Spool(record.tracking_uri, record.run_id)
    spool.put({"left": 1.5}, 3, 1_700_000_000_000)
    Spool(record.tracking_uri, "another run").put({"left": 9.0}, 0, 1)
    with all_handed_on(record):
        pass
    assert history(record, "left") == [(3, 1.5)]
    (kept,) = MlflowClient(tracking_uri=record.tracking_uri).get_metric_history(record.run_id, "left")
    assert kept.timestamp == 1_700_000_000_000
    assert spool.count() == 0


def test_what_ended_a_run_is_told_not_that_mlflow_refuses(record: RunRecord) -> None:
    MlflowClient(tracking_uri=record.tracking_uri).delete_run(record.run_id)
    Spool(record.tracking_uri, record.run_id).put({"left": 1.0}, 0, 0)
    with pytest.raises(ZeroDivisionError), all_handed_on(record):
        raise ZeroDivisionError
    with pytest.raises(TrackingError, match="Current state is deleted"), all_handed_on(record):
        pass


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_sender_that_broke_is_told(record: RunRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **options: object) -> None:
        raise KeyError("something that nobody expects of MLflow")

    sink = MlflowSinkFactory.of(record)()
    monkeypatch.setattr(sink._client, "log_batch", broken)
    sink.log_metrics({"kept": 1.0}, step=0)
    with pytest.raises(TrackingError, match=r"1 reports wait in .*; run the same command again"):
        sink.close()
    with all_handed_on(record):
        pass
    assert history(record, "kept") == [(0, 1.0)]


def test_a_report_that_is_handed_on_twice_is_kept_once(record: RunRecord) -> None:
    for _ in range(2):  # as by a process that died between MLflow's answer and its note of it
        Spool(record.tracking_uri, record.run_id).put({"twice": 1.0}, 0, 1_700_000_000_000)
        MlflowSinkFactory.of(record)().close()
    assert history(record, "twice") == [(0, 1.0)]


def test_a_finished_run_still_takes_metrics(record: RunRecord) -> None:
    finish_run(record, "FINISHED")
    log_metrics(record, {"after": 1.0}, step=0)
    assert history(record, "after") == [(0, 1.0)]


def test_credentials_are_not_shown() -> None:
    assert "pa55" not in repr(MlflowSinkFactory("http://ann:pa55@host", "abc"))
