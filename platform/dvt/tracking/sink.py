"""`MlflowSink`: metrics of a training run into MLflow, from whichever process reports them."""

import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from mlflow import MlflowClient
from mlflow.entities import Metric

from dvt.tracking.address import FIELD, VARIABLE, sqlite_path
from dvt.tracking.errors import TrackingError, one_sentence
from dvt.tracking.runs import RunRecord


class MlflowSink:
    """A `MetricSink` that writes to one MLflow run, at once.

    NaN is kept as NaN; MLflow has no infinity in a database and keeps the largest float, 1.797e308, with its sign.

    Args:
        tracking_uri: The tracking address.
        run_id: A run that is there.
    """

    def __init__(self, tracking_uri: str, run_id: str) -> None:
        self.tracking_uri = tracking_uri
        self.run_id = run_id
        self._client: MlflowClient | None = MlflowClient(tracking_uri=tracking_uri)
        self._lock = threading.Lock()

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Write metrics at a step; returns when MLflow has them.

        Raises:
            TrackingError: If MLflow refuses or does not answer, or the sink is closed.
        """
        now_ms = time.time_ns() // 1_000_000
        batch = [Metric(name, float(value), now_ms, step) for name, value in metrics.items()]
        with self._lock:
            if self._client is None:
                raise TrackingError(f"the metric sink of run {self.run_id} must be open, got a closed one")
            if batch:
                with one_sentence(f"keep the metrics of run {self.run_id}", self.tracking_uri):
                    self._client.log_batch(self.run_id, metrics=batch)

    def close(self) -> None:
        """Take no more metrics; everything logged is kept already."""
        with self._lock:
            self._client = None


@dataclass(frozen=True)
class MlflowSinkFactory:
    """Makes sinks of one run in whichever process calls it; pickles as two strings."""

    tracking_uri: str = field(repr=False)  # may carry credentials
    run_id: str

    @classmethod
    def of(cls, record: RunRecord) -> "MlflowSinkFactory":
        """The factory for a run."""
        return cls(record.tracking_uri, record.run_id)

    def __call__(self) -> MlflowSink:
        """Open a sink.

        Raises:
            TrackingError: If MLflow is a SQLite file that is not on this node.
        """
        path = sqlite_path(self.tracking_uri)
        if path is not None and not path.is_file():  # MLflow would start an empty database here and lose the metrics
            raise TrackingError(
                f"MLflow's SQLite file must be reachable from every node, got {path}, which is not on "
                f"{socket.gethostname()}; give the address of an MLflow server as {FIELD} or {VARIABLE}"
            )
        with one_sentence(f"open run {self.run_id}", self.tracking_uri):
            return MlflowSink(self.tracking_uri, self.run_id)
