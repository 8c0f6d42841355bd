"""How fast each worker is by itself, and which one holds up the others.

Workers exchange gradients in each step, so a step takes all of them as long as the slowest. What tells them apart is
the time in which a worker waits for no other: for its images, and in forward passes. Each adds that up by itself, and
it is told with the metrics, so no step waits for it.
"""

import logging
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

logger = logging.getLogger(__name__)


class ForwardClock:
    """Adds up the time of forward passes; on a GPU its own time, which is read once it has computed them."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def running(self, device: torch.device) -> Iterator[None]:
        """Count what is computed on `device` in this context."""
        if device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            yield
            end.record()
            self._events.append((start, end))
        else:
            begun = time.perf_counter()
            yield
            self._seconds += time.perf_counter() - begun

    def take(self) -> float:
        """Seconds since the last call; all that was counted must have been computed."""
        for start, end in self._events:
            end.synchronize()
            self._seconds += start.elapsed_time(end) / 1000
        seconds, self._seconds = self._seconds, 0.0
        self._events.clear()
        return seconds


@dataclass(frozen=True)
class Pace:
    """What a worker took by itself since the last log."""

    host: str
    own_s: float  # waiting for images, and forward passes


@dataclass
class StragglerWatch:
    """Compares workers by log, and reports one that stays slow.

    Attributes:
        factor: A worker is slow that takes more than this times what the median worker takes.
        num_logs: In so many logs in a row it is slow before it is reported.
    """

    factor: float
    num_logs: int
    _slow: dict[int, int] = field(default_factory=dict)  # logs in a row, by rank

    def compare(self, paces: Sequence[Pace], step: int, is_first: bool) -> dict[str, float]:
        """The metrics of a log: the slowest worker and its ratio to the median one; how many are reported as slow.

        Args:
            paces: Of each worker, by rank.
            step: Of the log.
            is_first: Whether this worker writes to the log what it finds; all find the same.
        """
        if len(paces) == 1:
            return {}
        # Of two in the middle the faster, so that of two workers one can be slow.
        median_s = statistics.median_low([pace.own_s for pace in paces])
        ratios = [pace.own_s / median_s if median_s > 0 else 1.0 for pace in paces]
        self._slow = {rank: self._slow.get(rank, 0) + 1 for rank, ratio in enumerate(ratios) if ratio > self.factor}
        reported = [rank for rank, logs in self._slow.items() if logs >= self.num_logs]
        for rank in reported:
            if is_first and self._slow[rank] == self.num_logs:  # once, until it was faster
                logger.warning(
                    "worker %d on node %s must keep up with the others, got %.1f times the median worker's time in "
                    "each of the last %d logs up to step %d; look at its images, its GPU's clock and what else runs",
                    *(rank, paces[rank].host, ratios[rank], self.num_logs, step),
                )
        slowest = max(range(len(ratios)), key=ratios.__getitem__)
        return {
            "train/slowest_rank": float(slowest),
            "train/slowest_ratio": ratios[slowest],
            "train/num_stragglers": float(len(reported)),
        }
