from collections.abc import Iterator

import pytest
import torch

from dvt.data import Batch, DataError, Skipped, prefetched

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def batches(count: int, fails: bool = False) -> Iterator[Batch]:
    for number in range(count):
        images = torch.full((64, 3, 64, 64), number, dtype=torch.uint8)
        yield Batch(images, torch.full((64,), number), (Skipped(str(number), "empty"),))
    if fails:
        raise DataError("a.jpg is gone")


def test_on_a_cpu_batches_come_as_they_are() -> None:
    source = batches(3)
    assert prefetched(source, CPU) is source


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_batches_come_in_order_whole_and_in_memory_of_the_device() -> None:
    sums = []
    for number, batch in enumerate(prefetched(batches(20), CUDA)):
        assert batch.images.device.type == batch.labels.device.type == "cuda"
        assert batch.skipped == (Skipped(str(number), "empty"),)
        torch.cuda._sleep(1_000_000)  # the device is busy while the next one is copied
        sums.append(batch.images.long().sum() + batch.labels.sum())
    whole = 64 * 3 * 64 * 64 + 64
    assert [int(each) for each in sums] == [number * whole for number in range(20)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_an_error_comes_after_the_batches_before_it_and_leaving_early_ends_the_thread() -> None:
    seen = []
    with pytest.raises(DataError, match="is gone"):
        seen.extend(int(batch.labels[0]) for batch in prefetched(batches(2, fails=True), CUDA))
    left = prefetched(batches(5), CUDA)
    assert int(next(left).labels[0]) == 0
    left.close()
    assert next(left, None) is None
