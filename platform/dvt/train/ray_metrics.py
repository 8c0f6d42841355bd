"""Metrics of training for Prometheus, which Ray exports from the node of the process that sets them.

Ray 2.60 drops a gauge that was not set within two of its export intervals (20 s), and training reports more seldom than
that: a thread sets the last values again until the sink is closed or its process ends. All of this happens in Ray
Train's controller, and no step waits for it. `infra/monitoring` has a dashboard of what is told here.
"""

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ray.util.metrics import Gauge

from dvt.train.sink import MetricSink, MetricSinkFactory

REFRESH_S = 2.0
_SHOWN = re.compile(r"(?:train|calibration|data|cost)(?:/[a-z0-9_]+)+")  # Ray exports what a node is busy with itself
_EXIT = re.compile(r"/exit_(\d+)")

Key = tuple[str, tuple[tuple[str, str], ...]]


class HeldGauges:
    """Gauges that keep their last values while they are open, from any thread.

    Args:
        make_gauge: Makes a gauge of a name, a description and tag keys; None makes Ray's, and Ray Serve has its own.
    """

    def __init__(self, make_gauge: Callable[..., Any] | None = None) -> None:
        self._make_gauge = make_gauge or Gauge
        self._lock = threading.Lock()
        self._values: dict[Key, float] = {}
        self._gauges: dict[str, Any] = {}
        self._closed = threading.Event()
        threading.Thread(target=self._keep, name="dvt-gauges", daemon=True).start()

    def hold(self, name: str, value: float, tags: Mapping[str, str]) -> None:
        """Export a value until another of the same name and tags takes its place.

        Args:
            name: Without the `ray_` that Ray puts before it.
            value: What to export.
            tags: The same keys each time.
        """
        with self._lock:
            self._values[name, tuple(sorted(tags.items()))] = value
            if name not in self._gauges:
                self._gauges[name] = self._make_gauge(name, "Told in infra/monitoring/README.md.", tuple(sorted(tags)))
            self._gauges[name].set(value, dict(tags))

    def close(self) -> None:
        """Let go of all values; Ray drops them soon after. Closing twice is allowed."""
        self._closed.set()

    def _keep(self) -> None:
        while not self._closed.wait(REFRESH_S):
            with self._lock:
                for (name, tags), value in self._values.items():
                    self._gauges[name].set(value, dict(tags))


@dataclass(frozen=True)
class ExportedSinkFactory:
    """Makes sinks that keep metrics as another does, and export them too.

    Attributes:
        make_lasting: Makes the other sink.
        run: The run that metrics are told of, their tag `run`.
    """

    make_lasting: MetricSinkFactory
    run: str

    def __call__(self) -> MetricSink:
        """Make the sink, in whichever process this is."""
        return _ExportedSink(self.make_lasting(), self.run)


class _ExportedSink:
    def __init__(self, lasting: MetricSink, run: str) -> None:
        self._lasting, self._run = lasting, run
        self._gauges = HeldGauges()

    def log_metrics(self, metrics: Mapping[str, float], step: int, time_ms: int | None = None) -> None:
        self._lasting.log_metrics(metrics, step, time_ms)
        told = {"train/step": float(step), **metrics}
        if "epoch" in metrics:
            told["train/epoch"] = metrics["epoch"]
        for name, value in told.items():
            gauge = gauge_of(name)
            if gauge is not None:
                self._gauges.hold(gauge[0], float(value), {"run": self._run, **gauge[1]})

    def close(self) -> None:
        self._gauges.close()
        self._lasting.close()


def gauge_of(metric: str) -> tuple[str, dict[str, str]] | None:
    """The gauge of a run's metric, and its tags: `train/exit_2/top1` is `dvt_train_exit_top1` of `exit` 2.

    Returns:
        None if the metric is not exported.
    """
    if not _SHOWN.fullmatch(metric):
        return None
    found = _EXIT.search(metric)
    name = f"dvt_{_EXIT.sub('/exit', metric).replace('/', '_')}"
    return name, {"exit": found[1]} if found else {}
