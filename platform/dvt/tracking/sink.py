"""`MlflowSink`: metrics of a training run into MLflow, from whichever process reports them.

Reporting only writes to a file on the node (`spool.py`); a thread hands on to MLflow what waits there, in order, and
tries again for as long as MLflow is away. What a process could not hand on before it ended, the next sink of the same
run on the node does.
"""

import logging
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field

from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from dvt.tracking.address import FIELD, VARIABLE, sqlite_path
from dvt.tracking.errors import TrackingError, one_sentence
from dvt.tracking.runs import RunRecord
from dvt.tracking.spool import Spool, Waiting

CLOSE_WAIT_S = 600.0  # twice as long as a server may be away without anything being lost or ended
_HASTY_WAIT_S = 5.0  # of a run that failed: why it did must be told soon
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 15.0  # between tries; doubled each time
_MOST_CALLS = 500  # that are handed on together
_TOO_MANY_REQUESTS = 429

logger = logging.getLogger(__name__)


class MlflowSink:
    """A `MetricSink` that writes to one MLflow run.

    NaN is kept as NaN; MLflow has no infinity in a database and keeps the largest float, 1.797e308, with its sign.

    Args:
        tracking_uri: The tracking address.
        run_id: A run that is there.

    Raises:
        TrackingError: If there is no place on this node to keep metrics in.
    """

    def __init__(self, tracking_uri: str, run_id: str) -> None:
        self.tracking_uri = tracking_uri
        self.run_id = run_id
        self._spool = Spool(tracking_uri, run_id)
        self._client = MlflowClient(tracking_uri=tracking_uri)
        self._changed = threading.Condition()
        self._has_new, self._is_closed, self._has_given_up, self._has_ended_well = True, False, False, False
        self._refusal: TrackingError | None = None  # what trying again would not change
        self._last_failure = "no answer"
        self._sender = threading.Thread(target=self._send_all, name=f"dvt-metrics-{run_id}", daemon=True)
        self._sender.start()

    def log_metrics(self, metrics: Mapping[str, float], step: int, time_ms: int | None = None) -> None:
        """Take metrics at a step; returns when they are kept on this node.

        Raises:
            TrackingError: If they cannot be kept, MLflow refused earlier ones, or the sink is closed.
        """
        with self._changed:
            if self._is_closed:
                raise TrackingError(f"the metric sink of run {self.run_id} must be open, got a closed one")
            if self._refusal is not None:
                raise self._refusal
            if metrics:
                self._spool.put(metrics, step, time.time_ns() // 1_000_000 if time_ms is None else time_ms)
                self._has_new = True
                self._changed.notify_all()

    def close(self, wait_s: float = CLOSE_WAIT_S) -> None:
        """Take no more metrics, and wait until MLflow has all.

        Args:
            wait_s: How long to wait for an MLflow that is away, in seconds.

        Raises:
            TrackingError: If MLflow refused some, or is still away; they stay kept.
        """
        with self._changed:
            if self._is_closed:
                return
            self._is_closed = True
            self._changed.notify_all()
        self._sender.join(wait_s)
        with self._changed:
            self._has_given_up = True
            self._changed.notify_all()
        if self._refusal is not None:
            raise self._refusal
        if not self._has_ended_well:
            with one_sentence(f"take what run {self.run_id} measured within {wait_s:g} s", self.tracking_uri):
                kept = f"{self._spool.count()} reports wait in {self._spool.path}; run the same command again"
                raise OSError(f"{self._last_failure}; {kept}")
        self._spool.close()

    def _send_all(self) -> None:
        """Hand on what waits, until there is no more to come."""
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                if not self._is_more_to_come():
                    self._has_ended_well = True
                    return
                self._send(self._spool.oldest(_MOST_CALLS))
            except TrackingError as error:
                if _is_final(error):
                    with self._changed:
                        self._refusal = error
                    return
                if pause_s == _FIRST_PAUSE_S:
                    logger.warning("%s; metrics wait on this node until it can", error)
                self._last_failure = str(error.__cause__ or error).splitlines()[0][:100]
                if self._rest(pause_s):
                    return
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            else:
                pause_s = _FIRST_PAUSE_S

    def _is_more_to_come(self) -> bool:
        """Wait for something to hand on; False if nothing will come."""
        with self._changed:
            self._changed.wait_for(lambda: self._has_new or self._is_closed)
            self._has_new = False
            is_last = self._is_closed
        return not is_last or self._spool.count() > 0

    def _rest(self, pause_s: float) -> bool:
        """Wait before the next try; True if there is to be none."""
        with self._changed:
            self._has_new = True
            return self._changed.wait_for(lambda: self._has_given_up, pause_s)

    def _send(self, calls: list[Waiting]) -> None:
        metrics = [
            Metric(name, value, call.time_ms, call.step) for call in calls for name, value in call.metrics.items()
        ]
        with one_sentence(f"keep the metrics of run {self.run_id}", self.tracking_uri):
            if metrics:
                self._client.log_batch(self.run_id, metrics=metrics)
        self._spool.forget(calls)
        if len(calls) == _MOST_CALLS:
            with self._changed:
                self._has_new = True


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


@contextmanager
def all_handed_on(record: RunRecord) -> Iterator[None]:
    """See that MLflow has what other processes of this node reported while the context lasted.

    Raises:
        TrackingError: If it does not take it; of a context that failed, its own error is raised instead.
    """
    has_failed = True
    try:
        yield
        has_failed = False
    finally:
        # What ended the run must be told, and soon, not that MLflow is away.
        with suppress(TrackingError) if has_failed else nullcontext():
            MlflowSinkFactory.of(record)().close(_HASTY_WAIT_S if has_failed else CLOSE_WAIT_S)


def log_metrics(record: RunRecord, metrics: Mapping[str, float], step: int) -> None:
    """Report metrics once, and wait until MLflow has them.

    Raises:
        TrackingError: If it does not take them.
    """
    sink = MlflowSinkFactory.of(record)()
    sink.log_metrics(metrics, step)
    sink.close()


def _is_final(error: TrackingError) -> bool:
    """Whether MLflow has answered, and would answer the same again."""
    cause = error.__cause__
    if not isinstance(cause, MlflowException):
        return False  # of a connection, a database or a disk, which may come back
    status = int(cause.get_http_status_code())
    return 400 <= status < 500 and status != _TOO_MANY_REQUESTS
