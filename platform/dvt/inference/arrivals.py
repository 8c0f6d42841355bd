"""Waiting for the next batch no longer than one wants to, whoever makes the batches."""

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

_READ_AHEAD = 2  # batches that are read before they are asked for
_LOOK_S = 0.1  # how often a reader that waits for room looks whether it is still wanted


class Arrivals(Generic[T]):
    """Reads an iterable in a thread of its own, so that asking for the next item can time out.

    To be closed, also where reading failed: `with Arrivals(items) as arrivals`.

    Args:
        items: What to read; whatever it raises is raised where the item would have come.
    """

    def __init__(self, items: Iterable[T]) -> None:
        self._queue: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(_READ_AHEAD)
        self._is_closed = threading.Event()
        threading.Thread(target=self._read, args=(iter(items),), name="dvt-arrivals", daemon=True).start()

    def __enter__(self) -> "Arrivals[T]":
        return self

    def __exit__(self, *exception: object) -> None:
        self._is_closed.set()

    def next(self, timeout_s: float | None) -> T:
        """The next item.

        Args:
            timeout_s: How long to wait for it in seconds; None is for ever.

        Raises:
            TimeoutError: If it did not come in time; it can be asked for again.
            StopIteration: If there is none.
        """
        try:
            item, error = self._queue.get(timeout=timeout_s)
        except queue.Empty:
            raise TimeoutError from None
        if error is not None:
            raise error
        return item  # type: ignore[return-value]  # an item may itself be None

    def _read(self, items: Iterator[T]) -> None:
        try:
            for item in items:
                if not self._put(item, None):
                    return
        # Whatever the source raises belongs to whoever asks for the item. An executor's future would carry it too, but
        # its thread is joined when Python ends: a source that never answers would keep the process alive.
        except Exception as error:  # noqa: BLE001
            self._put(None, error)
        else:
            self._put(None, StopIteration())

    def _put(self, item: T | None, error: BaseException | None) -> bool:
        """Whether the pair was taken, and not refused because nobody wants it any more."""
        while not self._is_closed.is_set():
            try:
                self._queue.put((item, error), timeout=_LOOK_S)
            except queue.Full:
                continue
            return True
        return False
