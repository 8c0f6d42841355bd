"""`ThresholdTable`: the thresholds to leave early with for each budget, all that serving a model needs to know.

Rows come from the front that a run measured, or from what the published implementation keeps in its checkpoints. The
latter tell which share of images each row was chosen to let leave where, and so what to expect it to cost; they tell
no accuracy, and none is made up.

Shapes: E exits.
"""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dvt.config import ConfigError
from dvt.exits.confidence import PLAIN, Confidence
from dvt.exits.front import Front, checked_macs, under_cheapest
from dvt.exits.guarantee import Guarantee
from dvt.exits.thresholds import (
    PUBLISHED_RATIOS,
    Thresholds,
    geometric_shares,
    single_exit_thresholds,
    thresholds_as_json,
)
from dvt.models.weights import WeightsError

PUBLISHED_INFINITY = 1e8  # what the published code closes an exit with; negative, it lets all leave


@dataclass(frozen=True)
class ThresholdRow:
    """One threshold vector and what it is expected to cost."""

    macs: float  # expected mean multiply-adds an image
    thresholds: Thresholds  # (E,); an image leaves at the first exit with confidence >= threshold; the last is -inf
    exit_shares: tuple[float, ...] = ()  # (E,); expected share of images that leaves at each exit; empty if unknown


