"""Notice of the end on a Ray cluster: SIGTERM to the driver, or a node of the workers that is about to be taken away.

A small actor beside the driver is the board where the driver leaves a SIGTERM and where workers agree on the step after
which all of them write a checkpoint (`dvt.train.notice`). Of a node that is drained, as Ray and its autoscalers do
before they take a spot machine away, Ray Train tells every worker.
"""

import signal
import threading
import uuid
from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayError
from ray.train.v2._internal.execution.context import get_train_context
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from dvt.train.errors import Terminated
from dvt.train.notice import AgreedNotice, Order
from dvt.train.notice_board import NoticeBoard
from dvt.train.worker import Worker, gather

LOOK_S = 1.0  # between two looks at the board
ASK_S = 0.2  # between two questions whether all have proposed

Board = Any  # the handle of an actor of `NoticeBoard`


@contextmanager
def open_board() -> Iterator[Board]:
    """The board of a run, on the driver's node while the context lasts."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    actor: Any = ray.remote(NoticeBoard)
    board = actor.options(num_cpus=0, scheduling_strategy=here).remote()
    try:
        yield board
    finally:
        ray.kill(board)


@contextmanager
def ended_by_sigterm(board: Board) -> Iterator[None]:
    """Let a SIGTERM to this process be passed on to the workers; the context then ends by `Terminated`.

    Where none train yet, and at the second SIGTERM, it ends at once.
    """
    is_asked = is_told = False

    def on_term(number: int, frame: FrameType | None) -> None:
        nonlocal is_asked, is_told
        is_told = True
        if is_asked or not ray.get(board.ask.remote()):
            raise Terminated
        is_asked = True

    before = signal.signal(signal.SIGTERM, on_term)
    try:
        yield
    except KeyboardInterrupt as error:  # what Ray 2.60 makes of what a handler raises while it waits
        if is_told:
            raise Terminated from error
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
    if is_asked:
        raise Terminated


@contextmanager
def noticing(worker: Worker, board: Board) -> Iterator[Worker]:
    """The worker with notice of the end, while the context lasts; all workers enter it together."""
    notice, is_done = AgreedNotice(), threading.Event()
    group = gather(uuid.uuid4().hex, worker)[0]  # workers that are started anew agree anew
    arguments = (notice, is_done, board, group, worker)
    thread = threading.Thread(target=_listen, args=arguments, name="dvt-notice", daemon=True)
    thread.start()
    try:
        yield replace(worker, notice=notice)
    finally:
        is_done.set()


def _listen(notice: AgreedNotice, is_done: threading.Event, board: Board, group: str, worker: Worker) -> None:
    answered: set[str] = set()
    turn = 0  # of the rounds of this group
    try:
        while not is_done.wait(LOOK_S):
            heard = _heard(board, f"{group} {turn}", answered) if notice.has_begun else {}
            step = notice.propose() if heard else None
            if step is not None:
                told = (f"{group} {turn}", worker.rank, worker.world_size, step, heard)
                while (agreed := _answer(board.propose, *told)) is None:
                    if is_done.wait(ASK_S):
                        return
                answered |= agreed.about
                turn += 1
                notice.agree(agreed)
    except RayError:
        pass  # the board went with the driver, and this worker is about to
    finally:
        notice.withdraw()


def _heard(board: Board, key: str, answered: Set[str]) -> dict[str, Order]:
    """What this worker is to act on: told by the board, or by Ray Train that nodes leave."""
    heard: dict[str, Order] = dict(_answer(board.look, key) or {})
    # `ray.train.get_preemption_info`, which tells the same, is a barrier between the workers' loops (Ray 2.60).
    leaving = get_train_context().preemption_context.preemption_info
    if leaving is not None:
        heard |= dict.fromkeys(leaving.preempted_node_ids, Order.KEEP)
    return {about: order for about, order in heard.items() if about not in answered}


def _answer(method: Any, *told: Any) -> Any:
    """What a method of the board returns; None while it cannot be reached."""
    try:
        return ray.get(method.remote(*told))
    except ActorUnavailableError:
        return None
