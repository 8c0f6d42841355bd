"""`dvt page` refuses what it cannot open, in one sentence."""

from pathlib import Path

import pytest

from dvt.cli.failure import FAILED, TYPED_WRONG
from dvt.cli.main import main


def test_a_wrong_address_is_told_as_the_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["page", "abc", "--tracking-uri", "ftp://somewhere"]) == TYPED_WRONG
    assert capsys.readouterr().err.startswith("dvt: --tracking-uri must ")


def test_a_missing_database_is_not_created(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert main(["page", "abc"]) == FAILED
    told = capsys.readouterr().err
    assert "mlflow.db" in told
    assert told.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
