"""The last checkpoint of a training in one process: whole or not there, also where the disk is full."""

import errno
import shutil
from pathlib import Path

import pytest
from fsspec.implementations.local import LocalFileSystem

from dvt.train.errors import CheckpointError
from dvt.train.folder_reporter import FolderReporter, last_checkpoint
from dvt.train.storage import RunFolder


def make_reporter(tmp_path: Path) -> tuple[FolderReporter, RunFolder]:
    folder = RunFolder(LocalFileSystem(auto_mkdir=True), str(tmp_path / "run"), "run")
    return FolderReporter(folder), folder


def make_checkpoint(tmp_path: Path, text: str) -> Path:
    place = tmp_path / f"made_{text}"
    place.mkdir()
    (place / "a").write_text(text)
    return place


def test_the_last_one_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    reporter, folder = make_reporter(tmp_path)
    for step in (1, 2):
        reporter.report({}, step, make_checkpoint(tmp_path, str(step)))
    assert last_checkpoint(folder) == "000000002"
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["000000002"]
    with reporter.latest() as place:
        assert place is not None
        assert (place / "a").read_text() == "2"


def test_on_a_full_disk_the_one_before_stays_and_takes_no_more_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reporter, folder = make_reporter(tmp_path)
    reporter.report({}, 1, make_checkpoint(tmp_path, "1"))

    def full(source: Path, place: Path) -> None:
        place.mkdir()
        (place / "a").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device", str(place / "b"))

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copytree", full)
        with pytest.raises(CheckpointError) as raised:
            reporter.report({}, 2, make_checkpoint(tmp_path, "2"))
    assert str(raised.value) == (
        f"the run's storage must take its checkpoints, got: [Errno 28] No space left on device: '{tmp_path}/run/"
        f"checkpoints/000000002.partial/b'; free space or mend it, and run the same command again to go on from the "
        f"last checkpoint"
    )
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["000000001"]
    assert last_checkpoint(folder) == "000000001"
    reporter.report({}, 2, make_checkpoint(tmp_path, "again"))
    assert last_checkpoint(folder) == "000000002"


def test_what_is_to_be_looked_at_lies_beside_the_checkpoints(tmp_path: Path) -> None:
    reporter, folder = make_reporter(tmp_path)
    Path(folder.path).mkdir()
    address = reporter.keep(make_checkpoint(tmp_path, "x"))
    assert address == f"{tmp_path}/run/made_x"
    assert (tmp_path / "run" / "made_x" / "a").read_text() == "x"
