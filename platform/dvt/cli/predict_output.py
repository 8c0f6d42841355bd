"""What `dvt predict` tells: a line an image, a line for what failed, a last line for all; and the same as a file."""

import csv
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

import pyarrow.parquet
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from dvt.models.told_amounts import told_macs
from dvt.serving.prediction import PREDICTIONS, Prediction, predictions_table

CSV, PARQUET = ".csv", ".parquet"
_LONGEST_NAME = 28  # letters of a class name on a line


class Screen:
    """Lines for a person, with a progress bar below them on a terminal.

    Args:
        class_names: Of the model; they decide how wide their column is.
        num_exits: Of the model.
        total: Number of images, if that is known.
    """

    def __init__(self, class_names: Sequence[str], num_exits: int, total: int | None) -> None:
        self._out, self._err = Console(highlight=False), Console(stderr=True, highlight=False)
        self._width = min(_LONGEST_NAME, max(5, *map(len, class_names)))
        self._num_exits = num_exits
        shown_on = self._out if self._out.is_terminal else self._err
        if self._err.is_terminal:  # a line that went past the bar's console would be written behind the bar
            self._err = shown_on
        self._progress = Progress(
            SpinnerColumn(),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("images"),
            TimeRemainingColumn(),
            console=shown_on,
            transient=True,
            disable=not shown_on.is_terminal,
        )
        self._task: TaskID = self._progress.add_task("images", total=total)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show progress while the context lasts."""
        with self._progress:
            yield

    def tell_header(self) -> None:
        """The names of the columns."""
        told = f"{'label':>5}  {'class':{self._width}}  {'confidence':>10}  {'exit':>4}  {'MACs':>7}  image"
        self._print(Text(told, style="bold"))

    def tell(self, predictions: Sequence[Prediction]) -> None:
        """A line an image, in order: on the error stream if it could not be read."""
        for is_failed, group in groupby(predictions, key=lambda prediction: prediction.error is not None):
            rows = list(group)
            # As one text: the bar is drawn anew after each.
            lines = Text("\n").join(map(self._failure if is_failed else self._line, rows))
            (self._err if is_failed else self._out).print(lines, soft_wrap=True)
            self._progress.advance(self._task, len(rows))

    def tell_summary(self, macs: Sequence[float], left: Sequence[int], num_failed: int, seconds: float) -> None:
        """The last line.

        Args:
            macs: (E,), what an image costs that leaves at each exit.
            left: (E,), how many images left at each.
            num_failed: Images that could not be read.
            seconds: From the first image to the last.
        """
        rate = (sum(left) + num_failed) / seconds
        self._print(Text(told_summary(macs, left, num_failed, rate), style="bold"))

    def tell_place(self, path: Path) -> None:
        """Where the output file is."""
        self._print(Text(f"written to {path}"))

    def _line(self, prediction: Prediction) -> Text:
        name = prediction.class_name or ""
        short = name if len(name) <= self._width else f"{name[: self._width - 3]}..."
        line = Text(f"{prediction.label:>5}  {short:{self._width}}  {prediction.confidence:>10.4f}  ")
        line.append(f"{prediction.exit_index:>4}", style=self._style(prediction.exit_index or 1))
        return line.append(f"  {told_macs(prediction.macs or 0):>7}  {prediction.image}")

    def _failure(self, prediction: Prediction) -> Text:
        return Text(f"dvt: {prediction.image} cannot be read: {prediction.error}", style="red")

    def _print(self, line: Text) -> None:
        self._out.print(line, soft_wrap=True)

    def _style(self, exit_index: int) -> str:
        if exit_index == self._num_exits:
            return "red"
        return "green" if exit_index == 1 else "yellow"


def told_summary(macs: Sequence[float], left: Sequence[int], num_failed: int, rate: float | None) -> str:
    """What became of all images, on one line.

    Args:
        macs: (E,), what an image costs that leaves at each exit.
        left: (E,), how many images left at each.
        num_failed: Images that could not be read.
        rate: Images a second, read or not; None tells none.
    """
    count = sum(left)
    parts = [f"{count:,} image{'' if count == 1 else 's'}"]
    if count:
        mean = sum(cost * number for cost, number in zip(macs, left, strict=True)) / count
        shares = " / ".join(f"{100 * number / count:.1f}" for number in left)
        exits = " / ".join(str(index) for index in range(1, len(left) + 1))
        parts += [f"mean {told_macs(mean)} MACs", f"{shares} % left at exit {exits}"]
        parts += [f"{rate:,.0f} images/s"] if rate is not None else []
    if num_failed:
        parts.append(f"{num_failed:,} could not be read")
    return " · ".join(parts)


@contextmanager
def open_output(path: Path | None) -> Iterator[Callable[[Sequence[Prediction]], None]]:
    """A function that writes rows; the file appears whole when the context ends, or not at all.

    Args:
        path: A `.csv` or `.parquet` file, replaced if it is there; None writes nothing.

    Raises:
        OSError: If the file cannot be written.
    """
    if path is None:
        yield lambda rows: None
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with (_csv if path.suffix == CSV else _parquet)(partial) as write:
            yield write
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _csv(path: Path) -> Iterator[Callable[[Sequence[Prediction]], None]]:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, PREDICTIONS.names, lineterminator="\n")
        writer.writeheader()
        yield lambda rows: writer.writerows(map(asdict, rows))


@contextmanager
def _parquet(path: Path) -> Iterator[Callable[[Sequence[Prediction]], None]]:
    with pyarrow.parquet.ParquetWriter(path, PREDICTIONS) as writer:
        yield lambda rows: writer.write_table(predictions_table(rows))


def lines_of_stdin() -> Iterator[str]:
    """What the standard input lists, a path or an address a line."""
    for line in sys.stdin:
        if line.strip():
            yield line.rstrip("\r\n")