@dataclass(frozen=True)
class ThresholdTable:
    """Threshold vectors sorted by their expected cost; a dearer row is the better one.

    Raises:
        ValueError: If there are no rows, they are not sorted, or thresholds or temperatures are not as stated.
    """

    rows: tuple[ThresholdRow, ...]
    confidence: Confidence = PLAIN  # what the thresholds are of
    guarantee: Guarantee | None = None  # thresholds with a promise about their loss, where one was made

    def __post_init__(self) -> None:
        if not self.rows:
            raise ValueError("rows must hold at least one row, got none")
        for cheap, dear in pairwise(self.rows):
            if not cheap.macs <= dear.macs:
                raise ValueError(f"rows must be sorted by macs, got {cheap.macs:.12g} before {dear.macs:.12g}")
        num_exits = len(self.rows[0].thresholds)
        for row in self.rows:
            is_whole = len(row.thresholds) == num_exits and not any(map(math.isnan, row.thresholds))
            if not is_whole or row.thresholds[-1] != -math.inf:
                told = ", ".join(map(str, row.thresholds))
                raise ValueError(f"rows must each hold {num_exits} thresholds, the last of them -inf, got {told}")
        self.confidence.check(num_exits)

    @classmethod
    def of_front(cls, front: Front, confidence: Confidence = PLAIN, guarantee: Guarantee | None = None) -> Self:
        """The thresholds of a calibration front, which costs were measured on, of this confidence."""
        rows = (ThresholdRow(point.macs, point.thresholds, point.exit_shares) for point in front.points)
        return cls(tuple(rows), confidence, guarantee)

    @classmethod
    def of_single_exits(cls, macs: Sequence[float]) -> Self:
        """All images leave at one exit, for each exit: what can be said without any calibration.

        Args:
            macs: (E,), cumulative multiply-adds of leaving at each exit.
        """
        costs = checked_macs(macs)
        shares = np.eye(len(costs)).tolist()
        rows = (
            ThresholdRow(float(cost), single_exit_thresholds(len(costs), k), tuple(shares[k]))
            for k, cost in enumerate(costs)
        )
        return cls(tuple(rows))

    @classmethod
    def of_published(cls, dynamic_threshold: Any, macs: Sequence[float]) -> Self:
        """The thresholds of a published checkpoint, and those with which all leave at one exit.

        Row p of the file, from 1, was chosen so that shares q, q^2, .. q^E, normalised, leave at the exits, q = p/20.

        Args:
            dynamic_threshold: (59, E), the file's entry of that name; a tensor, or nested lists of numbers or tensors.
            macs: (E,), cumulative multiply-adds of leaving at each exit of the model here.

        Raises:
            WeightsError: If it has another shape, holds what is no number, or ends a row with a finite threshold.
        """
        costs = checked_macs(macs)
        array = _checked_published(dynamic_threshold, num_exits=len(costs))
        shares = [geometric_shares(len(costs), ratio) for ratio in PUBLISHED_RATIOS]
        rows = [
            ThresholdRow(float(share @ costs), tuple(map(float, row)), tuple(share.tolist()))
            for share, row in zip(np.array(shares), array, strict=True)
        ]
        rows += cls.of_single_exits(macs).rows
        return cls(tuple(sorted(rows, key=lambda row: row.macs)))

    @property
    def num_exits(self) -> int:
        """Number of exits, E."""
        return len(self.rows[0].thresholds)

    def at_budget(self, macs: float) -> ThresholdRow:
        """The dearest row that is not dearer than a budget.

        Args:
            macs: Mean multiply-adds an image that may be spent.

        Raises:
            ConfigError: If even the cheapest row is dearer.
        """
        count = bisect_right([row.macs for row in self.rows], macs)
        if count == 0 or math.isnan(macs):
            raise ConfigError([under_cheapest("budget_macs", macs, self.rows[0].macs)])
        return self.rows[count - 1]

    def within_seconds(self, seconds: float, seconds_per_exit: Sequence[float]) -> ThresholdRow | None:
        """The dearest row whose expected time is within a budget; None where there is none.

        Args:
            seconds: Mean seconds an image that may be spent.
            seconds_per_exit: (E,), cumulative seconds of an image that leaves at each exit, on the device that counts.
        """
        timed = [row for row in self.rows if row.exit_shares]
        within = [row for row in timed if float(np.dot(row.exit_shares, seconds_per_exit)) <= seconds]
        return within[-1] if within else None

    def to_dict(self) -> dict[str, Any]:
        """The table in JSON's own types."""
        rows = [
            {
                "macs": row.macs,
                "thresholds": thresholds_as_json(row.thresholds),
                "exit_shares": list(row.exit_shares),
            }
            for row in self.rows
        ]
        promise = None if self.guarantee is None else self.guarantee.to_dict()
        return {"rows": rows, "confidence": self.confidence.to_dict(), "guarantee": promise}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The table that `to_dict` gave `data` from; without a confidence, as tables once were, the paper's is meant.

        Raises:
            ValueError: If a field is missing or is not what it should be.
        """
        try:
            rows = [_row(row) for row in data["rows"]]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"a threshold table must have rows of macs and thresholds, got others ({error})"
            ) from error
        confidence, promise = data.get("confidence"), data.get("guarantee")
        return cls(
            rows=tuple(rows),
            confidence=PLAIN if confidence is None else Confidence.from_dict(confidence),
            guarantee=None if promise is None else Guarantee.from_dict(promise),
        )


def _row(data: Mapping[str, Any]) -> ThresholdRow:
    """A row of a table; older ones do not tell the shares."""
    shares = data.get("exit_shares", ())
    return ThresholdRow(float(data["macs"]), tuple(map(float, data["thresholds"])), tuple(map(float, shares)))


def numbers_in(value: Any) -> NDArray[np.float64]:
    """Numbers, tensors and nested lists of them as one array; a tensor of one number is a number.

    Raises:
        ValueError: If lists are ragged or hold what is no number.
    """
    if isinstance(value, Tensor):
        array: NDArray[np.float64] = value.detach().cpu().double().numpy()
        return array.reshape(()) if array.size == 1 else array
    if isinstance(value, list | tuple):
        return np.array([numbers_in(item) for item in value], dtype=np.float64)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"expected a number, got {type(value).__name__}")
    return np.asarray(value, dtype=np.float64)


def _checked_published(dynamic_threshold: Any, num_exits: int) -> NDArray[np.float64]:
    """The published thresholds as (59, E) numbers, infinite where they are meant to be."""
    wanted = (len(PUBLISHED_RATIOS), num_exits)
    rule = f"dynamic_threshold must hold {wanted[0]} rows of {wanted[1]} numbers, each ending with -1e8"
    advice = "import the state dict alone to go without thresholds"
    try:
        array = numbers_in(dynamic_threshold)
    except ValueError as error:
        raise WeightsError(f"{rule}, got something else ({error}); {advice}") from error
    if array.shape != wanted:
        raise WeightsError(f"{rule}, got shape {array.shape}; {advice}")
    if np.isnan(array).any():
        row, column = np.argwhere(np.isnan(array))[0]
        raise WeightsError(f"{rule}, got nan at row {row + 1}, exit {column + 1}; {advice}")
    array = np.where(np.abs(array) >= PUBLISHED_INFINITY, np.copysign(np.inf, array), array)
    finite = np.flatnonzero(array[:, -1] != -np.inf)
    if len(finite):
        row = finite[0]
        raise WeightsError(f"{rule}, got {array[row, -1]:g} at the end of row {row + 1}; {advice}")
    return array
