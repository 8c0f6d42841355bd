"""An epoch goes on with another number of real processes, and each of its images is read once."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import dvt
from tests.resume.elastic_workers import FIRST, NUM_IMAGES, TRIES
from tests.resume.test_resume import ROOT

BATCH = 4  # images of one worker a step


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("elastic")
    environment = {**os.environ, "PYTHONPATH": str(Path(dvt.__file__).parent.parent)}
    command = [sys.executable, "-m", "tests.resume.elastic_workers", str(folder)]
    ended = subprocess.run(command, cwd=ROOT, env=environment, timeout=300, check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return folder


def read_by(folder: Path, world_size: int) -> list[list[int]]:
    """The images that each worker has read, in its order."""
    notes = [(folder / f"read_{rank}.txt").read_text().split() for rank in range(world_size)]
    return [list(map(int, each)) for each in notes]


@pytest.mark.parametrize(("order", "world_size"), TRIES)
def test_each_image_of_the_epoch_is_read_once(folder: Path, order: str, world_size: int) -> None:
    killed, ended = [-signal.SIGKILL] * FIRST, [0] * world_size
    assert (folder / f"{order}.txt").read_text() == repr([list(map(int, killed)), ended])
    before, after = read_by(folder / f"{order}_first", FIRST), read_by(folder / f"{order}_second", world_size)
    assert list(map(len, before)) == [3 * BATCH] * FIRST  # three steps
    assert list(map(len, after)) == [(NUM_IMAGES - 3 * BATCH * FIRST) // world_size] * world_size
    assert sorted(index for each in before + after for index in each) == list(range(NUM_IMAGES))
