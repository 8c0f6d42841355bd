"""`jobs/predict.py`: what it refuses before anything is loaded, and what it shows."""

import io
from pathlib import Path

import pyarrow as pa
import pytest
from rich.console import Console

from dvt.cli.failure import FAILED, TYPED_WRONG, exit_code_of
from dvt.cli.predict_job import main
from dvt.cli.predict_job_progress import PartProgress
from dvt.serving.batch_output import Counts
from dvt.serving.batch_work import Piece, Work

WORK = Work("folder", tuple(Piece(number, (f"{number}.png",), num_images=1) for number in range(3)), pa.schema([]))


def told(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, list[str]]:
    code = exit_code_of(main, ["--model", "models:/m@champion", "--input", "in", "--output", "out", *words])
    return code, capsys.readouterr().err.splitlines()


def test_what_is_typed_wrong_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--budget-macs", "much", "--thresholds", "0.5", "--batch-size", "0", "--part-size", "0"]
    assert told(capsys, *words, "--num-workers", "0", "--cpus-per-worker", "0") == (
        TYPED_WRONG,
        [
            "dvt: --thresholds must come without --budget-macs, got both; leave one out",
            "dvt: --budget-macs must be multiply-adds above 0 such as 1.2G, 300M or 12e6, got 'much'",
            "dvt: --batch-size must be from 1 to 4096, got 0",
            "dvt: --part-size must be at least 1, got 0",
            "dvt: --num-workers must be at least 1, got 0",
            "dvt: --cpus-per-worker must be greater than 0, got 0",
        ],
    )
    assert not (tmp_path / "out").exists()


def test_a_model_that_is_none_is_told_before_ray_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, lines = told(capsys, "--model", "some/folder")
    assert code == TYPED_WRONG
    assert lines == [
        "dvt: --model must be models:/NAME@ALIAS, models:/NAME/VERSION or a checkpoint folder, got 'some/folder'"
    ]
    code, lines = told(capsys, "--tracking-uri", "sqlite:///none.db")
    assert code == FAILED
    file = f"sqlite:///{tmp_path}/none.db"
    assert lines == [f"dvt: --tracking-uri must name MLflow's SQLite file, got {file}, where there is none"]


def test_a_log_gets_few_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("dvt.cli.predict_job_progress.time.monotonic", lambda: now[0])
    console = Console(file=io.StringIO(), width=20)
    with PartProgress.shown(console, WORK, [Counts((1, 0), 0)]) as progress:
        assert progress.rate is None
        now[0] = 4.0
        progress.tell(Counts((3, 0), 1))
        now[0] = 8.0
        progress.tell(Counts((3000, 0), 0))
        assert progress.rate == pytest.approx(3004 / 8)
    assert console.file.getvalue().splitlines() == [  # type: ignore[attr-defined]
        "predict: 3 parts from image files, 1 there already",
        "predict: part 3/3 · 3,004 images · 376 images/s",
    ]


def test_a_terminal_gets_a_bar() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    with PartProgress.shown(console, WORK, []) as progress:
        progress.tell(Counts((3, 0), 1))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "1/3" in shown
    assert "part 1/3" not in shown
