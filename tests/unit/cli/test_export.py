"""`dvt export`: what it writes and tells, and what it says to something else; its files are tested beside the code."""

import importlib.util
from pathlib import Path

import pytest

from dvt.cli.main import main
from dvt.train.checkpoint import save_checkpoint
from dvt.train.state import TrainingState
from tests.unit.train.tiny import CPU, RECIPE


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    save_checkpoint(folder, TrainingState.create(RECIPE, steps_per_epoch=1, device=CPU), RECIPE)
    return folder


def test_a_checkpoint_is_written_and_told(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "deep" / "exported"
    assert main(["export", str(checkpoint), "--output", str(output)]) == 0
    names = {path.name for path in output.iterdir()}
    stages = {f"stage_{number}.{kind}" for number in (1, 2) for kind in ("pt2", "onnx")}
    assert names == {"cascade.json", "leave_early.py"} | stages
    assert [path.name for path in output.parent.iterdir()] == ["exported"]  # nothing half-made is left
    text = capsys.readouterr().out
    assert all(name in text for name in stages)
    assert "The model holds no thresholds: a budget lets all images leave at the last exit that it pays for." in text
    assert f"reader   python {output / 'leave_early.py'} IMAGE..." in text


def test_a_folder_that_holds_something_is_left_alone(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    for output in (tmp_path / "full", tmp_path / "full" / "thesis.txt"):
        assert main(["export", str(checkpoint), "--output", str(output)]) == 2
        told = f"dvt: --output must be a new or an empty folder, got {output}; name another\n"
        assert capsys.readouterr().err == told


def test_a_missing_package_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else found(name))
    assert main(["export", "models:/a@b", "--output", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == (
        "dvt: dvt export must find onnx, onnxscript, onnxruntime, got no onnxscript; "
        "pip install 'dvt-platform[export]'\n"
    )


def test_what_is_no_model_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "resnet50", "--output", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == (
        "dvt: MODEL must be models:/NAME@ALIAS, models:/NAME/VERSION or a checkpoint folder, got 'resnet50'\n"
    )
    assert list(tmp_path.iterdir()) == []
