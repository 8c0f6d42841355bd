"""The drift warning: seldom where nothing has changed, soon where images leave elsewhere."""

import numpy as np
import pytest

from dvt.serving.drift import DriftWatch, ShareCheck

SHARES = (0.6, 0.25, 0.15)


def checks(watch: DriftWatch, exits: list[int], expected: tuple[float, ...] = SHARES) -> list[ShareCheck]:
    return [check for index in exits if (check := watch.add(expected, index)) is not None]


def drawn(count: int, shares: tuple[float, ...], seed: int) -> list[int]:
    return np.random.Generator(np.random.PCG64(seed)).choice(len(shares), count, p=shares).tolist()


def test_the_first_check_is_of_a_full_window_and_the_next_of_a_quarter_more() -> None:
    found = checks(DriftWatch(3, 1000, window=8), [0] * 11)
    assert [check.observed for check in found] == [(1.0, 0.0, 0.0)] * 2


def test_shares_are_of_the_window_alone() -> None:
    found = checks(DriftWatch(3, 1000, window=8), [0] * 8 + [1] * 8)
    assert [check.observed[1] for check in found] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert found[-1].expected == pytest.approx(SHARES)


def test_expected_shares_are_the_mean_over_the_budgets_of_the_window() -> None:
    watch = DriftWatch(2, 1000, window=4)
    for expected in ((1.0, 0.0), (0.5, 0.5), (0.5, 0.5)):
        assert watch.add(expected, 0) is None
    check = watch.add((0.0, 1.0), 0)
    assert check is not None
    assert check.expected == (0.5, 0.5)


def test_false_alarms_are_as_seldom_as_promised() -> None:
    """Each repetition draws its calibration shares too, as they are never known exactly."""
    rate, repetitions = 0.05, 400
    random = np.random.Generator(np.random.PCG64(0))
    alarms = 0
    for seed in range(repetitions):
        calibrated = tuple((random.multinomial(300, SHARES) / 300).tolist())
        (check,) = checks(DriftWatch(3, 300, 200, rate), drawn(200, SHARES, seed + 1), calibrated)
        alarms += check.is_drifting
    assert alarms <= 0.05 * repetitions + 3 * np.sqrt(0.05 * 0.95 * repetitions)
    assert alarms > 0, "a rate that is never used up would be a test that sees nothing"


def test_a_shift_of_a_few_percent_is_seen_and_said_once() -> None:
    watch = DriftWatch(3, 10_000)
    assert not any(check.is_drifting for check in checks(watch, drawn(6000, SHARES, 1)))
    found = checks(watch, drawn(6000, (0.5, 0.3, 0.2), 2))
    assert found[-1].is_drifting
    assert sum(check.is_new for check in found) == 1
    back = checks(watch, drawn(6000, SHARES, 3))
    assert not back[-1].is_drifting


def test_the_sentence() -> None:
    check = ShareCheck((0.5, 0.5), (0.604, 0.396), is_drifting=True, is_new=True)
    assert str(check) == "images leave at the exits in shares of 50.0 / 50.0 %, calibration images did in 60.4 / 39.6 %"


@pytest.mark.parametrize(("calibration", "window", "rate"), [(0, 8, 0.1), (10, 3, 0.1), (10, 8, 0.0), (10, 8, 1.0)])
def test_senseless_numbers_are_refused(calibration: int, window: int, rate: float) -> None:
    with pytest.raises(ValueError, match="num_calibration must be at least 1, window at least 4, false_alarm_rate"):
        DriftWatch(3, calibration, window, rate)
