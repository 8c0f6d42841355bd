"""Batches copied to the training device while it computes on the one before.

On CUDA a thread takes the next batch, puts it into pinned memory and copies it on a stream of its own.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import torch

from dvt.data.sets import Batch


def prefetched(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """The same batches in the same order, on `device`; on a CPU as they are.

    Args:
        batches: Read by one other thread, one batch ahead, where `device` is a GPU.
        device: Where the batches are used, on the stream that is current when the next one is asked for.
    """
    return _copied_ahead(batches, device) if device.type == "cuda" else batches


def _copied_ahead(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    copying = torch.cuda.Stream(device)

    def copy_next() -> Batch | None:
        batch = next(batches, None)
        if batch is None:
            return None
        with torch.cuda.stream(copying):
            images, labels = (each.pin_memory().to(device, non_blocking=True) for each in (batch.images, batch.labels))
        # The host waits here, in this thread: what is handed out is there, and pinned memory may be used again.
        copying.synchronize()
        return replace(batch, images=images, labels=labels)

    with ThreadPoolExecutor(1, thread_name_prefix="dvt-prefetch") as thread:
        coming = thread.submit(copy_next)
        while (batch := coming.result()) is not None:
            coming = thread.submit(copy_next)
            for each in (batch.images, batch.labels):
                each.record_stream(torch.cuda.current_stream(device))  # else its memory might be taken too early
            yield batch
