"""Whether images still leave where calibration images did: a test of exit shares over the last requests.

Each request has a budget, and so a row of the threshold table, that tells what share of the calibration images left at
each exit. Over a window of n images with the mean p of these shares, the number that leaves at an exit is compared with
the beta-binomial distribution of n, m p + 1/2 and m (1 - p) + 1/2: what n images are to be expected to do after m
calibration images were seen to (Jeffreys' prior). Images of different rows leave with different probability, which
spreads their number less than equal ones do (Hoeffding, 1956), so a mixture of budgets gives no more alarms than one.
A check fails where an exit has a tail probability below rate / (2 E), so that at most about `rate` of all checks fail
while nothing has changed. The window slides by a quarter; checks of windows that overlap are not independent, but
the rate holds for each.

Shapes: E exits, n images of the window, m calibration images.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import betabinom

WINDOW = 2000
FALSE_ALARM_RATE = 1e-4
_CHECKS_PER_WINDOW = 4


@dataclass(frozen=True)
class ShareCheck:
    """What a check of the window found."""

    observed: tuple[float, ...]  # (E,), shares of the window's images
    expected: tuple[float, ...]  # (E,), of calibration images under the same thresholds
    is_drifting: bool
    is_new: bool  # the check before this one passed

    def __str__(self) -> str:
        """What a person reads in the log."""
        seen, meant = (" / ".join(f"{100 * share:.1f}" for share in each) for each in (self.observed, self.expected))
        return f"images leave at the exits in shares of {seen} %, calibration images did in {meant} %"


class DriftWatch:
    """Looks at the exits of images that came last.

    Args:
        num_exits: E.
        num_calibration: m, at least 1; fewer make the check more patient.
        window: n, at least 4.
        false_alarm_rate: Probability that a check fails while nothing has changed, between 0 and 1.

    Raises:
        ValueError: If a number is not as stated.
    """

    def __init__(
        self,
        num_exits: int,
        num_calibration: int,
        window: int = WINDOW,
        false_alarm_rate: float = FALSE_ALARM_RATE,
    ) -> None:
        if num_calibration < 1 or window < _CHECKS_PER_WINDOW or not 0 < false_alarm_rate < 1:
            raise ValueError(
                f"num_calibration must be at least 1, window at least {_CHECKS_PER_WINDOW}, false_alarm_rate between 0 "
                f"and 1, got {num_calibration}, {window}, {false_alarm_rate:g}"
            )
        self._num_calibration = num_calibration
        self._window = window
        self._least_tail = false_alarm_rate / (2 * num_exits)
        self._last: deque[tuple[tuple[float, ...], int]] = deque()
        self._left = np.zeros(num_exits, dtype=np.int64)
        self._meant = np.zeros(num_exits)
        self._num_new = 0  # images since the last check
        self._is_drifting = False

    def add(self, expected: Sequence[float], exit_index: int) -> ShareCheck | None:
        """Note where an image left; a check of the window when it is due, else None.

        Args:
            expected: (E,), exit shares of calibration images under the thresholds of the image.
            exit_index: From 0.
        """
        self._last.append((tuple(expected), exit_index))
        self._left[exit_index] += 1
        self._meant += expected
        if len(self._last) > self._window:
            gone, index = self._last.popleft()
            self._left[index] -= 1
            self._meant -= gone
        self._num_new += 1
        if len(self._last) < self._window or self._num_new < self._window // _CHECKS_PER_WINDOW:
            return None
        self._num_new = 0
        return self._check()

    def _check(self) -> ShareCheck:
        count = len(self._last)
        expected = np.clip(self._meant / count, 0, 1)  # sums that were added to and taken from are a rounding off
        seen = betabinom(count, self._num_calibration * expected + 0.5, self._num_calibration * (1 - expected) + 0.5)
        tail = np.minimum(seen.cdf(self._left), seen.sf(self._left - 1))
        was_drifting, self._is_drifting = self._is_drifting, bool((tail < self._least_tail).any())
        observed = self._left / count
        return ShareCheck(
            observed=tuple(observed.tolist()),
            expected=tuple(expected.tolist()),
            is_drifting=self._is_drifting,
            is_new=self._is_drifting and not was_drifting,
        )
