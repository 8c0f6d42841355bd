"""What the steps of a run tell of a fault, and how results are compared; the faults themselves take minutes."""

import json
from pathlib import Path

import pytest

from tests.faults.faults import FAULTS
from tests.faults.table import Difference, Measured, compared, keep, told
from tests.faults.training import Row, course


def rows(*steps: tuple[int, float]) -> list[Row]:
    return [Row(step, time_s) for step, time_s in steps]


def test_a_restart_repeats_steps_after_a_pause() -> None:
    steps = rows((1, 0.0), (2, 1.0), (3, 2.0), (4, 3.0), (3, 33.0), (4, 34.0), (5, 35.0), (6, 36.0))
    found = course(steps, fault_s=3.5)
    assert (found.pause_s, found.steps_lost) == (29.0, 2)


def test_two_restarts_and_a_pause_before_the_fault() -> None:
    steps = rows((1, 0.0), (2, 90.0), (3, 91.0), (2, 100.0), (3, 101.0), (1, 110.0), (2, 111.0), (3, 112.0), (4, 113.0))
    found = course(steps, fault_s=95.0)
    assert (found.pause_s, found.steps_lost) == (8.0, 5)


def test_a_run_that_takes_no_notice() -> None:
    found = course(rows((1, 0.0), (2, 1.0), (3, 2.0)), fault_s=0.5)
    assert (found.pause_s, found.steps_lost) == (0.0, 0)


@pytest.mark.parametrize(
    ("loss", "top1", "difference", "is_within"),
    [(1.0, 0.5, 0.0, True), (1.04, 0.5, 0.04, True), (1.06, 0.5, 0.06, False), (1.0, 0.53, 0.03, False)],
)
def test_final_metrics_against_their_bounds(loss: float, top1: float, difference: float, is_within: bool) -> None:
    found = compared({"train/loss": loss, "test/exit_1/top1": top1}, {"train/loss": 1.0, "test/exit_1/top1": 0.5})
    assert (found.largest, found.is_within) == (pytest.approx(difference), is_within)


def test_a_metric_without_a_bound_must_be_equal() -> None:
    assert not compared({"other": 1.0}, {"other": 1.0 + 1e-12}).is_within


@pytest.mark.parametrize(("loss", "is_within"), [(1.0, True), (1.29, True), (0.71, True), (1.31, False), (0.69, False)])
def test_a_run_that_passes_over_steps_against_the_spread_of_seeds(loss: float, is_within: bool) -> None:
    found = compared({"train/loss": loss}, {"train/loss": 1.0}, [{"train/loss": 1.2}, {"train/loss": 0.9}])
    assert (found.bound, found.is_within) == (pytest.approx(0.3), is_within)


def test_the_table(tmp_path: Path) -> None:
    measured = [
        Measured("worker-killed", 12.34, 3, Difference(0.0, 0.05, True), "started again", {"train/loss": 1.0}),
        Measured("link-cut", 30.0, 0, Difference(0.01234, 0.05, True), "cut", {"train/loss": 1.01234}),
        Measured("s3-slow", 1.0, 0, Difference(0.5, 0.05, False), "slow", {"train/loss": 1.5}),
    ]
    assert told(measured).splitlines()[2:] == [
        "| worker-killed | 12.3 | 3 | equal | started again |",
        "| link-cut | 30.0 | 0 | within 0.012 (bound 0.05) | cut |",
        "| s3-slow | 1.0 | 0 | differ by 0.5 (bound 0.05) | slow |",
    ]
    keep(measured, {5: {"train/loss": 1.0}}, tmp_path / "faults.json")
    kept = json.loads((tmp_path / "faults.json").read_text())
    assert kept["undisturbed"] == {"5": {"train/loss": 1.0}}
    assert [row["fault"] for row in kept["faults"]] == ["worker-killed", "link-cut", "s3-slow"]


def test_every_fault_says_what_it_does() -> None:
    assert all(fault.do.__doc__ for fault in FAULTS.values())
