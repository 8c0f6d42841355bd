"""The front as a page for a browser: one file with everything in it, which asks no network for anything.

The page's own script draws it from data that lie in it; `front_page.html` is the page without its data.
"""

import html
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dvt.exits import FrontReport
from dvt.exits.bootstrap import FrontBands
from dvt.tracking.front_places import FrontPlaces, places_over_macs, places_over_seconds
from dvt.tracking.picture_style import exit_colours

TEMPLATE = Path(__file__).with_name("front_page.html")
MOST_POINTS = 1000  # more than a screen has room for; the file stays below a megabyte
_DIGITS = 7  # of a number in the page


def front_page(
    report: FrontReport, bands: FrontBands | None = None, seconds_per_exit: Sequence[float] | None = None
) -> str:
    """The page of a report, as HTML.

    Args:
        report: The exits, budgets, curves and, where one was trained, the static reference.
        bands: How sure the points on the test images are.
        seconds_per_exit: (E,), cumulative seconds of an image that leaves at each exit; None shows multiply-adds alone.

    Raises:
        ValueError: If the seconds are not as `places_over_seconds` wants them.
    """
    axes = [("multiply-adds", places_over_macs(report, bands))]
    if seconds_per_exit is not None:
        axes.append(("time", places_over_seconds(report, seconds_per_exit, bands)))
    units = [report.exits[-1].macs / axes[0][1].exits[-1][0]]
    units += [] if seconds_per_exit is None else [seconds_per_exit[-1] / axes[1][1].exits[-1][0]]
    costs = [[row.macs for row in report.exits], *([] if seconds_per_exit is None else [list(seconds_per_exit)])]
    exits = zip(axes[0][1].exit_names, exit_colours(len(report.exits)), strict=True)
    data = {
        "level": 0.0 if bands is None else bands.level,
        "lastExit": report.exits[-1].macs / units[0],
        "exits": [{"name": name, "colour": colour} for name, colour in exits],
        "axes": [_axis(name, places) for name, places in axes],
        "points": _points(report, bands, [np.array(each) / unit for each, unit in zip(costs, units, strict=True)]),
        "table": _table(report, bands, axes[0][1].unit, units[0]),
    }
    told = json.dumps(_rounded(data), allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    title = html.escape(f"{report.recipe}: accuracy over cost")
    return TEMPLATE.read_text(encoding="utf-8").replace("__TITLE__", title).replace("__DATA__", told, 1)


def _axis(name: str, places: FrontPlaces) -> dict[str, Any]:
    kept = _kept(len(places.test))
    return {
        "name": name,
        "label": places.cost_label,
        "unit": places.unit,
        "isLog": places.is_log,
        "exits": places.exits,
        "test": [places.test[index] for index in kept],
        "band": [(band.cost, band.low, band.high) for band in (places.test_band[index] for index in kept)]
        if places.test_band
        else [],
        "calibration": [places.calibration[index] for index in kept],
        "budgets": places.budgets,
        "limits": places.limits,
        "static": places.static,
        "staticName": places.static_name,
    }


def _points(report: FrontReport, bands: FrontBands | None, costs: Sequence[Any]) -> list[dict[str, Any]]:
    """The curve's points with all that is told of each; `costs` are those of the exits, one array an axis."""
    made = []
    for index in _kept(len(report.test_points)):
        point, chosen = report.test_points[index], report.calibration_front.points[index]
        band = None if bands is None else bands.test_points[index]
        made.append(
            {
                "budget": chosen.macs * float(costs[0][-1]) / report.exits[-1].macs,
                "costs": [float(np.dot(point.exit_shares, each)) for each in costs],
                "accuracy": point.accuracy,
                "low": None if band is None else band.accuracy_low,
                "high": None if band is None else band.accuracy_high,
                "shares": point.exit_shares,
                "thresholds": [_told_threshold(value) for value in point.thresholds],
            }
        )
    return made


def _table(report: FrontReport, bands: FrontBands | None, prefix: str, unit: float) -> list[list[str]]:
    """Rows of cells: what each exit and each budget spends and reaches."""
    rows = [
        ["", f"mean multiply-adds [{prefix}]", "top-1", "95 % band" if bands else "", "images that leave at the exits"]
    ]
    if bands is not None:
        rows[0][3] = f"{100 * bands.level:g} % band"
    for index, row in enumerate(report.exits):
        band = None if bands is None else bands.exits[index]
        name = f"exit {row.exit_index} · {row.token_grid}x{row.token_grid}"
        rows.append([name, f"{row.macs / unit:.3g}", f"{100 * row.test_top1:.2f} %", _told_band(band), "all"])
    for index, budget in enumerate(report.budgets):
        band = None if bands is None else bands.budgets[index]
        shares = " / ".join(f"{100 * share:.1f}" for share in budget.test.exit_shares) + " %"
        told = [f"{budget.test.macs / unit:.3g}", f"{100 * budget.test.accuracy:.2f} %", _told_band(band), shares]
        rows.append([f"budget {budget.budget_macs / unit:.3g} {prefix}", *told])
    return rows


def _told_band(band: Any) -> str:
    return "" if band is None else f"{100 * band.accuracy_low:.1f} to {100 * band.accuracy_high:.1f}"


def _told_threshold(threshold: float) -> str:
    if math.isinf(threshold):
        return "closed" if threshold > 0 else "all"
    return f"{threshold:.3f}"


def _kept(count: int) -> list[int]:
    """Which of so many points are shown: all, or evenly spread ones with both ends."""
    return sorted(set(np.linspace(0, count - 1, min(count, MOST_POINTS)).round().astype(int).tolist()))


def _rounded(value: Any) -> Any:
    """Numbers of a tree to as many digits as a screen can show."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value
