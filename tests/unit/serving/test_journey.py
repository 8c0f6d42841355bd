"""Images on their way through parts in other processes: answered as they leave, asked for again where one was lost."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
import pytest

from dvt.serving.journey import Answer, Journey, LostError, PartReply
from dvt.serving.stage_part import ImageGroup, Leavers


class ProcessLostError(Exception):
    """Stands for a killed process."""


def group_of(count: int) -> ImageGroup:
    """Images whose only pixel is their number."""
    return ImageGroup(np.arange(count, dtype=np.float32)[:, None, None, None], np.zeros((count, 2)))


def part(
    exit_index: int, leaves: Callable[[float], bool], failures: list[Exception], seen: list[list[int]]
) -> Callable[[ImageGroup], Awaitable[PartReply]]:
    """A part that lets some numbers leave, with the number as their label; fails first, as often as told."""

    async def call(group: ImageGroup) -> PartReply:
        numbers = group.images[:, 0, 0, 0].tolist()
        seen.append([int(number) for number in numbers])
        if failures:
            raise failures.pop(0)
        gone = np.array([row for row, number in enumerate(numbers) if leaves(number)], dtype=np.int64)
        here = np.setdiff1d(np.arange(len(numbers)), gone)
        labels = group.images[gone, 0, 0, 0].astype(np.int64)
        half = np.full(len(gone), 0.5, dtype=np.float32)
        left = Leavers(gone, labels, half, half, np.full(len(gone), exit_index))
        return PartReply(left, here, group.at(here) if len(here) else None)

    return call


def follow(journey: Journey, count: int) -> list[Any]:
    async def run() -> list[Any]:
        async with asyncio.timeout(10):
            answers: Sequence[asyncio.Future[Answer]] = [
                asyncio.get_running_loop().create_future() for _ in range(count)
            ]
            await journey.follow(group_of(count), answers)
            return list(await asyncio.gather(*answers, return_exceptions=True))

    return asyncio.run(run())


def test_each_image_gets_its_own_answer() -> None:
    seen: list[list[int]] = []
    parts = [part(0, lambda number: number % 2 == 1, [], seen), part(1, lambda _: True, [], seen)]
    answers = follow(Journey(parts, (ProcessLostError,)), 5)
    assert [answer.label for answer in answers] == [0, 1, 2, 3, 4]
    assert [answer.exit_index for answer in answers] == [1, 0, 1, 0, 1]
    assert seen == [[0, 1, 2, 3, 4], [0, 2, 4]], "the second part sees none that left"


def test_a_lost_process_costs_a_second_way_of_those_alone_who_had_not_left() -> None:
    first: list[list[int]] = []
    second: list[list[int]] = []
    parts = [
        part(0, lambda number: number % 2 == 1, [], first),
        part(1, lambda _: True, [ProcessLostError(), ProcessLostError()], second),
    ]
    answers = follow(Journey(parts, (ProcessLostError,)), 4)
    assert [answer.label for answer in answers] == [0, 1, 2, 3]
    assert first == [[0, 1, 2, 3], [0, 2], [0, 2]]
    assert second == [[0, 2]] * 3


def test_one_that_stays_lost_is_told_of_in_the_end() -> None:
    def lost_for_ever(_: Any) -> Awaitable[PartReply]:
        raise ProcessLostError("no such process")

    answers = follow(Journey([lost_for_ever], (ProcessLostError,), patience_s=0.05), 2)
    for answer in answers:
        with pytest.raises(LostError, match=r"^a stage must answer within 0.05 s, got: no such process$"):
            raise answer


def test_another_error_is_not_tried_again() -> None:
    seen: list[list[int]] = []
    answers = follow(Journey([part(0, lambda _: True, [KeyError("model")], seen)], (ProcessLostError,)), 3)
    assert [type(answer) for answer in answers] == [KeyError] * 3
    assert len(seen) == 1


def test_who_gave_up_stops_nobody() -> None:
    async def run() -> list[Any]:
        answers = [asyncio.get_running_loop().create_future() for _ in range(2)]
        answers[0].cancel()
        await Journey([part(0, lambda _: True, [], [])], (ProcessLostError,)).follow(group_of(2), answers)
        return answers

    gone, answered = asyncio.run(run())
    assert gone.cancelled()
    assert answered.result().label == 1
