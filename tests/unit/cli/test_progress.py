"""What a line of progress tells of a row, and which rows arrive."""

import io
import threading

import pytest
from ray.exceptions import ActorDiedError
from rich.console import Console

from dvt.cli.progress import Row, _print_lines, _QueueSink, describe


@pytest.mark.parametrize(
    ("metrics", "told"),
    [
        ({"train/skipped_steps": 0.0, "train/num_stragglers": 0.0, "train/slowest_ratio": 1.2}, "loss 0.500"),
        ({"train/skipped_steps": 2.0}, "loss 0.500 · 2 steps without a finite loss skipped"),
        (
            {"train/num_stragglers": 1.0, "train/slowest_rank": 3.0, "train/slowest_ratio": 2.04},
            "loss 0.500 · worker 3 takes 2.0 times the median worker's time",
        ),
    ],
)
def test_what_is_amiss_is_told(metrics: dict[str, float], told: str) -> None:
    assert describe(Row(8, {"train/loss": 0.5, **metrics})) == told


class Queue:
    """Hands on rows until the process that does so is gone."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows

    def get(self) -> Row:
        if not self.rows:
            raise ActorDiedError
        return self.rows.pop(0)


def test_a_run_that_can_be_shown_no_longer_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    console = Console(file=io.StringIO(), width=80)
    rows = [Row(step, {"train/loss": 0.5}) for step in (1, 2)]
    _print_lines(console, "run-001", 3, Queue(rows))  # type: ignore[arg-type]
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines()[1:] == ["run-001: step 1 · loss 0.500", "run-001: step 2 · loss 0.500"]
    assert "it goes on" in caplog.text


class BusyQueue:
    """Takes rows once it may, the first one most slowly."""

    def __init__(self) -> None:
        self.may_take = threading.Event()
        self.taken: list[Row] = []

    def put(self, row: Row) -> None:
        self.may_take.wait(10)
        threading.Event().wait(0.05 if row.step == 1 else 0)
        self.taken.append(row)


def test_rows_arrive_in_their_order_and_hold_nothing_up() -> None:
    queue = BusyQueue()
    sink = _QueueSink(queue)  # type: ignore[arg-type]
    for step in (1, 2, 3):
        sink.log_metrics({"train/loss": 0.5}, step)
    assert not queue.taken
    queue.may_take.set()
    sink.close()
    assert [row.step for row in queue.taken] == [1, 2, 3]


class QueueThatIsGone:
    """Takes nothing any more."""

    def put(self, row: Row) -> None:
        raise ActorDiedError


def test_a_run_goes_on_where_none_takes_its_rows() -> None:
    sink = _QueueSink(QueueThatIsGone())  # type: ignore[arg-type]
    sink.log_metrics({"train/loss": 0.5}, 1)
    sink.close()
