"""The lines and tables that a person reads while a run trains and when it is done."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from dvt.cli.progress import Row, line
from dvt.cli.summary import print_places, print_report
from dvt.exits import (
    BudgetPoint,
    Confidence,
    ExitRow,
    Front,
    FrontPoint,
    FrontReport,
    Guarantee,
    GuaranteedPoint,
    StaticReference,
)
from dvt.models.told_amounts import told_macs

INF = float("inf")


@pytest.fixture
def report() -> FrontReport:
    early = FrontPoint(macs=1e6, accuracy=0.8, thresholds=(-INF, -INF), exit_shares=(1.0, 0.0))
    mixed = FrontPoint(macs=2e6, accuracy=0.9, thresholds=(0.7, -INF), exit_shares=(0.75, 0.25))
    return FrontReport(
        recipe="embedded",
        exits=(
            ExitRow(exit_index=1, token_grid=4, num_tokens=16, macs=1e6, test_top1=0.8),
            ExitRow(exit_index=2, token_grid=7, num_tokens=49, macs=5e6, test_top1=0.9625),
        ),
        budgets=(BudgetPoint(budget_macs=2.1e6, calibration=mixed, test=mixed),),
        calibration_front=Front.of([early, mixed]),
        test_points=(early, mixed),
        static_reference=StaticReference(token_grid=7, macs=4e6, test_top1=0.95),
    )


def test_the_report_holds_every_figure(report: FrontReport) -> None:
    out = io.StringIO()
    print_report(Console(file=out, width=120), report)
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.getvalue().splitlines() if "│" in line]
    assert rows == [
        ["1", "4x4", "1 M", "80.00 %", "75.0 %"],
        ["2", "7x7", "5 M", "96.25 %", "25.0 %"],
        ["", "", "", "mean MACs", "2 M"],
        ["", "", "", "top-1", "90.00 %"],
        ["static", "7x7", "4 M", "95.00 %", ""],
    ]


def test_what_was_chosen_and_promised_is_told(report: FrontReport) -> None:
    promise = Guarantee(
        thresholds=(0.7, -INF), tolerated_loss=0.005, level=0.95, bound=0.004, macs=2.2e6, num_tested=5000
    )
    guarantee = GuaranteedPoint(promise=promise, test=report.test_points[1])
    out = io.StringIO()
    print_report(
        Console(file=out, width=60), replace(report, confidence=Confidence("margin", (1.5, 2)), guarantee=guarantee)
    )
    assert out.getvalue().splitlines()[-3:] == [
        "confidence  tempered margin",
        "optimism    +0.00 points of top-1, calibration images over test images",
        (
            "guarantee   at most 0.5 points below the last exit, 95 % sure: 2.2 M mean MACs; "
            "on the test images 6.25 points below at 2 M"
        ),
    ]


def test_places_stay_on_one_line_each() -> None:
    out = io.StringIO()
    print_places(Console(file=out, width=20), {"front": "/a/long/path/to/the/front.png", "see it": "dvt page [r]"})
    assert out.getvalue() == "front   /a/long/path/to/the/front.png\nsee it  dvt page [r]\n"


@pytest.mark.parametrize(
    ("macs", "told"), [(950, "950"), (12_340, "12.3 k"), (1e6, "1 M"), (467_702_400, "468 M"), (3.455e9, "3.46 G")]
)
def test_told_macs(macs: float, told: str) -> None:
    assert told_macs(macs) == told


def test_a_row_of_progress_of_shared_weights() -> None:
    metrics = {f"calibration/{name}/top1": 0.5 for name in ("cheapest/exit_1", "dearest/exit_1", "dearest/exit_2")}
    assert line(Row(7, metrics | {"calibration/top1_mean": 0.5}), num_epochs=2) == (
        "step 7 · calibration top-1 of the cheapest 50.0 % · calibration top-1 of the dearest 50.0 / 50.0 %"
    )


def test_a_row_of_progress() -> None:
    metrics = {
        "train/loss": 1.2345,
        "train/images_per_s": 512.4,
        "calibration/exit_1/top1": 0.5,
        "calibration/exit_2/top1": 0.625,
        "calibration/top1_mean": 0.5625,
        "data/skipped_images": 2,
        "epoch": 3,
    }
    assert line(Row(7, metrics), num_epochs=16) == (
        "epoch 3/16 · step 7 · loss 1.234 · calibration top-1 50.0 / 62.5 % · 512 images/s · "
        "2 unreadable images skipped"
    )
