"""Checkpoints are uploaded beside training, one at a time; what Ray Train does is played by a session of one thread."""

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.local import LocalFileSystem
from ray import train as ray_train
from ray.train import CheckpointUploadMode

from dvt.train import ray_report
from dvt.train.cost import ELAPSED
from dvt.train.errors import CheckpointError
from dvt.train.loop import BEST_METRIC
from dvt.train.past_run import CHECKPOINTS, ROWS, SNAPSHOT
from dvt.train.ray_report import SENT_EVERY_S, RayReporter, Row, rows_of, tell_last_rows
from dvt.train.storage import RunFolder

PATIENCE_S = 10
RUN = RunFolder(LocalFileSystem(), "/nowhere", "run")  # nothing is kept there but batches to look at


class Session:
    """Uploads in a thread of its own, once `storage_is_free`, and lists what was reported when it is there."""

    def __init__(self, storage: Path) -> None:
        self.storage, self.listed, self.modes = storage, list[tuple[int, str | None]](), list[CheckpointUploadMode]()
        self.storage_is_free, self.failure = threading.Event(), ""
        self.thread, self.handed = ThreadPoolExecutor(1), list[Future[None]]()

    def get_storage(self) -> "Session":
        return self

    def persist_current_checkpoint(self, checkpoint: ray_train.Checkpoint, name: str) -> ray_train.Checkpoint:
        assert self.storage_is_free.wait(PATIENCE_S)
        if self.failure:
            raise OSError(self.failure)
        Path(self.storage, name).write_text(Path(checkpoint.path, "weights").read_text())
        return ray_train.Checkpoint(str(self.storage / name))

    def report(
        self,
        metrics: dict[str, Any],
        checkpoint: ray_train.Checkpoint | None = None,
        checkpoint_upload_mode: CheckpointUploadMode = CheckpointUploadMode.SYNC,
        checkpoint_upload_fn: Callable[[ray_train.Checkpoint, str], ray_train.Checkpoint] | None = None,
    ) -> None:
        def work() -> None:
            name = None
            if checkpoint is not None:
                assert checkpoint_upload_fn is not None
                name = Path(checkpoint_upload_fn(checkpoint, f"checkpoint_{metrics['step']}").path).name
            self.listed += [(row["step"], name) for row in rows_of(metrics)]

        self.modes.append(checkpoint_upload_mode)
        self.last_metrics = metrics
        self.handed.append(self.thread.submit(work))
        if checkpoint_upload_mode == CheckpointUploadMode.SYNC:
            self.handed[-1].result(PATIENCE_S)


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    (tmp_path / "storage").mkdir()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    session = Session(tmp_path / "storage")
    monkeypatch.setattr(ray_train, "report", session.report)
    monkeypatch.setattr(ray_train, "get_context", lambda: session)
    yield session
    session.storage_is_free.set()
    session.thread.shutdown()


def checkpoint(folder: Path, step: int) -> Path:
    place = folder / "checkpoint"
    place.mkdir()
    (place / "weights").write_text(str(step))
    return place


def test_training_goes_on_while_a_checkpoint_is_uploaded(session: Session, tmp_path: Path) -> None:
    reporter = RayReporter(RUN)
    reporter.report({BEST_METRIC: 0.5}, 1, checkpoint(tmp_path, 1))
    assert not (tmp_path / "checkpoint").exists()  # the loop may remove its folder and write the next one
    reporter.report({ELAPSED: 1.0}, 2, None)  # neither waits
    assert session.listed == []
    assert session.modes == [CheckpointUploadMode.ASYNC] * 2
    session.storage_is_free.set()
    reporter.join()
    session.handed[-1].result(PATIENCE_S)
    assert session.listed == [(1, "checkpoint_1"), (2, None)]
    assert (session.storage / "checkpoint_1").read_text() == "1"
    assert list((tmp_path / "temporary").iterdir()) == []
    reporter.report({ELAPSED: 9.0}, 3, None)  # nothing is on its way
    assert session.modes[-1] == CheckpointUploadMode.SYNC


def test_the_next_checkpoint_waits_for_the_one_before(session: Session, tmp_path: Path) -> None:
    reporter = RayReporter(RUN)
    reporter.report({}, 1, checkpoint(tmp_path, 1))
    assert session.last_metrics[BEST_METRIC] == -1.0
    second = threading.Thread(target=reporter.report, args=({BEST_METRIC: 0.5}, 2, checkpoint(tmp_path, 2)))
    second.start()
    second.join(0.2)
    assert second.is_alive()
    assert len(session.handed) == 1
    session.storage_is_free.set()
    second.join(PATIENCE_S)
    reporter.join()
    session.handed[-1].result(PATIENCE_S)
    assert session.listed == [(1, "checkpoint_1"), (2, "checkpoint_2")]
    assert rows_of(session.last_metrics)[0]["metrics"] == {BEST_METRIC: 0.5}


