"""The board where workers agree on a step, and the way from SIGTERM to it."""

import os
import signal

import pytest
import ray

from dvt.train import notice_board
from dvt.train.errors import Terminated
from dvt.train.notice_board import HEARS_S, NoticeBoard
from dvt.train.ray_notice import ended_by_sigterm


def test_workers_agree_on_the_latest_step_once_all_have_proposed() -> None:
    board = NoticeBoard()
    assert board.propose("a", 0, 3, 5) is None
    assert board.propose("a", 0, 3, 9) is None  # asked again: its first proposal counts
    assert board.propose("a", 2, 3, 7) is None
    assert board.propose("b", 1, 2, 1) is None
    assert board.propose("a", 1, 3, 6) == 7
    assert board.propose("a", 0, 3, 9) == 7


def test_who_asks_is_told_whether_workers_hear(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(notice_board.time, "monotonic", lambda: now)
    board = NoticeBoard()
    assert not board.look()
    assert board.ask()
    assert board.look()
    now += HEARS_S + 1
    assert not board.ask()
    assert not NoticeBoard().ask()


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
