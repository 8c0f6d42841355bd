"""Notice that a run, or a node of it, is about to end: how all workers write a checkpoint after the same step.

A worker that waits at the end of its step for the others would hold them up in theirs, as they exchange gradients. So a
thread of each worker proposes the step that its worker has begun, and the last one proposed is what all agree on. Until
then no worker begins another step. That costs a look at a lock a step, and no message between workers.
"""

import threading
from dataclasses import dataclass
from enum import Enum
from typing import Protocol


class Order(Enum):
    """What is to be done after a step."""

    GO_ON = "go on"
    KEEP = "keep"  # write a checkpoint and go on, as a node is about to be taken away
    STOP = "stop"  # write a checkpoint and return, as the whole run is about to be ended


@dataclass(frozen=True)
class Agreement:
    """What all workers do next.

    Attributes:
        step: After which, the latest that any of them had begun.
        order: What, the most that any of them heard.
        about: What of: names of what they heard, so that none answers it again.
    """

    step: int
    order: Order
    about: frozenset[str]


class Notice(Protocol):
    """Tells the loop what to do after a step."""

    def after(self, step: int) -> Order:
        """What to do after `step`; the same for all workers. The next step is begun when this returns."""


class NoNotice:
    """Training goes on to its end."""

    def after(self, step: int) -> Order:
        """Go on."""
        return Order.GO_ON


NO_NOTICE = NoNotice()


class AgreedNotice:
    """What workers agreed on: the loop asks `after` in one thread, another one calls the rest."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._begun: int | None = None  # the step that was begun last; None before the first
        self._is_open = False  # proposed, and not yet agreed on
        self._agreed: Agreement | None = None

    def after(self, step: int) -> Order:
        """What to do after `step`; waits while workers are about to agree."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_open)
            order = Order.GO_ON
            if self._agreed is not None and step >= self._agreed.step:
                order, self._agreed = self._agreed.order, None
            self._begun = step + 1
            return order

    @property
    def has_begun(self) -> bool:
        """Whether a step was taken, so that there is something to keep."""
        return self._begun is not None

    def propose(self) -> int | None:
        """Let no further step begin, and return the step that was begun last.

        None if none was so far, or if what was agreed on before is still to be done.
        """
        with self._changed:
            if self._begun is None or self._is_open or self._agreed is not None:
                return None
            self._is_open = True
            return self._begun

    def agree(self, agreement: Agreement) -> None:
        """Let it be done, and steps begin until then."""
        with self._changed:
            self._is_open, self._agreed = False, agreement
            self._changed.notify_all()

    def withdraw(self) -> None:
        """Let steps begin as if nothing had been proposed."""
        with self._changed:
            self._is_open, self._agreed = False, None
            self._changed.notify_all()
