"""The board where workers agree on a step, and the way from SIGTERM to it."""

import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch
from ray.exceptions import ActorUnavailableError

from dvt.train import notice_board, ray_notice
from dvt.train.errors import Terminated
from dvt.train.notice import AgreedNotice, Agreement, Order
from dvt.train.notice_board import HEARS_S, SIGTERM, NoticeBoard
from dvt.train.ray_notice import ended_by_sigterm
from dvt.train.worker import Worker

KEEP = {"a node": Order.KEEP}


def test_workers_agree_on_the_latest_step_once_all_have_proposed() -> None:
    board = NoticeBoard()
    assert board.propose("1", 0, 3, 5, KEEP) is None
    assert board.propose("1", 0, 3, 9, KEEP) is None  # asked again: its first proposal counts
    assert board.propose("1", 2, 3, 7, KEEP) is None
    assert board.propose("2", 1, 2, 1, KEEP) is None
    agreed = Agreement(7, Order.KEEP, frozenset(KEEP))
    assert board.propose("1", 1, 3, 6, KEEP) == agreed
    assert board.propose("1", 0, 3, 9, {"another node": Order.KEEP}) == agreed  # all were told so


def test_who_heard_nothing_learns_what_others_did() -> None:
    board = NoticeBoard()
    board.propose("1", 0, 2, 5, KEEP)
    assert board.look("1") == KEEP
    assert board.look("2") == {}
    board.ask()
    assert board.look("2") == {SIGTERM: Order.STOP}


def test_who_asks_is_told_whether_workers_hear(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(notice_board.time, "monotonic", lambda: now)
    board = NoticeBoard()
    assert not board.look("1")
    assert board.ask()
    assert board.look("1")
    now += HEARS_S + 1
    assert not board.ask()
    assert not NoticeBoard().ask()


class Asked:
    """A board in this process, called as an actor is; `fails` is what its first call raises."""

    def __init__(self, board: NoticeBoard, fails: Exception | None = None) -> None:
        self.fails = fails
        self.look, self.propose = self.method(board.look), self.method(board.propose)

    def method(self, call: Callable[..., Any]) -> Any:
        return SimpleNamespace(remote=lambda *told: partial(call, *told))

    def get(self, call: Callable[[], Any]) -> Any:
        fails, self.fails = self.fails, None
        if fails is not None:
            raise fails
        return call()


@pytest.mark.parametrize("fails", [None, ActorUnavailableError("for a while", None)])
def test_workers_that_first_hear_of_different_things_stop_together(
    monkeypatch: pytest.MonkeyPatch, fails: Exception | None
) -> None:
    """One was told that a node leaves before SIGTERM came, the other after; both have another one told later."""
    actor = NoticeBoard()
    board = Asked(actor, fails)
    leaving = threading.local()
    monkeypatch.setattr(ray, "get", board.get)
    monkeypatch.setattr(ray_notice, "LOOK_S", 0.01)
    monkeypatch.setattr(ray_notice, "ASK_S", 0.01)
    monkeypatch.setattr(
        ray_notice,
        "get_train_context",
        lambda: SimpleNamespace(preemption_context=SimpleNamespace(preemption_info=getattr(leaving, "info", None))),
    )
    notices, is_done, done = [AgreedNotice(), AgreedNotice()], threading.Event(), list[list[Order]]([[], []])

    def listen(rank: int, *nodes: str) -> None:
        leaving.info = SimpleNamespace(preempted_node_ids=list(nodes)) if nodes else None
        ray_notice._listen(notices[rank], is_done, board, "group", Worker(torch.device("cpu"), rank, 2))

    heard = (0, "one"), (1, "one", "two")
    threads = [threading.Thread(target=listen, args=told) for told in heard]
    try:
        for notice in notices:
            notice.after(1)
        threads[0].start()
        wait_until(lambda: bool(actor.look("group 0")))  # it has proposed
        actor.ask()
        threads[1].start()
        for rank, notice in enumerate(notices):
            done[rank] = [notice.after(step) for step in (2, 3)]
    finally:
        is_done.set()
        for thread in threads:
            thread.join(5)
    assert done == [[Order.STOP, Order.GO_ON]] * 2


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


class Remote:
    """A board that is called as an actor's is."""

    def __init__(self, is_heard: bool) -> None:
        self.is_heard, self.asked = is_heard, 0
        self.ask = self

    def remote(self) -> bool:
        self.asked += 1
        return self.is_heard


@pytest.mark.parametrize(("is_heard", "signals", "goes_on"), [(True, 1, 1), (True, 2, 0), (False, 1, 0)])
def test_sigterm_ends_when_workers_are_done_or_at_once(
    monkeypatch: pytest.MonkeyPatch, is_heard: bool, signals: int, goes_on: int
) -> None:
    monkeypatch.setattr(ray, "get", lambda value: value)
    board, reached, before = Remote(is_heard), [], signal.getsignal(signal.SIGTERM)

    def train() -> None:
        with ended_by_sigterm(board):
            for _ in range(signals):
                os.kill(os.getpid(), signal.SIGTERM)
            reached.append(1)

    with pytest.raises(Terminated):
        train()
    assert (len(reached), board.asked) == (goes_on, 1)
    assert signal.getsignal(signal.SIGTERM) == before


def test_without_sigterm_nothing_is_asked() -> None:
    board = Remote(is_heard=True)
    with ended_by_sigterm(board):
        pass
    assert board.asked == 0
