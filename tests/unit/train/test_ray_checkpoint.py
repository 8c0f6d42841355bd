"""A checkpoint of a bucket is copied for each process by itself, whatever became of another's copy."""

import shutil
from pathlib import Path

import fsspec
import pytest
from pyarrow.fs import FSSpecHandler, PyFileSystem
from ray.train import Checkpoint

from dvt.train.ray_checkpoint import local_copy


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkpoint:
    """One object, as Ray Train hands it to all workers of a node."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe("/bucket/checkpoint/weights", b"whole")
    return Checkpoint("/bucket/checkpoint", PyFileSystem(FSSpecHandler(filesystem)))


def test_half_of_a_copy_that_another_left_is_not_taken_for_one(shared: Checkpoint, tmp_path: Path) -> None:
    with shared.as_directory() as theirs:  # as Ray Train would copy it
        Path(theirs, "weights").write_bytes(b"ha")
        with local_copy(shared) as mine:
            assert (mine / "weights").read_bytes() == b"whole"
    assert list(tmp_path.glob("dvt-scratch-*")) == []


def test_a_copy_stays_as_it_is_when_another_is_made_and_removed(shared: Checkpoint) -> None:
    with local_copy(shared) as mine:
        with local_copy(shared) as theirs:
            assert theirs != mine
            shutil.rmtree(theirs)
        assert (mine / "weights").read_bytes() == b"whole"


def test_a_folder_of_this_machine_is_read_where_it_is(tmp_path: Path) -> None:
    with local_copy(Checkpoint.from_directory(tmp_path)) as place:
        assert place == tmp_path
