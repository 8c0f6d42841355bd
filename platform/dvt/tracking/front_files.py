"""The files of a front: `front.json` to read back, `front.csv` for spreadsheets, `front.png` to look at.

Columns of the CSV, one row a measured point:

* `series`: `front` (thresholds of the curve), `budget` (thresholds chosen for one), `guarantee` (thresholds with a
  promise about their loss), `exit` (all images leave there) or `static` (a single-stage model, where one was trained);
* `measured_on`: `calibration` or `test` images;
* `exit_index`, `token_grid`, `budget_macs`: of the rows that have one;
* `macs`: mean multiply-adds an image; `accuracy`: from 0 to 1;
* `threshold_1` .. and `share_1` ..: of each exit, the confidence to leave there and the share of images that does.
"""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from dvt.exits import FrontPoint, FrontReport
from dvt.tracking.front_plot import DPI, draw_front

_COLUMNS = ("series", "measured_on", "exit_index", "token_grid", "budget_macs", "macs", "accuracy")


class FrontFiles(NamedTuple):
    """Where the files of one front are."""

    json: Path
    csv: Path
    picture: Path


def write_front_files(folder: str | Path, report: FrontReport) -> FrontFiles:
    """Write a report as data, table and picture.

    Args:
        folder: Where to write; made if it is not there. Files of an earlier front are replaced.
        report: What to write.

    Returns:
        The files' paths.

    Raises:
        OSError: If the folder cannot be written to.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = FrontFiles(json=folder / "front.json", csv=folder / "front.csv", picture=folder / "front.png")
    files.json.write_text(json.dumps(report.to_dict(), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    _write_csv(files.csv, report)
    draw_front(report).savefig(files.picture, dpi=DPI, format="png")
    return files


def read_front_report(path: str | Path) -> FrontReport:
    """Read a `front.json` back.

    Args:
        path: The file.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it does not hold a front report.
    """
    text = Path(path).read_text(encoding="utf-8")
    try:
        return FrontReport.from_dict(json.loads(text))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} must be JSON, got {error.msg} at line {error.lineno}") from error
    except ValueError as error:
        raise ValueError(f"{path} must hold a front report: {error}") from error


def _write_csv(path: Path, report: FrontReport) -> None:
    indices = [row.exit_index for row in report.exits]
    columns = [*_COLUMNS, *(f"threshold_{index}" for index in indices), *(f"share_{index}" for index in indices)]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(_rows(report))


def _rows(report: FrontReport) -> Iterator[dict[str, Any]]:
    for row in report.exits:
        place = {"exit_index": row.exit_index, "token_grid": row.token_grid}
        yield {"series": "exit", "measured_on": "test", **place, "macs": row.macs, "accuracy": row.test_top1}
    for budget in report.budgets:
        for measured_on, point in (("calibration", budget.calibration), ("test", budget.test)):
            yield {"series": "budget", "measured_on": measured_on, "budget_macs": budget.budget_macs, **_cells(point)}
    for measured_on, points in (("calibration", report.calibration_front.points), ("test", report.test_points)):
        for point in points:
            yield {"series": "front", "measured_on": measured_on, **_cells(point)}
    if report.guarantee is not None:
        yield {"series": "guarantee", "measured_on": "test", **_cells(report.guarantee.test)}
    static = report.static_reference
    if static is not None:
        place = {"token_grid": static.token_grid}
        yield {"series": "static", "measured_on": "test", **place, "macs": static.macs, "accuracy": static.test_top1}


def _cells(point: FrontPoint) -> dict[str, float]:
    cells = {"macs": point.macs, "accuracy": point.accuracy}
    cells |= {f"threshold_{index}": threshold for index, threshold in enumerate(point.thresholds, start=1)}
    return cells | {f"share_{index}": share for index, share in enumerate(point.exit_shares, start=1)}
