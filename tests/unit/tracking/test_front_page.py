"""The page: whole in itself, small, and holding the report's numbers."""

import json
import re
from typing import Any

import pytest

from dvt.exits import FrontReport, make_report
from dvt.exits.bootstrap import bootstrap_report
from dvt.tracking.front_page import MOST_POINTS, front_page
from tests.unit.exits.examples import cascade_scores, costs

CALIBRATION, TEST = (cascade_scores(3, 300, seed=seed) for seed in (0, 1))


@pytest.fixture(scope="module")
def report() -> FrontReport:
    return make_report("embedded", (2, 4, 7), costs(3), CALIBRATION, TEST, (1.5e6, 4e6))


def data_of(page: str) -> dict[str, Any]:
    match = re.search(r"^const data = (.*);$", page, re.MULTILINE)
    assert match is not None
    read: dict[str, Any] = json.loads(match[1])
    return read


def test_it_asks_no_network_for_anything(report: FrontReport) -> None:
    page = front_page(report, bootstrap_report(report, TEST, num_resamples=1000), (0.001, 0.002, 0.004))
    assert re.findall(r"(?:src|href|url|@import|fetch)\b\s*[=(]", page) == []
    assert re.findall(r"https?://[^\"' ]+", page) == ["http://www.w3.org/2000/svg"]  # a name, not a place
    assert "__" not in page
    assert page.startswith("<!doctype html>")
    assert len(page) < 100_000


def test_it_holds_the_reports_points(report: FrontReport) -> None:
    bands = bootstrap_report(report, TEST, num_resamples=1000)
    data = data_of(front_page(report, bands, (0.001, 0.002, 0.004)))
    assert [axis["unit"] for axis in data["axes"]] == ["M", "ms"]
    assert len(data["points"]) == len(report.test_points)
    for shown, point, band in zip(data["points"], report.test_points, bands.test_points, strict=True):
        assert shown["accuracy"] == pytest.approx(point.accuracy)
        assert (shown["low"], shown["high"]) == pytest.approx((band.accuracy_low, band.accuracy_high))
        assert shown["shares"] == pytest.approx(point.exit_shares)
        assert shown["costs"][0] == pytest.approx(point.macs / 1e6)
        assert shown["costs"][1] == pytest.approx(sum(s * t for s, t in zip(point.exit_shares, (1, 2, 4), strict=True)))
    assert [row[0] for row in data["table"]] == [
        "",
        "exit 1 · 2x2",
        "exit 2 · 4x4",
        "exit 3 · 7x7",
        "budget 1.5 M",
        "budget 4 M",
    ]


def test_without_time_and_bands_there_are_none(report: FrontReport) -> None:
    data = data_of(front_page(report))
    assert [axis["name"] for axis in data["axes"]] == ["multiply-adds"]
    assert data["axes"][0]["band"] == []
    assert data["points"][0]["low"] is None


def test_a_name_cannot_break_out(report: FrontReport) -> None:
    named = FrontReport(**(vars(report) | {"recipe": "</script><b>"}))
    page = front_page(named)
    assert "</script><b>" not in page
    assert page.count("</script>") == 1


def test_a_long_front_stays_small() -> None:
    report = make_report("embedded", (2, 4, 7), costs(3), CALIBRATION, TEST, ())
    long = object.__new__(FrontReport)  # what a front of thousands of points would be; its own points do not matter
    points = report.test_points * 500
    front = object.__new__(type(report.calibration_front))
    object.__setattr__(front, "points", report.calibration_front.points * 500)
    for name, value in (vars(report) | {"test_points": points, "calibration_front": front}).items():
        object.__setattr__(long, name, value)
    page = front_page(long)
    assert len(points) > MOST_POINTS
    assert len(data_of(page)["points"]) == MOST_POINTS
    assert len(page) < 1_000_000
