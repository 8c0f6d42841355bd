"""What training tells Prometheus: which metrics, by what names, and for how long."""

import threading
from collections.abc import Mapping

import pytest

from dvt.train import ray_metrics
from dvt.train.ray_metrics import ExportedSinkFactory, HeldGauges, gauge_of

Told = dict[tuple[str, tuple[tuple[str, str], ...]], list[float]]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """Every value that a gauge is set to, by name and tags."""
    values: Told = {}

    class FakeGauge:
        def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
            self.name, self.tag_keys = name, tag_keys

        def set(self, value: float, tags: Mapping[str, str]) -> None:
            assert set(tags) == set(self.tag_keys)
            values.setdefault((self.name, tuple(sorted(tags.items()))), []).append(value)

    monkeypatch.setattr(ray_metrics, "Gauge", FakeGauge)
    return values


class Lasting:
    def __init__(self) -> None:
        self.kept: list[tuple[dict[str, float], int, int | None]] = []

    def log_metrics(self, metrics: Mapping[str, float], step: int, time_ms: int | None = None) -> None:
        self.kept.append((dict(metrics), step, time_ms))

    def close(self) -> None:
        self.kept.append(({}, -1, None))


@pytest.mark.parametrize(
    ("metric", "gauge"),
    [
        ("train/loss", ("dvt_train_loss", {})),
        ("train/exit_12/top1", ("dvt_train_exit_top1", {"exit": "12"})),
        ("calibration/exit_1/top1", ("dvt_calibration_exit_top1", {"exit": "1"})),
        ("calibration/cheapest/exit_1/top1", ("dvt_calibration_cheapest_exit_top1", {"exit": "1"})),
        ("data/skipped_images", ("dvt_data_skipped_images", {})),
        ("cost/gpu_hours", ("dvt_cost_gpu_hours", {})),
        ("data/skipped_images/it is not an image", None),  # a reason is free text, and its sum is told
        ("system/node_0/cpu_utilization_percentage", None),  # Ray tells how busy nodes are
        ("epoch", None),
        ("hypervolume", None),
    ],
)
def test_metrics_are_named_as_prometheus_wants_them(metric: str, gauge: tuple[str, dict[str, str]] | None) -> None:
    assert gauge_of(metric) == gauge


def test_a_run_is_kept_first_and_then_exported(told: Told) -> None:
    lasting = Lasting()
    sink = ExportedSinkFactory(lambda: lasting, "mine-001")()
    sink.log_metrics({"train/loss": 2, "train/exit_2/top1": 0.5, "epoch": 3, "hypervolume": 0.1}, step=40, time_ms=7)
    sink.close()
    assert lasting.kept == [
        ({"train/loss": 2, "train/exit_2/top1": 0.5, "epoch": 3, "hypervolume": 0.1}, 40, 7),
        ({}, -1, None),
    ]
    run = ("run", "mine-001")
    assert told == {
        ("dvt_train_step", (run,)): [40.0],
        ("dvt_train_loss", (run,)): [2.0],
        ("dvt_train_exit_top1", (("exit", "2"), run)): [0.5],
        ("dvt_train_epoch", (run,)): [3.0],
    }


def test_values_are_set_again_until_closed(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray drops what is not set again."""
    monkeypatch.setattr(ray_metrics, "REFRESH_S", 0.01)
    gauges = HeldGauges()
    gauges.hold("dvt_a", 1.0, {"run": "x"})
    gauges.hold("dvt_a", 2.0, {"run": "x"})
    gauges.hold("dvt_a", 5.0, {"run": "y"})
    key, pause = ("dvt_a", (("run", "x"),)), threading.Event()
    for _ in range(500):
        if len(told[key]) >= 4:
            break
        pause.wait(0.01)
    gauges.close()
    assert told[key][:4] == [1.0, 2.0, 2.0, 2.0]
    pause.wait(0.05)  # a round that was under way
    count = len(told[key])
    pause.wait(0.05)
    assert len(told[key]) == count
