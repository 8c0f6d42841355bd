"""`dvt ui` refuses what it cannot show, in one sentence, before there is a page."""

from pathlib import Path

import pytest

from dvt.cli.failure import FAILED, TYPED_WRONG
from dvt.cli.main import main
from dvt.tracking import check_tracking


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nowhere"], "dvt: RUN must be a run's id or folder, got 'nowhere', which is neither\n"),
        (["x", "--experiment", "y"], "dvt: --experiment must not stand beside RUN; give one of them\n"),
    ],
)
def test_a_word_that_names_nothing(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ui", *words]) == TYPED_WRONG
    assert capsys.readouterr().err == told


def test_a_store_without_fronts(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri = f"sqlite:///{here / 'mlflow.db'}"
    check_tracking(uri)
    assert main(["ui", "--tracking-uri", uri]) == FAILED
    told = "dvt: MLflow must hold a run with a front, got none; dvt train and dvt front RUN keep one\n"
    assert capsys.readouterr().err == told
    assert main(["ui", "--tracking-uri", uri, "--experiment", "x"]) == TYPED_WRONG
    told = "dvt: --experiment must be an experiment of MLflow, got 'x'; choose from Default\n"
    assert capsys.readouterr().err == told
