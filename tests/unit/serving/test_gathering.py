"""Who waits with whom: full batches, patience, order, and errors that reach all who waited."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from dvt.serving.gathering import Gathering

LONG_S = 30.0  # a test that waited for it would be seen


class Run:
    """Answers items with themselves times ten, and keeps the batches it was asked for."""

    def __init__(self, gate: asyncio.Event | None = None) -> None:
        self.batches: list[list[int]] = []
        self.gate = gate

    async def __call__(self, items: list[int]) -> Sequence[int]:
        self.batches.append(items)
        if self.gate is not None:
            await self.gate.wait()
        return [10 * item for item in items]


def run(test: Callable[[], Awaitable[Any]]) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(10):
            return await test()

    return asyncio.run(bounded())


def test_a_full_batch_runs_at_once() -> None:
    async def test() -> None:
        ran = Run()
        gathering = Gathering(ran, max_size=3, max_wait_s=LONG_S)
        assert await asyncio.gather(*map(gathering.submit, (1, 2, 3))) == [10, 20, 30]
        assert ran.batches == [[1, 2, 3]]

    run(test)


def test_what_is_alone_waits_no_longer_than_it_may() -> None:
    async def test() -> None:
        ran = Run()
        gathering = Gathering(ran, max_size=3, max_wait_s=0.02)
        began = asyncio.get_running_loop().time()
        assert await gathering.submit(1) == 10
        assert asyncio.get_running_loop().time() - began >= 0.02
        assert await gathering.submit(2) == 20, "a second batch runs when the first is done"
        assert ran.batches == [[1], [2]]

    run(test)


def test_what_comes_while_a_batch_runs_goes_together_and_first_come_first() -> None:
    async def test() -> None:
        gate = asyncio.Event()
        ran = Run(gate)
        gathering = Gathering(ran, max_size=3, max_wait_s=0)
        tasks = [asyncio.create_task(gathering.submit(1))]
        await asyncio.sleep(0.01)
        tasks += [asyncio.create_task(gathering.submit(item)) for item in (2, 3, 4, 5)]
        await asyncio.sleep(0.01)
        gate.set()
        assert await asyncio.gather(*tasks) == [10, 20, 30, 40, 50]
        assert ran.batches == [[1], [2, 3, 4], [5]]

    run(test)


def test_sizes_are_counted_and_nobody_overtakes_a_large_one() -> None:
    async def test() -> None:
        ran = Run()
        gathering = Gathering(ran, max_size=4, max_wait_s=0.02, size_of=lambda item: item)
        assert await asyncio.gather(*map(gathering.submit, (3, 9, 1, 2, 1))) == [30, 90, 10, 20, 10]
        assert ran.batches == [[3], [9], [1, 2, 1]], "9 exceeds 4, so it runs alone; 1 does not overtake it"

    run(test)


def test_an_error_reaches_all_of_its_batch_and_none_after_it() -> None:
    async def failing(items: list[int]) -> Sequence[int]:
        if 1 in items:
            raise KeyError("broken")
        return items

    async def test() -> None:
        gathering: Gathering[int, int] = Gathering(failing, max_size=2, max_wait_s=0)
        got = await asyncio.gather(*map(gathering.submit, (1, 2)), return_exceptions=True)
        assert [type(each) for each in got] == [KeyError, KeyError]
        assert await gathering.submit(3) == 3

    run(test)


def test_who_gave_up_is_left_out() -> None:
    async def test() -> None:
        gate = asyncio.Event()
        ran = Run(gate)
        gathering = Gathering(ran, max_size=2, max_wait_s=0)
        first = asyncio.create_task(gathering.submit(1))
        await asyncio.sleep(0.01)
        gone, stays = (asyncio.create_task(gathering.submit(item)) for item in (2, 3))
        await asyncio.sleep(0.01)
        gone.cancel()
        await asyncio.sleep(0)
        gate.set()
        assert (await first, await stays) == (10, 30)
        assert ran.batches == [[1], [3]]
        with pytest.raises(asyncio.CancelledError):
            await gone

    run(test)
