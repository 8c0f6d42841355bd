"""The files of a front: `front.json` to read back, `front.csv` for spreadsheets, pictures and a page to look at.

`front.png` is accuracy over multiply-adds, `front_time.png` over measured time where there is one, `shares.png` who
leaves where, `front.html` all of these to move over in a browser.

Columns of the CSV, one row a measured point:

* `series`: `front` (thresholds of the curve), `budget` (thresholds chosen for one), `guarantee` (thresholds with a
  promise about their loss), `exit` (all images leave there) or `static` (a single-stage model, where one was trained);
* `measured_on`: `calibration` or `test` images;
* `exit_index`, `token_grid`, `budget_macs`: of the rows that have one;
* `macs`: mean multiply-adds an image; `accuracy`: from 0 to 1;
* `accuracy_low` .. `macs_high`: ends of the bootstrap band of points on the test images, where there are any;
* `seconds`: mean measured seconds an image, where they were measured;
* `threshold_1` .. and `share_1` ..: of each exit, the confidence to leave there and the share of images that does.
"""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from dvt.exits import FrontPoint, FrontReport
from dvt.exits.bootstrap import Band, FrontBands
from dvt.tracking.front_page import front_page
from dvt.tracking.front_plot import draw_front, draw_front_over_seconds
from dvt.tracking.picture_style import DPI
from dvt.tracking.shares_plot import draw_shares

_COLUMNS = ("series", "measured_on", "exit_index", "token_grid", "budget_macs", "macs", "accuracy")
_BANDS = ("accuracy_low", "accuracy_high", "macs_low", "macs_high")


class FrontFiles(NamedTuple):
    """Where the files of one front are."""

    json: Path
    csv: Path
    picture: Path
    shares: Path
    page: Path
    time_picture: Path | None = None  # None where no time was measured


def write_front_files(
    folder: str | Path,
    report: FrontReport,
    bands: FrontBands | None = None,
    seconds_per_exit: Sequence[float] | None = None,
) -> FrontFiles:
    """Write a report as data, table, pictures and page.

    Args:
        folder: Where to write; made if it is not there. Files of an earlier front are replaced.
        report: What to write.
        bands: How sure its points on the test images are.
        seconds_per_exit: (E,), measured cumulative seconds of an image that leaves at each exit, rising.

    Returns:
        The files' paths.

    Raises:
        OSError: If the folder cannot be written to.
        ValueError: If the seconds are not as stated.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = FrontFiles(
        json=folder / "front.json",
        csv=folder / "front.csv",
        picture=folder / "front.png",
        shares=folder / "shares.png",
        page=folder / "front.html",
        time_picture=None if seconds_per_exit is None else folder / "front_time.png",
    )
    data = report.to_dict() | {
        "bands": None if bands is None else bands.to_dict(),
        "seconds_per_exit": None if seconds_per_exit is None else list(seconds_per_exit),
    }
    files.json.write_text(json.dumps(data, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    files.page.write_text(front_page(report, bands, seconds_per_exit), encoding="utf-8")
    measured = _Measured(report, bands, seconds_per_exit)
    _write_csv(files.csv, measured)
    _write_pictures(files, measured)
    return files


def save_picture(figure: Figure, path: Path) -> None:
    """Write a picture as PNG."""
    figure.savefig(path, dpi=DPI, format="png")


def read_front_report(path: str | Path) -> FrontReport:
    """Read a `front.json` back.

    Args:
        path: The file.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it does not hold a front report.
    """
    return front_report_of(Path(path).read_text(encoding="utf-8"), str(path))


def front_report_of(text: str, path: str) -> FrontReport:
    """The report that the text of a `front.json` holds.

    Args:
        text: The text.
        path: Where it is from, for messages.

    Raises:
        ValueError: If it does not hold a front report.
    """
    try:
        return FrontReport.from_dict(json.loads(text))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} must be JSON, got {error.msg} at line {error.lineno}") from error
    except ValueError as error:
        raise ValueError(f"{path} must hold a front report: {error}") from error


class _Measured(NamedTuple):
    """All that the table tells."""

    report: FrontReport
    bands: FrontBands | None
    seconds_per_exit: Sequence[float] | None


def _write_pictures(files: FrontFiles, measured: _Measured) -> None:
    report, bands, seconds = measured
    save_picture(draw_front(report, bands), files.picture)
    save_picture(draw_shares(report), files.shares)
    if files.time_picture is not None and seconds is not None:
        save_picture(draw_front_over_seconds(report, seconds, bands), files.time_picture)


def _write_csv(path: Path, measured: _Measured) -> None:
    indices = [row.exit_index for row in measured.report.exits]
    columns = [*_COLUMNS, *(f"threshold_{index}" for index in indices), *(f"share_{index}" for index in indices)]
    columns += [] if measured.bands is None else _BANDS
    columns += [] if measured.seconds_per_exit is None else ["seconds"]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(_rows(measured))


def _rows(measured: _Measured) -> Iterator[dict[str, Any]]:
    report, bands, seconds = measured
    for index, row in enumerate(report.exits):
        place: dict[str, Any] = {"exit_index": row.exit_index, "token_grid": row.token_grid, "macs": row.macs}
        known: dict[str, float] = _band_cells(None if bands is None else bands.exits[index])
        known |= {} if seconds is None else {"seconds": seconds[index]}
        yield {"series": "exit", "measured_on": "test", **place, "accuracy": row.test_top1, **known}
    for index, budget in enumerate(report.budgets):
        band = None if bands is None else bands.budgets[index]
        for measured_on, point, its in (("calibration", budget.calibration, None), ("test", budget.test, band)):
            chosen = {"measured_on": measured_on, "budget_macs": budget.budget_macs}
            yield {"series": "budget", **chosen, **_cells(point, seconds), **_band_cells(its)}
    for point in report.calibration_front.points:
        yield {"series": "front", "measured_on": "calibration", **_cells(point, seconds)}
    for index, point in enumerate(report.test_points):
        band = None if bands is None else bands.test_points[index]
        yield {"series": "front", "measured_on": "test", **_cells(point, seconds), **_band_cells(band)}
    if report.guarantee is not None:
        yield {"series": "guarantee", "measured_on": "test", **_cells(report.guarantee.test, seconds)}
    static = report.static_reference
    if static is not None:
        place = {"token_grid": static.token_grid}
        yield {"series": "static", "measured_on": "test", **place, "macs": static.macs, "accuracy": static.test_top1}


def _cells(point: FrontPoint, seconds_per_exit: Sequence[float] | None) -> dict[str, float]:
    cells = {"macs": point.macs, "accuracy": point.accuracy}
    cells |= {f"threshold_{index}": threshold for index, threshold in enumerate(point.thresholds, start=1)}
    cells |= {f"share_{index}": share for index, share in enumerate(point.exit_shares, start=1)}
    if seconds_per_exit is not None:
        cells["seconds"] = sum(
            share * seconds for share, seconds in zip(point.exit_shares, seconds_per_exit, strict=True)
        )
    return cells


def _band_cells(band: Band | None) -> dict[str, float]:
    return {} if band is None else {name: getattr(band, name) for name in _BANDS}
