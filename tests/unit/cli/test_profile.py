"""`dvt profile`: what it measures, keeps and tells, and what it says to something else."""

from pathlib import Path

import pytest

from dvt.cli.main import main
from dvt.inference import read_profiles
from dvt.train.checkpoint import load_checkpoint, save_checkpoint
from dvt.train.state import TrainingState
from tests.unit.train.tiny import CPU, RECIPE


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    save_checkpoint(folder, TrainingState.create(RECIPE, steps_per_epoch=1, device=CPU), RECIPE)
    return folder


def test_a_profile_is_told_and_kept(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["profile", str(checkpoint), "--batch-sizes", "1", "4", "--repeats", "1", "--device", "cpu"]
    assert main(command) == 0
    (profile,) = read_profiles(checkpoint)
    assert profile.batch_sizes == (1, 4)
    text = capsys.readouterr().out
    assert "2x2" in text
    assert "4x4" in text
    for seconds in (*profile.seconds_per_exit(1), *profile.seconds_per_exit(4)):
        assert f"{1000 * seconds:.3g}" in text
    assert str(checkpoint / "latency.json") in text.replace("\n", "")
    assert load_checkpoint(checkpoint).step == 0  # the checkpoint is as whole as before


def test_every_mistake_is_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", str(tmp_path), "--batch-sizes", "0", "--repeats", "0", "--device", "abacus"]) == 2
    problems = capsys.readouterr().err.splitlines()
    assert problems[:2] == [
        "dvt: --batch-sizes must be at least 1, got 0",
        "dvt: --repeats must be at least 1, got 0",
    ]
    assert problems[2].startswith("dvt: --device must be a device of this machine, cpu")
    assert problems[2].endswith("got abacus")
