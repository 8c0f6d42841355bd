"""Really leaving early: images that are confident leave, the others wait for the next stage until it is full.

"Budgeted batch" classification of Wang et al., "Not All Images are Worth 16x16 Words", NeurIPS 2021, section 3.1. The
published code only simulates it: it runs every exit on every image. Here a stage sees only the images that no earlier
exit was sure of, and gives the same numbers as `Cascade.forward`. Survivors of several batches are collected, so that
late stages, which few images reach, run on full batches all the same.

Shapes: E exits, B batch, n images that a stage runs on, c image channels, S image side, C classes.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from dvt.exits import PLAIN, Confidence
from dvt.inference.arrivals import Arrivals
from dvt.inference.result import EarlyExitResult, Positions, ResultWindow
from dvt.inference.stage_queue import StageQueue
from dvt.models import Cascade, StageOutput

_STAGE_BATCH_SIZE = {"cpu": 32}  # larger ones fall out of a processor's cache
_STAGE_BATCH_SIZE_ELSEWHERE = 128


class EarlyExit:
    """Classifies images and spends on each no more stages than it needs.

    Args:
        cascade: The model; it is put into evaluation mode.
        thresholds: (E,); an image leaves at the first exit with confidence >= threshold. +inf closes an exit; the last
            is -inf, because the last exit takes what is left.
        confidence: What the thresholds are of; the largest probability if none is given.
        stage_batch_size: Images that a stage runs on at once, one number for all stages or one for each; the first
            stage takes what comes, cut to that size, later ones wait until so many have come. None is 32 on a CPU and
            128 elsewhere. A queue holds as many: its memory is what a stage reads of so many images.
        max_wait_s: In `stream`, how long an image waits for others at most before its stage runs without them, in
            seconds, not counting the time of stages that run.

    Raises:
        ValueError: If an argument is not as stated.
    """

    def __init__(
        self,
        cascade: Cascade,
        thresholds: Sequence[float],
        confidence: Confidence = PLAIN,
        *,
        stage_batch_size: int | Sequence[int] | None = None,
        max_wait_s: float = math.inf,
    ) -> None:
        num_exits = cascade.config.num_exits
        _check_thresholds(thresholds, num_exits)
        confidence.check(num_exits)
        if not max_wait_s >= 0:
            raise ValueError(f"max_wait_s must be at least 0, got {max_wait_s}")
        self.cascade = cascade.eval()
        self.confidence = confidence
        self.thresholds = tuple(float(threshold) for threshold in thresholds)
        self.device = next(cascade.parameters()).device
        if stage_batch_size is None:
            stage_batch_size = _STAGE_BATCH_SIZE.get(self.device.type, _STAGE_BATCH_SIZE_ELSEWHERE)
        self.stage_batch_size = _sizes(stage_batch_size, num_exits)
        self.max_wait_s = max_wait_s
        self._idle: list[list[StageQueue]] = []  # queues of calls that are over, for the next one

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> EarlyExitResult:
        """Classify a batch of any size.

        Args:
            images: Normalised images, (B, c, S, S), on the device of the cascade; B may be 0.

        Returns:
            One row an image, in the order of `images`. A stage that no image reaches does not run.
        """
        with _Flow(self, max(1, len(images))) as flow:
            flow.add(images)
            flow.flush()
            return flow.window.take(0, len(images))

    def stream(self, batches: Iterable[Tensor], *, max_pending: int = 4096) -> Iterator[EarlyExitResult]:
        """Classify batches as they come.

        Args:
            batches: Normalised images, (B, c, S, S) each, B from 0 to `max_pending`; they are moved to the cascade's
                device. Where `max_wait_s` is finite, a thread reads them two ahead.
            max_pending: The most images under way, or done and waiting for one before them that is under way; when
                there is no room for a batch, all that wait in queues are run first. Bounds the memory of results.

        Yields:
            One result a batch, in the order of the batches, as soon as its last image has left.

        Raises:
            ValueError: If a batch is larger than `max_pending`.
        """
        with _Flow(self, max_pending) as flow:
            if math.isinf(self.max_wait_s):
                for images in batches:
                    yield from flow.accept(images)
            else:
                with Arrivals(batches) as arrivals:
                    yield from _as_they_come(arrivals, flow)
            flow.flush()
            yield from flow.finished()


class _Flow:
    """The images of one call on their way through the stages."""

    def __init__(self, engine: EarlyExit, window_size: int) -> None:
        self.engine = engine
        self.window = ResultWindow(window_size, engine.cascade.num_classes, engine.device)
        self.num_seen = 0
        self.open: deque[tuple[int, int]] = deque()  # first position and size of batches that were not given back yet

    def __enter__(self) -> "_Flow":
        # Popping is atomic: calls in several threads never share queues.
        idle, sizes = self.engine._idle, self.engine.stage_batch_size[1:]
        self.queues = idle.pop() if idle else [StageQueue(size) for size in sizes]
        return self

    def __exit__(self, *exception: object) -> None:
        for queue in self.queues:
            queue.clear()
        self.engine._idle.append(self.queues)

    def accept(self, images: Tensor) -> Iterator[EarlyExitResult]:
        """Take a batch of a stream in; gives the batches that are done."""
        if len(images) > self.window.size:
            raise ValueError(f"batches must hold at most max_pending {self.window.size} images, got {len(images)}")
        if self.open and self.num_seen + len(images) - self.open[0][0] > self.window.size:
            self.flush()
            yield from self.finished()
        self.open.append((self.num_seen, len(images)))
        self.add(images.to(self.engine.device, non_blocking=True))
        yield from self.finished()

    @torch.inference_mode()
    def add(self, images: Tensor) -> None:
        """Run the first stage on images (B, c, S, S)."""
        positions = np.arange(self.num_seen, self.num_seen + len(images))
        self.num_seen += len(images)
        size = self.engine.stage_batch_size[0]
        for start in range(0, len(images), size):
            self._run(0, images[start : start + size], None, positions[start : start + size])

    @torch.inference_mode()
    def flush(self, waited_s: float = 0.0) -> None:
        """Run the stages that images have waited for at least so long, full or not."""
        for stage_index, queue in enumerate(self.queues, start=1):
            if queue.count and queue.waited_s >= waited_s:
                self._run_waiting(stage_index)

    def finished(self) -> Iterator[EarlyExitResult]:
        """The batches, in order, that are done."""
        while self.open and self.window.are_done(*self.open[0]):
            yield self.window.take(*self.open.popleft())

    def time_left_s(self) -> float | None:
        """How long until an image will have waited too long, in seconds; None where none waits."""
        waited = [queue.waited_s for queue in self.queues if queue.count]
        return max(0.0, self.engine.max_wait_s - max(waited)) if waited else None

    def _run(self, stage_index: int, images: Tensor, upstream: StageOutput | None, positions: Positions) -> None:
        """Run a stage; who is confident leaves, the others join the next queue."""
        output = self.engine.cascade.stage(stage_index, images, upstream)
        confidence = self.engine.confidence(output.logits, stage_index)  # (n,)
        is_last = stage_index == len(self.queues)  # takes even what has no number for a confidence
        # The one time that the host waits for the device.
        stays = (~(confidence.double() >= self.engine.thresholds[stage_index])).cpu().numpy() & (not is_last)
        leaving, staying = np.flatnonzero(~stays), np.flatnonzero(stays)
        if len(leaving):
            rows = torch.from_numpy(leaving).to(images.device)
            self.window.put(positions[leaving], output.logits[rows], confidence[rows], stage_index)
        while len(staying):
            staying = self.queues[stage_index].add(images, output, positions, staying)
            if self.queues[stage_index].is_full:
                self._run_waiting(stage_index + 1)

    def _run_waiting(self, stage_index: int) -> None:
        queue = self.queues[stage_index - 1]
        images, upstream, positions = queue.waiting()
        self._run(stage_index, images, upstream, positions)
        queue.clear()


def _as_they_come(arrivals: Arrivals[Tensor], flow: _Flow) -> Iterator[EarlyExitResult]:
    """Results of batches, running late what has waited too long while none comes."""
    while True:
        try:
            images = arrivals.next(flow.time_left_s())
        except StopIteration:
            return
        except TimeoutError:
            images = None
        if images is not None:
            yield from flow.accept(images)
        flow.flush(waited_s=flow.engine.max_wait_s)
        yield from flow.finished()


def _check_thresholds(thresholds: Sequence[float], num_exits: int) -> None:
    if len(thresholds) != num_exits:
        raise ValueError(f"thresholds must hold one number for each of {num_exits} exits, got {len(thresholds)}")
    if any(math.isnan(threshold) for threshold in thresholds):
        raise ValueError(f"thresholds must be numbers or infinite, got {', '.join(map(str, thresholds))}")
    if thresholds[-1] != -math.inf:
        raise ValueError(
            f"thresholds must end with -inf, because the last exit takes what is left, got {thresholds[-1]}"
        )


def _sizes(stage_batch_size: int | Sequence[int], num_exits: int) -> tuple[int, ...]:
    """One size a stage."""
    sizes = (stage_batch_size,) * num_exits if isinstance(stage_batch_size, int) else tuple(stage_batch_size)
    if len(sizes) != num_exits or any(size < 1 for size in sizes):
        told = ", ".join(map(str, sizes))
        raise ValueError(f"stage_batch_size must be one number of at least 1, or one for each exit, got {told}")
    return sizes