def test_what_the_storage_refuses_is_told_before_the_next_and_at_the_end(session: Session, tmp_path: Path) -> None:
    session.failure = "first line\nno space left"
    session.storage_is_free.set()
    reporter = RayReporter(RUN)
    reporter.report({}, 1, checkpoint(tmp_path, 1))
    rule = (
        "the run's storage must take its checkpoints, got: no space left; free space or mend it, and run the same "
        "command again to go on from the last checkpoint"
    )
    for act in (lambda: reporter.report({}, 2, checkpoint(tmp_path, 2)), reporter.join):
        with pytest.raises(CheckpointError) as told:
            act()
        assert str(told.value) == rule
    assert session.listed == []
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_checkpoint_that_is_not_handed_over_is_not_waited_for(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where Ray Train's own processes are gone, or no folder can be made."""

    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("nobody is there")

    for place in (f"{ray_report.__name__}.scratch_folder", "ray.train.report"):
        reporter, made = RayReporter(RUN), checkpoint(tmp_path, 1)
        with monkeypatch.context() as patch:
            patch.setattr(place, refuse)
            with pytest.raises(ConnectionError, match="nobody is there"):
                reporter.report({}, 1, made)
        waits = threading.Thread(target=reporter.join, daemon=True)
        waits.start()
        waits.join(PATIENCE_S)
        assert not waits.is_alive()
        shutil.rmtree(made, ignore_errors=True)
    assert list((tmp_path / "temporary").iterdir()) == []


def test_rows_that_come_closer_than_they_are_taken_go_together(session: Session) -> None:
    reporter = RayReporter(RUN)
    begun_ms = time.time_ns() // 1_000_000
    for step, elapsed_s in enumerate((9.0, 10.0, 11.0, 9.0 + SENT_EVERY_S, 12.0)):
        reporter.report({ELAPSED: elapsed_s, "train/loss": float(step)}, step, None)
        time.sleep(0.002)
    assert session.listed == [(0, None), (1, None), (2, None), (3, None)]
    assert len(session.handed) == 2
    rows = rows_of(session.last_metrics)
    assert [row["metrics"]["train/loss"] for row in rows] == [1.0, 2.0, 3.0]
    told_ms = [row["time_ms"] for row in rows]
    assert begun_ms <= told_ms[0] < told_ms[1] < told_ms[2]


@pytest.mark.parametrize("rank", [0, 1])
def test_all_workers_send_the_same_rows_before_a_checkpoint(session: Session, tmp_path: Path, rank: int) -> None:
    session.storage_is_free.set()
    reporter = RayReporter(RUN)
    for step in (1, 2):
        reporter.report({ELAPSED: 1.0 + step}, step, None)
    folder = checkpoint(tmp_path, 3) if rank == 0 else tmp_path / "checkpoint"
    reporter.report({ELAPSED: 4.0, BEST_METRIC: 0.5}, 3, folder)
    reporter.join()
    session.handed[-1].result(PATIENCE_S)
    with_it = "checkpoint_3" if rank == 0 else None
    assert session.listed == [(1, None), (2, with_it), (3, with_it)]
    assert len(session.handed) == 2


def test_a_checkpoint_s_row_tells_no_accuracy_that_was_not_measured() -> None:
    assert rows_of({BEST_METRIC: -1.0, "train/loss": 0.5, "step": 4, "time_ms": 5, "rows": []}) == [
        Row(metrics={"train/loss": 0.5}, step=4, time_ms=5)
    ]


class Sink:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told, self.is_closed = list[Row](), False

    def log_metrics(self, metrics: Mapping[str, float], step: int, time_ms: int | None = None) -> None:
        assert time_ms is not None
        self.told.append(Row(metrics=dict(metrics), step=step, time_ms=time_ms))

    def close(self) -> None:
        self.is_closed = True


def test_what_came_with_the_last_checkpoint_is_told_again(tmp_path: Path) -> None:
    """Its driver may have been killed once Ray Train had listed it, before the sink had heard of it."""
    run, sink = RunFolder(LocalFileSystem(), str(tmp_path), "run"), Sink()
    tell_last_rows(run, lambda: sink)
    assert sink.told == []
    held = Row(metrics={"train/loss": 0.7}, step=3, time_ms=30)
    last = {BEST_METRIC: 0.5, "epoch": 1, "step": 4, "time_ms": 40, ROWS: [held]}
    (tmp_path / CHECKPOINTS).mkdir()
    (tmp_path / CHECKPOINTS / SNAPSHOT).write_text(json.dumps({"latest_checkpoint_result": {"metrics": last}}))
    tell_last_rows(run, lambda: sink)
    assert sink.told == [held, Row(metrics={BEST_METRIC: 0.5, "epoch": 1.0}, step=4, time_ms=40)]
    assert sink.is_closed


def test_without_a_checkpoint_there_is_nothing_to_wait_for(session: Session) -> None:
    RayReporter(RUN).join()


def test_what_is_to_be_looked_at_lies_in_the_runs_folder(tmp_path: Path) -> None:
    run, made = tmp_path / "run", tmp_path / "not_finite_000000003"
    for folder in (run, made):
        folder.mkdir()
    (made / "batch.json").write_text("{}")
    address = RayReporter(RunFolder(LocalFileSystem(), str(run), "run")).keep(made)
    assert address == str(run / "not_finite_000000003")
    assert Path(address, "batch.json").read_text() == "{}"
