"""`dvt runs best`, typed as a person types it, over a real SQLite store."""

import csv
import io
import json
from pathlib import Path

import pytest

from dvt.cli.main import main
from dvt.tracking import check_tracking
from tests.unit.tracking.test_run_fronts import report, run_of


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("store")
    uri = f"sqlite:///{folder}/mlflow.db"
    check_tracking(uri)
    run_of(uri, folder, "early", report(0.70, 0.75, 0.80))
    run_of(uri, folder, "late", report(0.50, 0.60, 0.90))
    return uri


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_a_table_with_the_best_first(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "best", "--budget-macs", "200", "--tracking-uri", uri]) == 0
    out = capsys.readouterr().out
    assert "within 200 mean multiply-adds an image, on test images" in out
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in out.splitlines() if line.startswith("│")]
    assert [row[0] for row in rows] == ["early", "late"]
    assert rows[0][3:] == ["75.00 %", "200", "2 4", "50.0 / 50.0 %", "0.5"]
    assert f" --tracking-uri {uri}" in out.splitlines()[-1]
    assert out.splitlines()[-1].startswith("see the first  ")


def test_rows_for_other_programs(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["runs", "best", "--budget-macs", "1k", "--tracking-uri", uri, "--top", "1", "--format"]
    assert main([*words, "json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["name"], row["top1"], row["thresholds"]) == ("late", 0.9, ["inf", "-inf"])
    assert main([*words, "csv"]) == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (row["name"], row["token_grids"], row["exit_shares"]) == ("late", "2 4", "0.0 1.0")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--budget-macs", "2Q"], "--budget-macs must be multiply-adds above 0 such as 1.2G, 300M or 12e6, got '2Q'"),
        (["--budget-macs", "1G", "--top", "0"], "--top must be at least 1, got 0"),
        (
            ["--budget-macs", "50"],
            "--budget-macs must be at least 100, the cost of the cheapest run's first exit, got 50",
        ),
        (
            ["--budget-macs", "1G", "--experiment", "x"],
            "--experiment must be an experiment of MLflow, got 'x'; choose from Default, dvt",
        ),
    ],
)
def test_what_was_typed_wrong(uri: str, words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "best", "--tracking-uri", uri, *words]) == 2
    assert capsys.readouterr().err == f"dvt: {told}\n"
