"""`MetricSink`: the only way in which training and search report numbers.

`dvt.tracking` implements it on MLflow and `dvt.cli` injects a factory of it, so that neither training nor search knows
where numbers go. A factory crosses process borders and a sink does not: the worker that reports calls the factory.
Every implementation passes `tests/contract/test_metric_sink.py`.
"""

from collections.abc import Callable, Mapping
from typing import Protocol


class MetricSink(Protocol):
    """Takes metrics by step, from any thread, in any order of steps."""

    def log_metrics(self, metrics: Mapping[str, float], step: int, time_ms: int | None = None) -> None:
        """Keep what was measured at a step.

        Args:
            metrics: Values by name, such as `train/loss`; letters, digits and `_ - . : /` and spaces. Values that are
                not finite are kept as such, none of them is dropped. An empty mapping does nothing.
            step: The step, from 0; what it counts (optimizer updates, epochs) is the reporter's to say. Logging a name
                at the same step again, as a resumed run does, is allowed; the newest value counts.
            time_ms: When they were measured, in milliseconds since 1970; now by default.

        Raises:
            RuntimeError: One sentence, if the values cannot be kept or the sink is closed.
        """

    def close(self) -> None:
        """Return when everything that was logged is kept; closing twice is allowed."""


MetricSinkFactory = Callable[[], MetricSink]  # picklable; makes a sink in the process that calls it
