"""The report: made from scores alone, and through JSON unchanged."""

import dataclasses
import json
import math

import pytest

from dvt.config import ConfigError
from dvt.exits import (
    Confidence,
    ExitRow,
    ExitScores,
    FrontReport,
    StaticReference,
    guaranteed_thresholds,
    make_report,
    measure_point,
)
from tests.unit.exits.examples import FOUR_IMAGES, cascade_scores, costs, scores

TEST = scores([[0.9, 0.3], [0.8, 0.9]], [[1, 0], [1, 1]])


def report(static: StaticReference | None = None) -> FrontReport:
    return make_report("embedded", (4, 7), (100, 300), FOUR_IMAGES, TEST, (120, 250), static)


def test_a_report_worked_by_hand() -> None:
    made = report()
    assert made.exits == (
        ExitRow(exit_index=1, token_grid=4, num_tokens=16, macs=100.0, test_top1=0.5),
        ExitRow(exit_index=2, token_grid=7, num_tokens=49, macs=300.0, test_top1=1.0),
    )
    first, second = made.budgets
    assert (first.budget_macs, first.calibration.macs, first.test.accuracy) == (120.0, 100.0, 0.5)
    assert (second.calibration.macs, second.calibration.accuracy) == (200.0, 1.0)
    assert (second.test.macs, second.test.accuracy, second.test.exit_shares) == (200.0, 1.0, (0.5, 0.5))
    assert second.test.thresholds == second.calibration.thresholds
    assert made.static_reference is None


def test_test_points_have_the_calibrated_thresholds() -> None:
    made = report()
    expected = [measure_point(TEST, (100, 300), point.thresholds) for point in made.calibration_front.points]
    assert list(made.test_points) == expected


@pytest.mark.parametrize("static", [None, StaticReference(token_grid=10, macs=123.0, test_top1=0.75)])
@pytest.mark.parametrize("num_exits", [1, 2, 3, 6])
def test_reports_go_through_json(num_exits: int, static: StaticReference | None) -> None:
    calibration, test = (cascade_scores(num_exits, 100, seed=seed) for seed in (0, 1))
    made = make_report("a", range(4, 4 + num_exits), costs(num_exits), calibration, test, (1e6, 2e6), static)
    assert FrontReport.from_dict(json.loads(json.dumps(made.to_dict(), allow_nan=False))) == made


def test_budgets_under_the_first_exit() -> None:
    with pytest.raises(ConfigError, match=r"^exits\.budgets_macs\.1 must be at least 100, the cost of leaving at the "):
        make_report("embedded", (4, 7), (100, 300), FOUR_IMAGES, TEST, (100, 99))


def test_optimism_worked_by_hand() -> None:
    made = report()
    # Calibrated on (100, 0.5), (150, 0.75), (200, 1.0); on the test images the same thresholds reach 0.5, 1 and 1.
    assert [point.accuracy for point in made.test_points] == [0.5, 1.0, 1.0]
    first, second = math.log(1.5), math.log(200 / 150)
    expected = (first * (0 - 0.25) / 2 + second * (-0.25 + 0) / 2) / (first + second)
    assert made.front_optimism == pytest.approx(expected)
    assert made.to_dict()["front_optimism"] == made.front_optimism


def test_optimism_of_a_single_point() -> None:
    made = make_report("a", (4,), (100,), scores([[0.5, 0.6]], [[1, 1]]), scores([[0.5, 0.6]], [[1, 0]]), ())
    assert made.front_optimism == 0.5


def test_chosen_thresholds_look_better_than_they_are() -> None:
    first, second = (cascade_scores(3, 500, seed=seed) for seed in (0, 1))

    def optimism(calibration: ExitScores, test: ExitScores) -> float:
        return make_report("a", (4, 7, 10), costs(3), calibration, test, ()).front_optimism

    assert optimism(first, first) == 0
    assert optimism(first, second) + optimism(second, first) > 0  # which set is the easier one cancels out


def test_a_guarantee_is_measured_and_goes_through_json() -> None:
    calibration, test = (cascade_scores(3, 2000, seed=seed) for seed in (0, 1))
    promise = guaranteed_thresholds(calibration, costs(3), 0.02)
    made = make_report("a", (4, 7, 10), costs(3), calibration, test, (2e6,), None, promise)
    assert made.guarantee is not None
    assert made.guarantee.test == measure_point(test, costs(3), promise.thresholds)
    assert FrontReport.from_dict(json.loads(json.dumps(made.to_dict(), allow_nan=False))) == made


def test_scores_of_two_confidences_are_not_mixed() -> None:
    test = dataclasses.replace(TEST, measured_by=Confidence("margin"))
    with pytest.raises(
        ValueError, match=r"^calibration and test must be scored by one confidence, got max_probability "
    ):
        make_report("embedded", (4, 7), (100, 300), FOUR_IMAGES, test, (120,))


def test_the_confidence_and_what_spoke_for_it_go_through_json() -> None:
    confidence = Confidence("margin", (1.5, 0.75))
    calibration, test = (dataclasses.replace(each, measured_by=confidence) for each in (FOUR_IMAGES, TEST))
    made = make_report("embedded", (4, 7), (100, 300), calibration, test, (120,))
    assert made.confidence == confidence
    made = dataclasses.replace(made, confidence_areas={"margin": 0.75, "tempered_margin": 0.8})
    assert FrontReport.from_dict(json.loads(json.dumps(made.to_dict()))) == made


def test_reports_of_before_there_was_a_choice_are_read() -> None:
    data = report().to_dict()
    for name in ("confidence", "confidence_areas", "guarantee", "front_optimism"):
        del data[name]
    assert FrontReport.from_dict(data) == report()


def test_curves_are_thin_and_hold_what_was_chosen_for_budgets() -> None:
    calibration, test = (cascade_scores(3, 5000, seed=seed) for seed in (0, 1))
    made = make_report("a", (4, 7, 10), costs(3), calibration, test, (1.2345e6, 2e6))
    assert 100 < len(made.calibration_front.points) <= 202
    assert {budget.calibration for budget in made.budgets} <= set(made.calibration_front.points)
    assert len(json.dumps(made.to_dict())) < 150_000


def test_reports_that_lack_a_field() -> None:
    data = report().to_dict()
    del data["exits"]
    with pytest.raises(ValueError, match=r"^a front report must hold exits, got none$"):
        FrontReport.from_dict(data)


def test_reports_with_a_foreign_field() -> None:
    data = report().to_dict()
    data["exits"][0]["colour"] = "red"
    with pytest.raises(ValueError, match=r"^a front report must hold the fields of FrontReport, got others \(.*colour"):
        FrontReport.from_dict(data)


def test_reports_whose_parts_do_not_belong_together() -> None:
    made = report()
    with pytest.raises(
        ValueError, match=r"^test_points must hold one point for each of the calibration front's 3, got 1"
    ):
        dataclasses.replace(made, test_points=made.test_points[:1])
    with pytest.raises(ValueError, match=r"^exits must hold one row for each threshold \(2\), got 1$"):
        dataclasses.replace(made, exits=made.exits[:1])
