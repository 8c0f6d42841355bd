"""Waiting for company: what many callers bring is gathered and run together, no longer after than one wants to wait.

Ray Serve 2.60's own `serve.batch` counts calls, and puts a call that does not fit behind those that came after it.
Here calls bring groups of images, which are counted, and whoever came first goes first.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")


@dataclass(frozen=True, eq=False)
class _Waiting(Generic[Given, Made]):
    item: Given
    size: int
    since: float  # by the event loop's clock
    made: "asyncio.Future[Made]"


class Gathering(Generic[Given, Made]):
    """Runs items together, one batch at a time; used from one event loop.

    A batch is run when there is enough for it or its first item has waited long enough. What comes while a batch runs
    waits for its end, so batches grow with the load.

    Args:
        run: Makes a result of each item of a batch, in their order.
        max_size: The most that a batch may measure, at least 1; an item that is larger runs alone.
        max_wait_s: How long the first item of a batch waits for others at most, in seconds.
        size_of: What an item measures; without it 1.
    """

    def __init__(
        self,
        run: Callable[[list[Given]], Awaitable[Sequence[Made]]],
        *,
        max_size: int,
        max_wait_s: float,
        size_of: Callable[[Given], int] = lambda _: 1,
    ) -> None:
        self._run = run
        self._max_size = max_size
        self._max_wait_s = max_wait_s
        self._size_of = size_of
        self._waiting: deque[_Waiting[Given, Made]] = deque()
        self._arrived = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None

    async def submit(self, item: Given) -> Made:
        """The result of an item, when its batch has run; whatever running the batch raised."""
        loop = asyncio.get_running_loop()
        made: asyncio.Future[Made] = loop.create_future()
        self._waiting.append(_Waiting(item, self._size_of(item), loop.time(), made))
        self._arrived.set()
        if self._worker is None:
            self._worker = loop.create_task(self._work())
        return await made

    async def _work(self) -> None:
        """Run batches until nothing waits."""
        try:
            while self._waiting:
                await self._filled()
                batch = self._taken()
                if batch:
                    await self._run_batch(batch)
        finally:
            self._worker = None

    async def _filled(self) -> None:
        """Wait until a batch is full or its first item has waited long enough."""
        loop = asyncio.get_running_loop()
        while sum(each.size for each in self._waiting) < self._max_size:
            left_s = self._waiting[0].since + self._max_wait_s - loop.time()
            if left_s <= 0:
                return
            self._arrived.clear()
            try:
                await asyncio.wait_for(self._arrived.wait(), left_s)
            except TimeoutError:
                return

    def _taken(self) -> list[_Waiting[Given, Made]]:
        """Those that came first, as many as fit; whoever gave up meanwhile is left out."""
        batch: list[_Waiting[Given, Made]] = []
        size = 0
        while self._waiting and (not batch or size + self._waiting[0].size <= self._max_size):
            first = self._waiting.popleft()
            if not first.made.cancelled():
                batch.append(first)
                size += first.size
        return batch

    async def _run_batch(self, batch: list[_Waiting[Given, Made]]) -> None:
        running = asyncio.ensure_future(self._run([each.item for each in batch]))
        await asyncio.wait({running})
        error = running.exception()  # belongs to those who wait for the batch; here it would end all batches after it
        if error is not None:
            for each in batch:
                if not each.made.done():
                    each.made.set_exception(error)
            return
        for each, result in zip(batch, running.result(), strict=True):
            if not each.made.done():
                each.made.set_result(result)
