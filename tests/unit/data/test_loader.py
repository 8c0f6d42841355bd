from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dvt.config import CascadeConfig, ConfigError, DataConfig, StageConfig
from dvt.data import (
    Batch,
    DataError,
    DataSets,
    Skipped,
    batches_per_epoch,
    eval_batches,
    open_data,
    train_batches,
    warn_of_too_many_readers,
)
from dvt.data.folder import FolderFiles
from dvt.data.image_set import FileImages
from tests.unit.data.images import cascade, folder_config, write_folder


class Numbers:
    """A set whose images show their own index, epoch and seed."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def read(self, indices: list[int], *, epoch: int = 0, seed: int = 0) -> Batch:
        values = torch.tensor([[index, epoch, seed] for index in indices])
        return Batch(values.float().reshape(-1, 1, 1, 3), values[:, 0])


def _numbers(size: int) -> DataSets:
    return DataSets(Numbers(size), Numbers(5), Numbers(5), ("a",), (0.0,), (1.0,))


def _train(data: DataSets, **changes: int) -> Iterator[Batch]:
    values = {"epoch": 0, "seen_images": 0, "rank": 0, "world_size": 1, "batch_size": 2, "seed": 0, "num_workers": 0}
    return train_batches(data, **{**values, **changes})


def _indices(batches: Iterator[Batch]) -> list[list[int]]:
    return [batch.labels.tolist() for batch in batches]


def test_batches_per_epoch_by_hand() -> None:
    assert batches_per_epoch(100, world_size=3, batch_size=8) == 4  # 96 of 100; the tail of 4 does not fill 24
    assert batches_per_epoch(24, world_size=3, batch_size=8) == 1


def test_too_few_images_are_refused() -> None:
    with pytest.raises(ConfigError) as raised:
        batches_per_epoch(23, world_size=3, batch_size=8)
    assert str(raised.value) == ("train.micro_batch_size must be at most 7 for 23 training images on 3 workers, got 8")
    with pytest.raises(ConfigError) as raised:
        _train(_numbers(2), world_size=3)
    assert str(raised.value) == "cluster.num_workers must be at most 2, the number of training images, got 3"


@given(size=st.integers(1, 60), world_size=st.integers(1, 4), batch_size=st.integers(1, 5), seed=st.integers(0, 99))
def test_ranks_are_disjoint_and_equal(size: int, world_size: int, batch_size: int, seed: int) -> None:
    if size < world_size * batch_size:
        return
    count = batches_per_epoch(size, world_size=world_size, batch_size=batch_size)
    ranks = [
        _indices(_train(_numbers(size), rank=rank, world_size=world_size, batch_size=batch_size, seed=seed))
        for rank in range(world_size)
    ]
    assert all([len(batch) for batch in batches] == [batch_size] * count for batches in ranks)
    seen = list(chain.from_iterable(chain.from_iterable(ranks)))
    assert len(set(seen)) == len(seen) == count * world_size * batch_size
    assert set(seen) <= set(range(size))


def test_order_depends_on_epoch_and_seed_and_reaches_the_set() -> None:
    data = _numbers(40)
    orders = {str(_indices(_train(data, epoch=epoch, seed=seed))) for epoch in range(3) for seed in range(3)}
    assert len(orders) == 9
    first = next(_train(data, epoch=4, seed=9))
    assert first.images[0, 0, 0, 1:].tolist() == [4, 9]


def test_global_batch_does_not_depend_on_how_many_share_it() -> None:
    data = _numbers(40)
    alone = _indices(_train(data, batch_size=8))
    shared = [_indices(_train(data, batch_size=4, rank=rank, world_size=2)) for rank in (0, 1)]
    assert alone == [first + second for first, second in zip(*shared, strict=True)]


@given(first_batch=st.integers(0, 8), rank=st.integers(0, 1), epoch=st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_resuming_at_any_batch_gives_the_batches_that_were_left(first_batch: int, rank: int, epoch: int) -> None:
    config = DataConfig(source="embedded", train_images=64, calibration_images=1, test_images=1)
    stages = (StageConfig(token_grid=3),)
    data = open_data(config, CascadeConfig(image_size=24, in_chans=1, num_classes=10, stages=stages))
    arguments = {"epoch": epoch, "rank": rank, "world_size": 2, "batch_size": 4, "seed": 3}
    whole = list(_train(data, **arguments))
    left = list(_train(data, seen_images=8 * first_batch, **arguments))
    assert len(left) == 8 - first_batch
    for expected, batch in zip(whole[first_batch:], left, strict=True):
        assert torch.equal(expected.images, batch.images)
        assert torch.equal(expected.labels, batch.labels)


@given(size=st.integers(1, 40), num_shards=st.integers(1, 5), batch_size=st.integers(1, 7))
def test_shards_hold_everything_once_in_order(size: int, num_shards: int, batch_size: int) -> None:
    shards = [
        list(
            chain.from_iterable(
                _indices(
                    eval_batches(
                        Numbers(size), shard=shard, num_shards=num_shards, batch_size=batch_size, num_workers=0
                    )
                )
            )
        )
        for shard in range(num_shards)
    ]
    assert list(chain.from_iterable(shards)) == list(range(size))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_folder(tmp_path_factory.mktemp("birds"), {"emu": 14, "owl": 14}, {"emu": 5, "owl": 6})
    (root / "train/emu/003.jpg").write_bytes(b"")
    return root


def test_reading_processes_change_neither_images_nor_the_global_generator(birds: Path) -> None:
    data = open_data(folder_config(birds), cascade(2))
    here = list(_train(data, batch_size=6, seed=5))
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    elsewhere = list(_train(data, batch_size=6, seed=5, num_workers=2))
    assert torch.equal(torch.rand(3), expected)
    assert len(here) == len(elsewhere) == 4
    for one, other in zip(here, elsewhere, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
        assert one.skipped == other.skipped
    assert set(chain.from_iterable(batch.skipped for batch in here)) == {Skipped(f"{birds}/train/emu/003.jpg", "empty")}


def test_memory_of_batches_is_used_again_and_only_when_they_are_gone(birds: Path) -> None:
    data = open_data(folder_config(birds), cascade(2))
    expected = [batch.images for batch in _train(data, batch_size=2)]
    assert len(expected) == 12
    held = [batch.images for batch in _train(data, batch_size=2, num_workers=1)]
    places = set()
    for number, batch in enumerate(_train(data, batch_size=2, num_workers=1)):
        assert torch.equal(batch.images, expected[number])
        places.add(batch.images.data_ptr())
    assert len(places) <= 4  # two on their way, one that comes and one in use
    assert all(torch.equal(one, other) for one, other in zip(held, expected, strict=True))


def test_an_error_in_a_reading_process_stays_one_sentence(birds: Path) -> None:
    test = open_data(folder_config(birds), cascade(2)).test
    assert isinstance(test, FileImages)
    assert isinstance(test.images, FolderFiles)
    file = test.images.files[8]
    Path(file).write_bytes(b"GIF89a")
    batches = eval_batches(test, shard=0, num_shards=1, batch_size=4, num_workers=1)
    with pytest.raises(DataError) as raised:
        list(batches)
    assert str(raised.value) == f"{file} cannot be read as an image (not an image); replace or remove it"


def test_resuming_after_the_last_batch_reads_nothing(birds: Path) -> None:
    data = open_data(folder_config(birds), cascade(2))
    assert list(_train(data, batch_size=6, seen_images=24, num_workers=2)) == []


@pytest.mark.parametrize(("readers", "ranks", "most"), [(5, 1, 4), (3, 2, 2), (1, 8, 0)])
def test_more_reading_processes_than_cores_are_warned_of(
    readers: int, ranks: int, most: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(4))
    warn_of_too_many_readers(readers, ranks)
    (message,) = caplog.messages
    assert message == (
        f"data.loader_workers should be at most {most} for {ranks} training workers on a node of 4 cores, "
        f"got {readers}; more processes than cores read more slowly"
    )


@pytest.mark.parametrize(("readers", "ranks"), [(4, 1), (2, 2), (1, 4), (0, 8)])
def test_as_many_as_cores_are_not(
    readers: int, ranks: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(4))
    warn_of_too_many_readers(readers, ranks)
    assert caplog.messages == []


@given(
    size=st.integers(1, 80),
    shares=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(0, 4)), min_size=1, max_size=4),
    seed=st.integers(0, 9),
)
@settings(max_examples=40, deadline=None)
def test_every_image_once_however_often_the_number_of_workers_changes(
    size: int, shares: list[tuple[int, int, int]], seed: int
) -> None:
    """Each try has a number of workers and a batch size, and is interrupted after some batches; the last is not."""
    shares = [share for share in shares if share[0] * share[1] <= size]
    seen: list[int] = []
    for number, (world_size, batch_size, batches) in enumerate(shares):
        arguments = {"world_size": world_size, "batch_size": batch_size, "seed": seed, "seen_images": len(seen)}
        ranks = [_indices(_train(_numbers(size), rank=rank, **arguments)) for rank in range(world_size)]
        taken = batches if number + 1 < len(shares) else None
        seen += [index for batches_at in zip(*ranks, strict=True) for batch in batches_at for index in batch][
            : None if taken is None else taken * world_size * batch_size
        ]
        if number + 1 == len(shares):  # what is left out does not fill a batch on each rank
            assert size - len(seen) < world_size * batch_size
    assert len(set(seen)) == len(seen)
    assert set(seen) <= set(range(size))


def test_two_workers_take_up_what_three_left_by_hand() -> None:
    data = _numbers(20)
    order = data.train_order.indices(20, seed=0, epoch=0).tolist()
    three = [next(_train(data, rank=rank, world_size=3)).labels.tolist() for rank in range(3)]
    assert three == [order[:2], order[2:4], order[4:6]]
    two = [_indices(_train(data, rank=rank, world_size=2, seen_images=6)) for rank in range(2)]
    assert (
        two
        == [  # fourteen are left: three global batches of four, and two images that fill none
            [order[6:8], order[10:12], order[14:16]],
            [order[8:10], order[12:14], order[16:18]],
        ]
    )
