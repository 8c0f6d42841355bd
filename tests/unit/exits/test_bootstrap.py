"""Bootstrap bands: as wide as theory says, the same for the same seed, and of no width where nothing varies."""

import math
import re

import numpy as np
import pytest

from dvt.exits import make_report
from dvt.exits.bootstrap import FrontBands, bootstrap_bands, bootstrap_report
from tests.unit.exits.examples import FOUR_IMAGES, cascade_scores, costs, scores

FIRST, LAST = (-math.inf, -math.inf), (math.inf, -math.inf)


def test_an_exit_that_is_always_right_has_no_band_in_accuracy() -> None:
    (band,) = bootstrap_bands(scores([[0.5] * 9, [0.9] * 9], [[0] * 9, [1] * 9]), (1.0, 3.0), [LAST])
    assert (band.accuracy_low, band.accuracy_high, band.macs_low, band.macs_high) == (1, 1, 3, 3)


def test_the_band_is_as_wide_as_the_binomial_interval() -> None:
    right = np.arange(2000) < 1600  # 80 %: standard error sqrt(0.8 x 0.2 / 2000)
    made = scores([np.full(2000, 0.5), np.where(np.arange(2000) % 4 == 0, 0.9, 0.1)], [right, right])
    accuracy, cost = bootstrap_bands(made, (1e6, 3e6), [FIRST, LAST], num_resamples=4000)
    error = 1.96 * math.sqrt(0.8 * 0.2 / 2000)
    np.testing.assert_allclose([accuracy.accuracy_low, accuracy.accuracy_high], [0.8 - error, 0.8 + error], atol=1e-3)
    assert (cost.macs_low, cost.macs_high) == (3e6, 3e6)


def test_mean_cost_varies_with_who_leaves_where() -> None:
    confidence = np.where(np.arange(1000) < 500, 0.9, 0.1)
    made = scores([confidence, confidence], [np.ones(1000), np.ones(1000)])
    (band,) = bootstrap_bands(made, (1e6, 3e6), [(0.5, -math.inf)], num_resamples=4000)
    error = 1.96 * 2e6 * math.sqrt(0.25 / 1000)
    np.testing.assert_allclose([band.macs_low, band.macs_high], [2e6 - error, 2e6 + error], rtol=4e-3)


@pytest.mark.parametrize("num_images", [1, 7, 4001])
def test_the_bands_hold_the_points_and_depend_on_the_seed_alone(num_images: int) -> None:
    test = cascade_scores(3, num_images, seed=1)
    report = make_report("r", (2, 4, 7), costs(3), cascade_scores(3, 200, seed=0), test, (2e6,))
    bands = bootstrap_report(report, test, num_resamples=1000)
    assert bands == bootstrap_report(report, test, num_resamples=1000)
    assert FrontBands.from_dict(bands.to_dict()) == bands
    assert [len(series) for series in (bands.exits, bands.budgets)] == [3, 1]
    points = [*report.test_points, report.budgets[0].test]
    for band, point in zip([*bands.test_points, *bands.budgets], points, strict=True):
        assert band.accuracy_low - 1e-6 <= point.accuracy <= band.accuracy_high + 1e-6
        assert band.macs_low * (1 - 1e-6) <= point.macs <= band.macs_high * (1 + 1e-6)
    for band, row in zip(bands.exits, report.exits, strict=True):
        assert (band.macs_low, band.macs_high) == pytest.approx((row.macs, row.macs))
    if num_images > 1:
        assert bands != bootstrap_report(report, test, num_resamples=1000, seed=1)


def test_memory_is_bounded_by_parts_without_changing_what_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    test = cascade_scores(2, 50, seed=0)
    whole = bootstrap_bands(test, (1.0, 2.0), [FIRST, LAST])
    monkeypatch.setattr("dvt.exits.bootstrap._HELD", 50 * 7)
    parts = bootstrap_bands(test, (1.0, 2.0), [FIRST, LAST])
    for one, other in zip(whole, parts, strict=True):
        assert vars(one) == pytest.approx(vars(other), abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_resamples": 999}, "num_resamples must be at least 1000, got 999"),
        ({"level": 1.0}, "level must be between 0 and 1, got 1"),
    ],
)
def test_what_is_asked_wrong(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        bootstrap_bands(FOUR_IMAGES, (1.0, 2.0), [FIRST], **changes)  # type: ignore[arg-type]


def test_what_is_no_record_of_bands() -> None:
    with pytest.raises(ValueError, match=r"^bands must hold the fields of FrontBands, got others \('exits'\)$"):
        FrontBands.from_dict({})
