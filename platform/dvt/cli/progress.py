"""What a person sees while a run trains: a bar on a terminal, a plain line an epoch in a log.

Metrics arrive from Ray's controller process through a queue, as one more `MetricSink`.
"""

import logging
import re
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import ray
from ray.exceptions import RayActorError
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from dvt.train.sink import MetricSink, MetricSinkFactory

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """What was reported at a step."""

    step: int
    metrics: Mapping[str, float]


class _QueueSink:
    """Sends what is logged to the driver, in the order of logging."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        # A thread, as showing must not hold up training; one that waits for each row, as the queue's actor takes those
        # that are on their way at once in any order.
        self._sender = ThreadPoolExecutor(max_workers=1)

    def log_metrics(self, metrics: Mapping[str, float], step: int, time_ms: int | None = None) -> None:
        self._sender.submit(self._queue.put, Row(step, dict(metrics)))

    def close(self) -> None:
        self._sender.shutdown()


class _BothSinks:
    """Logs to two sinks, the lasting one first."""

    def __init__(self, first: MetricSink, second: MetricSink) -> None:
        self._sinks = (first, second)

    def log_metrics(self, metrics: Mapping[str, float], step: int, time_ms: int | None = None) -> None:
        for sink in self._sinks:
            sink.log_metrics(metrics, step, time_ms)

    def close(self) -> None:
        for sink in self._sinks:
            sink.close()


@dataclass(frozen=True)
class ShownSinkFactory:
    """Makes sinks that keep metrics and show them too."""

    make_lasting: MetricSinkFactory
    queue: Queue

    def __call__(self) -> MetricSink:
        """Make the sink, in whichever process this is."""
        return _BothSinks(self.make_lasting(), _QueueSink(self.queue))


@contextmanager
def shown(
    console: Console, title: str, num_epochs: int, make_lasting: MetricSinkFactory
) -> Iterator[MetricSinkFactory]:
    """Show what the yielded factory's sinks are told, while the context lasts."""
    # On the driver's node: others may leave while the run goes on.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    queue = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
    show = _show_bar if console.is_terminal else _print_lines
    thread = threading.Thread(target=show, args=(console, title, num_epochs, queue), daemon=True)
    thread.start()
    try:
        yield ShownSinkFactory(make_lasting, queue)
    finally:
        with suppress(RayActorError):  # which the thread has told
            queue.put(None)
        thread.join()
        queue.shutdown()


def _rows(queue: Queue) -> Iterator[Row]:
    """What is told until the end; a run does not end because it cannot be shown."""
    try:
        while (row := queue.get()) is not None:
            yield row
    except RayActorError:
        logger.warning("the run is shown no longer, as the process that hands on what it tells is gone; it goes on")


def _show_bar(console: Console, title: str, num_epochs: int, queue: Queue) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[told]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=num_epochs, told="starting workers")
        for row in _rows(queue):
            epoch = row.metrics.get("epoch")
            if epoch is None:
                progress.update(task, told=f"step {row.step}")
            else:
                progress.update(task, completed=epoch, told=f"{epoch:.0f}/{num_epochs} epochs")
                progress.console.print(line(row, num_epochs), highlight=False, soft_wrap=True)


def _print_lines(console: Console, title: str, num_epochs: int, queue: Queue) -> None:
    console.print(f"{title}: starting workers", highlight=False)
    for row in _rows(queue):
        console.print(f"{title}: {line(row, num_epochs)}", highlight=False, soft_wrap=True)


def line(row: Row, num_epochs: int) -> str:
    """A row as one line of a log."""
    epoch = f"epoch {row.metrics['epoch']:.0f}/{num_epochs} · " if "epoch" in row.metrics else ""
    return f"{epoch}step {row.step} · {describe(row)}"


def describe(row: Row) -> str:
    """The figures of a row that tell how it goes, on one line."""
    metrics = row.metrics
    parts = [f"loss {metrics['train/loss']:.3f}"] if "train/loss" in metrics else []
    for whose, top1 in _calibration_top1(metrics).items():
        told = " / ".join(f"{100 * value:.1f}" for value in top1)
        parts.append(f"calibration top-1{whose} {told} %")
    if "train/images_per_s" in metrics:
        parts.append(f"{metrics['train/images_per_s']:.0f} images/s")
    if metrics.get("data/skipped_images"):
        parts.append(f"{metrics['data/skipped_images']:.0f} unreadable images skipped")
    if metrics.get("train/skipped_steps"):
        parts.append(f"{metrics['train/skipped_steps']:.0f} steps without a finite loss skipped")
    if metrics.get("train/num_stragglers"):
        rank, ratio = metrics["train/slowest_rank"], metrics["train/slowest_ratio"]
        parts.append(f"worker {rank:.0f} takes {ratio:.1f} times the median worker's time")
    return " · ".join(parts)


def _calibration_top1(metrics: Mapping[str, float]) -> dict[str, list[float]]:
    """Top-1 of every exit, by whose they are: of the one model, or of several that share weights."""
    found: dict[str, list[float]] = {}
    for name in sorted(metrics):
        whose = re.fullmatch(r"calibration/(?:(\w+)/)?exit_\d+/top1", name)
        if whose:
            found.setdefault(f" of the {whose[1]}" if whose[1] else "", []).append(metrics[name])
    return found
