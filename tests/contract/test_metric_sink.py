"""What every `MetricSink` must do; a new one joins by a line in `SINKS`."""

import math
import pickle
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from mlflow import MlflowClient

from dvt.tracking import MlflowSinkFactory, RunRecord, check_tracking, open_run
from dvt.train.ray_metrics import ExportedSinkFactory
from dvt.train.sink import MetricSink, MetricSinkFactory
from tests.unit.tracking.tiny import tiny_recipe


class Subject(ABC):
    """A factory of sinks, and a way to read back what its sinks kept."""

    factory: MetricSinkFactory

    @abstractmethod
    def read(self, name: str) -> list[tuple[int, float]]:
        """All values of a metric as (step, value), in the order logged."""


KEPT: list[tuple[str, int, float]] = []


@dataclass
class MemorySink:
    """Keeps metrics in a list; what tests of training use."""

    is_closed: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def log_metrics(self, metrics: Mapping[str, float], step: int, time_ms: int | None = None) -> None:
        with self.lock:
            if self.is_closed:
                raise RuntimeError("the metric sink must be open, got a closed one")
            KEPT.extend((name, step, float(value)) for name, value in metrics.items())

    def close(self) -> None:
        self.is_closed = True


class MemorySubject(Subject):
    factory = MemorySink

    def __init__(self, folder: Path) -> None:
        KEPT.clear()

    def read(self, name: str) -> list[tuple[int, float]]:
        return [(step, value) for kept, step, value in KEPT if kept == name]


class ExportedSubject(MemorySubject):
    """Exports to Prometheus beside another sink; Ray need not run."""

    factory = ExportedSinkFactory(MemorySink, "contract")


class MlflowSubject(Subject):
    def __init__(self, folder: Path) -> None:
        uri = f"sqlite:///{folder}/mlflow.db"
        check_tracking(uri)
        self.record: RunRecord = open_run(tiny_recipe(), tracking_uri=uri, run_name="contract")
        self.factory = MlflowSinkFactory.of(self.record)

    def read(self, name: str) -> list[tuple[int, float]]:
        client = MlflowClient(tracking_uri=self.record.tracking_uri)
        return [(metric.step, metric.value) for metric in client.get_metric_history(self.record.run_id, name)]


SINKS: dict[str, type[MemorySubject] | type[MlflowSubject]] = {
    "memory": MemorySubject,
    "exported": ExportedSubject,
    "mlflow": MlflowSubject,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("contract")


@pytest.fixture(params=SINKS)
def subject(request: pytest.FixtureRequest, folder: Path) -> Subject:
    return SINKS[request.param](folder)


@pytest.fixture
def sink(subject: Subject) -> MetricSink:
    return subject.factory()


def test_values_are_read_back_by_name_and_step(subject: Subject, sink: MetricSink) -> None:
    sink.log_metrics({"train/loss": 2.5, "test/exit_1/top1": 0.125}, step=0)
    sink.log_metrics({"train/loss": 1.25}, step=10)
    sink.close()
    assert subject.read("train/loss") == [(0, 2.5), (10, 1.25)]
    assert subject.read("test/exit_1/top1") == [(0, 0.125)]


def test_steps_come_in_any_order(subject: Subject, sink: MetricSink) -> None:
    for step in (5, 3, 4):
        sink.log_metrics({"loss": float(step)}, step)
    sink.close()
    assert sorted(subject.read("loss")) == [(3, 3.0), (4, 4.0), (5, 5.0)]


def test_what_was_measured_earlier_is_kept_as_well(subject: Subject, sink: MetricSink) -> None:
    sink.log_metrics({"loss": 2.0}, step=1, time_ms=1_700_000_000_000)
    sink.log_metrics({"loss": 1.0}, step=2)
    sink.close()
    assert subject.read("loss") == [(1, 2.0), (2, 1.0)]


def test_a_step_may_come_again_and_the_newest_value_is_last(subject: Subject, sink: MetricSink) -> None:
    sink.log_metrics({"loss": 1.0}, step=3)
    sink.close()
    again = subject.factory()  # as after a restart
    again.log_metrics({"loss": 2.0}, step=3)
    again.close()
    assert subject.read("loss")[-1] == (3, 2.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_kept_and_do_not_look_ordinary(
    subject: Subject, sink: MetricSink, value: float
) -> None:
    sink.log_metrics({"good": 1.0, "bad": value}, step=0)
    sink.close()
    [(step, kept)] = subject.read("bad")
    assert step == 0
    assert math.isnan(kept) if math.isnan(value) else (abs(kept) > 1e308 and (kept > 0) == (value > 0))
    assert subject.read("good") == [(0, 1.0)]


def test_whole_numbers_are_taken(subject: Subject, sink: MetricSink) -> None:
    sink.log_metrics({"images": 12}, step=0)
    sink.close()
    assert subject.read("images") == [(0, 12.0)]


def test_nothing_to_log_is_fine(sink: MetricSink) -> None:
    sink.log_metrics({}, step=0)
    sink.close()


def test_closing_twice_is_fine_and_logging_after_it_is_not(sink: MetricSink) -> None:
    sink.close()
    sink.close()
    with pytest.raises(RuntimeError, match="must be open"):
        sink.log_metrics({"late": 1.0}, step=0)


def test_a_factory_pickles_and_makes_sinks_of_the_same_place(subject: Subject) -> None:
    copy: MetricSinkFactory = pickle.loads(pickle.dumps(subject.factory))  # noqa: S301  our own bytes
    for number, factory in enumerate((subject.factory, copy)):
        sink = factory()
        sink.log_metrics({"both": float(number)}, step=number)
        sink.close()
    assert subject.read("both") == [(0, 0.0), (1, 1.0)]


def test_two_sinks_may_be_open_at_once(subject: Subject) -> None:
    sinks = [subject.factory(), subject.factory()]
    for rank, sink in enumerate(sinks):
        sink.log_metrics({f"rank_{rank}": 1.0}, step=0)
    for sink in sinks:
        sink.close()
    assert subject.read("rank_0") == subject.read("rank_1") == [(0, 1.0)]


def test_threads_may_share_a_sink(subject: Subject, sink: MetricSink) -> None:
    def report(rank: int) -> None:
        for step in range(5):
            sink.log_metrics({f"thread_{rank}": float(step)}, step)

    threads = [threading.Thread(target=report, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sink.close()
    for rank in range(3):
        assert sorted(subject.read(f"thread_{rank}")) == [(step, float(step)) for step in range(5)]
