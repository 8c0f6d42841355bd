import errno
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dvt.train.scratch import scratch_folder

HOLDS = """
import sys
from dvt.train.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "half").write_bytes(b"written")
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


@contextmanager
def another_process() -> Iterator[tuple["subprocess.Popen[str]", Path]]:
    """One that is within the context, and its folder."""
    command = [sys.executable, "-c", HOLDS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, Path(process.stdout.readline().strip())
        finally:
            process.kill()


def test_it_goes_with_the_context(temporary: Path) -> None:
    with scratch_folder() as one, scratch_folder() as other:
        (one / "file").touch()
        assert sorted(temporary.iterdir()) == sorted([one, other])
    assert not list(temporary.iterdir())


def test_one_removed_meanwhile_is_no_error(temporary: Path) -> None:
    with scratch_folder() as folder:
        folder.rmdir()
    assert not list(temporary.iterdir())


def test_what_a_killed_process_left_goes_with_the_next(temporary: Path) -> None:
    with another_process() as (process, left):
        os.kill(process.pid, signal.SIGKILL)
        process.wait(30)
        assert (left / "half").read_bytes() == b"written"
        with scratch_folder() as folder:
            assert list(temporary.iterdir()) == [folder]


def test_that_of_a_living_process_stays() -> None:
    with another_process() as (_, theirs):
        with scratch_folder() as folder:
            assert folder != theirs
        assert (theirs / "half").read_bytes() == b"written"


def test_what_a_link_leads_to_stays(temporary: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    kept = tmp_path_factory.mktemp("kept") / "file"
    kept.touch()
    (temporary / "dvt-scratch-link").symlink_to(kept.parent)
    with scratch_folder():
        pass
    assert kept.exists()


def test_where_nothing_can_be_locked_nothing_is_taken_for_abandoned(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(handle: int, flags: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with scratch_folder() as one, scratch_folder() as other:
        assert sorted(temporary.iterdir()) == sorted([one, other])
    assert not list(temporary.iterdir())


def test_another_s_removal_between_making_and_locking(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, made = tempfile.mkdtemp, list[str]()

    def make_and_lose(prefix: str) -> str:
        made.append(make(prefix=prefix))
        if len(made) == 1:
            Path(made[0]).rmdir()
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", make_and_lose)
    with scratch_folder() as folder:
        assert list(temporary.iterdir()) == [folder]
    assert len(made) == 2
