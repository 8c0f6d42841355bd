"""Which worker holds up the others, by times worked by hand."""

import logging
import time

import pytest

from dvt.train.pace import ForwardClock, Pace, StragglerWatch
from tests.unit.train.tiny import CPU


def paces(*seconds: float) -> list[Pace]:
    return [Pace(f"host-{rank}", own_s) for rank, own_s in enumerate(seconds)]


def test_the_slowest_worker_and_its_ratio() -> None:
    told = StragglerWatch(factor=1.5, num_logs=1).compare(paces(2, 1, 3, 2), 10, is_first=False)
    assert told == {"train/slowest_rank": 2, "train/slowest_ratio": 1.5, "train/num_stragglers": 0}


def test_of_two_workers_one_can_be_slow() -> None:
    told = StragglerWatch(factor=1.5, num_logs=1).compare(paces(4, 1), 10, is_first=False)
    assert told == {"train/slowest_rank": 0, "train/slowest_ratio": 4, "train/num_stragglers": 1}


def test_a_worker_alone_is_compared_with_nobody() -> None:
    assert StragglerWatch(factor=1.5, num_logs=1).compare(paces(4), 10, is_first=True) == {}


def test_workers_that_took_no_time() -> None:
    told = StragglerWatch(factor=1.5, num_logs=1).compare(paces(0, 0, 5), 10, is_first=True)
    assert told["train/slowest_ratio"] == 1


def test_a_straggler_is_reported_once_when_it_was_slow_for_so_many_logs(caplog: pytest.LogCaptureFixture) -> None:
    watch = StragglerWatch(factor=1.5, num_logs=2)
    with caplog.at_level(logging.WARNING):
        counts = [
            watch.compare(paces(1, 1, slow), step, is_first=True)["train/num_stragglers"]
            for step, slow in enumerate((2, 1, 2, 1.8, 2, 1, 2, 2))
        ]
    assert counts == [0, 0, 0, 1, 1, 0, 0, 1]
    assert [record.message for record in caplog.records] == [
        f"worker 2 on node host-2 must keep up with the others, got {ratio} times the median worker's time in each of "
        f"the last 2 logs up to step {step}; look at its images, its GPU's clock and what else runs"
        for ratio, step in (("1.8", 3), ("2.0", 7))
    ]


def test_only_the_first_worker_writes_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        StragglerWatch(factor=1.5, num_logs=1).compare(paces(1, 1, 2), 1, is_first=False)
    assert caplog.records == []


def test_the_clock_counts_what_runs_in_it() -> None:
    clock = ForwardClock()
    for _ in range(2):
        with clock.running(CPU):
            time.sleep(0.02)
    time.sleep(0.05)
    assert 0.04 <= clock.take() < 0.09
    assert clock.take() == 0
