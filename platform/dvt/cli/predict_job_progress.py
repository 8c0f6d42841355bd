"""What a person sees while a batch job runs: a bar on a terminal, now and then a line in a log."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from dvt.serving.batch_output import Counts
from dvt.serving.batch_work import Work

_SECONDS = 10  # between two lines of a log at least
_INPUTS = {"folder": "image files", "tar": "tar shards", "parquet": "Parquet files"}


class PartProgress:
    """Tells how many parts are done.

    Args:
        console: Where a person reads along.
        work: All that is to do.
        done: Of the parts that were there already.
        bar: On a terminal; None in a log.
    """

    def __init__(self, console: Console, work: Work, done: Sequence[Counts], bar: Progress | None) -> None:
        self._console, self._bar = console, bar
        self._num_parts, self._num_done = len(work.pieces), len(done)
        self._num_images = 0  # of this run
        self._begun = self._told = time.monotonic()
        self._task = None if bar is None else bar.add_task("parts", total=self._num_parts, completed=len(done), told="")
        parts = f"{self._num_parts:,} part{'' if self._num_parts == 1 else 's'}"
        there = f", {len(done):,} there already" if done else ""
        console.print(f"predict: {parts} from {_INPUTS[work.format]}{there}", soft_wrap=True)

    @classmethod
    @contextmanager
    def shown(cls, console: Console, work: Work, done: Sequence[Counts]) -> Iterator["PartProgress"]:
        """Show progress while the context lasts."""
        if not console.is_terminal:
            yield cls(console, work, done, None)
            return
        columns = (
            SpinnerColumn(),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("parts{task.fields[told]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, transient=True) as bar:
            yield cls(console, work, done, bar)

    @property
    def rate(self) -> float | None:
        """Images a second of this run, read or not, loading the model included; None where there were none."""
        return self._num_images / (time.monotonic() - self._begun) if self._num_images else None

    def tell(self, counts: Counts) -> None:
        """A part is done."""
        self._num_done += 1
        self._num_images += counts.num_images
        told = f" · {self._num_images:,} images · {self.rate or 0:,.0f} images/s"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._num_done, told=told)
            return
        now = time.monotonic()
        if now - self._told >= _SECONDS or self._num_done == self._num_parts:
            self._told = now
            self._console.print(f"predict: part {self._num_done:,}/{self._num_parts:,}{told}", soft_wrap=True)
