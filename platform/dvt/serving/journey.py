"""The way of images through the parts of a cascade that run in other processes, begun anew where one was lost.

A part keeps nothing of an image and says the same each time, so what was lost on the way is asked for again, from the
first stage on: what a lost process had computed is lost with it, and the images are still here.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dvt.serving.stage_part import ImageGroup, Leavers, Rows

PATIENCE_S = 120.0  # that a process may take to come back; starting one takes some ten seconds
_PAUSE_S = 0.1


@dataclass(frozen=True, eq=False)
class PartReply:
    """What a part answers about a group."""

    left: Leavers
    staying: Rows  # rows of the group that need the next part
    survivors: Any  # what to call the next part with; None where all left


@dataclass(frozen=True)
class Answer:
    """What became of an image."""

    label: int
    prob: float  # of the label
    confidence: float
    exit_index: int  # from 0


class LostError(RuntimeError):
    """A part could not be reached for too long."""


class Journey:
    """Takes groups of images through parts.

    Args:
        parts: Each is called with a group, or with the survivors that the part before told of.
        lost: What is raised where a process was lost, and asking again may help.
        patience_s: For how long that is tried.
    """

    def __init__(
        self,
        parts: Sequence[Callable[[Any], Awaitable[PartReply]]],
        lost: tuple[type[Exception], ...],
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._parts = parts
        self._lost = lost
        self._patience_s = patience_s

    async def follow(self, group: ImageGroup, answers: "Sequence[asyncio.Future[Answer]]") -> None:
        """Answer each image as soon as it has left; who asked may have given up.

        Args:
            group: The images, before the first stage.
            answers: One for each; get the answer, or what was raised instead, `LostError` for a process that was lost.
        """
        going = asyncio.ensure_future(self._go(group, answers))
        await asyncio.wait({going})
        error = going.exception()  # belongs to those who wait; nobody waits for this task
        for answer in answers:
            if error is not None and not answer.done():
                answer.set_exception(error)

    async def _go(self, group: ImageGroup, answers: "Sequence[asyncio.Future[Answer]]") -> None:
        """See `follow`; raises what an answer that has not come is to raise."""
        end = time.monotonic() + self._patience_s
        rows = np.arange(len(group))
        while len(rows):
            try:
                async for left in self._once(group.at(rows)):
                    _answer(left, [answers[row] for row in rows.tolist()])
            except self._lost as error:
                if time.monotonic() >= end:
                    rule = f"a stage must answer within {self._patience_s:g} s, got: {error}"
                    raise LostError(rule) from error
                await asyncio.sleep(_PAUSE_S)
            rows = np.array([row for row in rows.tolist() if not answers[row].done()], dtype=np.int64)

    async def _once(self, group: ImageGroup) -> AsyncIterator[Leavers]:
        """Who leaves, part after part, as rows of the group."""
        rows, handed_on = np.arange(len(group)), group
        for part in self._parts:
            reply = await part(handed_on)
            left = reply.left
            yield Leavers(rows[left.rows], left.label, left.prob, left.confidence, left.exit_index)
            rows, handed_on = rows[reply.staying], reply.survivors
            if not len(rows):
                return


def _answer(left: Leavers, answers: "Sequence[asyncio.Future[Answer]]") -> None:
    columns = (left.rows, left.label, left.prob, left.confidence, left.exit_index)
    for row, *values in zip(*(column.tolist() for column in columns), strict=True):
        if not answers[row].done():
            answers[row].set_result(Answer(*values))
