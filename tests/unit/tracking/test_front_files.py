"""The files of a front: JSON and CSV read back to the same numbers, a picture of the stated size."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest

from dvt.exits import FrontReport, StaticReference, guaranteed_thresholds, make_report
from dvt.exits.bootstrap import Band, FrontBands, bootstrap_report
from dvt.tracking.front_files import FrontFiles, read_front_report, write_front_files
from tests.unit.exits.examples import cascade_scores, costs

STATIC = StaticReference(token_grid=10, macs=4.5e6, test_top1=0.9)


def report(num_exits: int = 3, static: StaticReference | None = None) -> FrontReport:
    calibration, test = (cascade_scores(num_exits, 200, seed=seed) for seed in (0, 1))
    return make_report("embedded", range(4, 4 + num_exits), costs(num_exits), calibration, test, (1e6, 2.5e6), static)


def paths(files: FrontFiles) -> list[Path]:
    return [path for path in files if path is not None]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_files_are_written_into_a_new_folder(tmp_path: Path) -> None:
    files = paths(write_front_files(tmp_path / "a" / "b", report()))
    assert [path.name for path in files] == ["front.json", "front.csv", "front.png", "shares.png", "front.html"]
    assert sorted((tmp_path / "a" / "b").iterdir()) == sorted(files)


def test_a_measured_time_has_a_picture_of_its_own(tmp_path: Path) -> None:
    files = write_front_files(tmp_path, report(), seconds_per_exit=(0.001, 0.002, 0.004))
    assert files.time_picture == tmp_path / "front_time.png"
    assert sorted(tmp_path.iterdir()) == sorted(paths(files))


@pytest.mark.parametrize("static", [None, STATIC])
def test_json_reads_back_to_the_same_report(tmp_path: Path, static: StaticReference | None) -> None:
    made = report(static=static)
    assert read_front_report(write_front_files(tmp_path, made).json) == made


def test_json_is_json_by_the_standard(tmp_path: Path) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    data = json.loads(write_front_files(tmp_path, report()).json.read_text(), parse_constant=refuse)
    assert data["budgets"][0]["test"]["thresholds"][-1] == "-inf"


def test_csv_holds_every_point_exactly(tmp_path: Path) -> None:
    made = report(static=STATIC)
    table = rows(write_front_files(tmp_path, made).csv)
    front = [row for row in table if (row["series"], row["measured_on"]) == ("front", "test")]
    assert len(front) == len(made.test_points)
    for row, point in zip(front, made.test_points, strict=True):
        assert (float(row["macs"]), float(row["accuracy"])) == (point.macs, point.accuracy)
        assert tuple(float(row[f"threshold_{index}"]) for index in (1, 2, 3)) == point.thresholds
        assert tuple(float(row[f"share_{index}"]) for index in (1, 2, 3)) == point.exit_shares
    budgets = [row for row in table if row["series"] == "budget"]
    assert [(row["measured_on"], float(row["budget_macs"])) for row in budgets] == [
        ("calibration", 1e6),
        ("test", 1e6),
        ("calibration", 2.5e6),
        ("test", 2.5e6),
    ]
    exits = [row for row in table if row["series"] == "exit"]
    assert [(row["exit_index"], row["token_grid"]) for row in exits] == [("1", "4"), ("2", "5"), ("3", "6")]
    assert [float(row["accuracy"]) for row in exits] == [row.test_top1 for row in made.exits]
    (static,) = [row for row in table if row["series"] == "static"]
    assert (static["token_grid"], float(static["macs"]), float(static["accuracy"])) == ("10", 4.5e6, 0.9)


def test_csv_holds_the_guaranteed_point(tmp_path: Path) -> None:
    calibration, test = (cascade_scores(3, 2000, seed=seed) for seed in (0, 1))
    promise = guaranteed_thresholds(calibration, costs(3), 0.02)
    made = make_report("a", (4, 5, 6), costs(3), calibration, test, (), None, promise)
    (row,) = [row for row in rows(write_front_files(tmp_path, made).csv) if row["series"] == "guarantee"]
    assert made.guarantee is not None
    assert (row["measured_on"], float(row["accuracy"])) == ("test", made.guarantee.test.accuracy)


def test_bands_and_seconds_stand_beside_their_points(tmp_path: Path) -> None:
    made, seconds = report(), (0.001, 0.002, 0.004)
    bands = bootstrap_report(made, cascade_scores(3, 200, seed=1), num_resamples=1000)
    files = write_front_files(tmp_path, made, bands, seconds)
    data = json.loads(files.json.read_text())
    assert FrontBands.from_dict(data["bands"]) == bands
    assert data["seconds_per_exit"] == list(seconds)
    assert read_front_report(files.json) == made
    table = rows(files.csv)
    on_test = [row for row in table if row["measured_on"] == "test"]
    told = [Band(**{name: float(row[name]) for name in vars(bands.exits[0])}) for row in on_test]
    assert told == [*bands.exits, *bands.budgets, *bands.test_points]
    assert all(row["accuracy_low"] == "" for row in table if row["measured_on"] == "calibration")
    assert [float(row["seconds"]) for row in on_test[:3]] == list(seconds)
    for row, point in zip(on_test[5:], made.test_points, strict=True):
        assert float(row["seconds"]) == pytest.approx(float(np.dot(point.exit_shares, seconds)))


def test_without_a_trained_reference_none_is_told(tmp_path: Path) -> None:
    files = write_front_files(tmp_path, report())
    assert "static" not in files.csv.read_text()
    assert json.loads(files.json.read_text())["static_reference"] is None


@pytest.mark.parametrize("num_exits", [1, 2, 3, 5, 6])
def test_the_picture_is_a_png_of_1600_by_1080_pixels(tmp_path: Path, num_exits: int) -> None:
    data = write_front_files(tmp_path, report(num_exits)).picture.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert (int.from_bytes(data[16:20]), int.from_bytes(data[20:24])) == (1600, 1080)


def test_the_same_report_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (write_front_files(tmp_path / name, report()) for name in ("a", "b"))
    assert [path.read_bytes() for path in paths(first)] == [path.read_bytes() for path in paths(second)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "must be JSON, got Expecting property name enclosed in double quotes at line 1"),
        ("{}", "must hold a front report: a front report must hold static_reference, got none"),
        ("[1]", "must hold a front report: a front report must hold the fields of FrontReport, got others "),
    ],
)
def test_files_that_hold_no_report(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "front.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path} {message}')}"):
        read_front_report(path)
