"""How workers agree on the step after which they keep a checkpoint."""

import threading
import time

import pytest

from dvt.train.notice import NO_NOTICE, AgreedNotice, Agreement, Order


def agreement(step: int, order: Order = Order.STOP) -> Agreement:
    return Agreement(step, order, frozenset({"something"}))


def test_without_notice_training_goes_on() -> None:
    assert NO_NOTICE.after(7) == Order.GO_ON


@pytest.mark.parametrize("order", [Order.KEEP, Order.STOP])
def test_what_is_agreed_on_is_done_after_that_step_and_once(order: Order) -> None:
    notice = AgreedNotice()
    assert notice.after(1) == Order.GO_ON
    assert notice.propose() == 2
    notice.agree(agreement(3, order))
    assert [notice.after(step) for step in (2, 3, 4)] == [Order.GO_ON, order, Order.GO_ON]


def test_before_the_first_step_nothing_can_be_proposed() -> None:
    notice = AgreedNotice()
    assert not notice.has_begun
    assert notice.propose() is None
    assert notice.after(1) == Order.GO_ON
    assert notice.has_begun


def test_a_second_order_waits_until_the_first_was_done() -> None:
    notice = AgreedNotice()
    notice.after(1)
    assert notice.propose() == 2
    assert notice.propose() is None
    notice.agree(agreement(2, Order.KEEP))
    assert notice.propose() is None
    assert notice.after(2) == Order.KEEP
    assert notice.propose() == 3


def test_no_step_begins_between_a_proposal_and_its_end() -> None:
    for end, expected in (
        (lambda notice: notice.agree(agreement(2)), Order.STOP),
        (AgreedNotice.withdraw, Order.GO_ON),
    ):
        notice, told = AgreedNotice(), list[Order]()
        notice.after(1)
        notice.propose()
        loop = threading.Thread(target=lambda notice=notice, told=told: told.append(notice.after(2)))
        loop.start()
        time.sleep(0.05)
        assert told == []
        end(notice)
        loop.join(5)
        assert told == [expected]


def test_workers_that_run_apart_stop_after_the_same_step() -> None:
    """Three loops whose steps end together, as those of workers that exchange gradients."""
    barrier, notices, stopped = threading.Barrier(3, timeout=20), [AgreedNotice() for _ in range(3)], dict[int, int]()

    def loop(rank: int) -> None:
        for step in range(1, 2000):
            barrier.wait()
            time.sleep(0.0005 * rank)
            if notices[rank].after(step) == Order.STOP:
                stopped[rank] = step
                return

    loops = [threading.Thread(target=loop, args=(rank,)) for rank in range(3)]
    for each in loops:
        each.start()
    proposed = []
    for notice in notices:
        time.sleep(0.03)
        while (step := notice.propose()) is None:
            time.sleep(0.001)
        proposed.append(step)
    for notice in notices:
        notice.agree(agreement(max(proposed)))
    for each in loops:
        each.join(20)
    assert stopped == dict.fromkeys(range(3), max(proposed))
