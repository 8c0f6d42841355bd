"""Fronts as one number: the accuracy within a budget, averaged over budgets even in log cost."""

import math
from collections.abc import Iterable
from typing import Protocol


class PricedPoint(Protocol):
    """A cost and what it buys."""

    @property
    def macs(self) -> float:
        """Mean cost of an image."""
        ...

    @property
    def accuracy(self) -> float:
        """Share of images classified correctly, from 0 to 1."""
        ...


def hypervolume(points: Iterable[PricedPoint], low: float, high: float) -> float:
    """Mean over budgets, even in log cost, of the best accuracy within each budget.

    Args:
        points: In any order; dominated ones do not count.
        low: Least budget, above 0.
        high: Largest budget, above `low`; in the unit of the points' cost, as `low`.

    Returns:
        From 0 to 1; a budget below the cheapest point counts as 0.
    """
    pieces, best, place = [], 0.0, math.log(low)
    for point in sorted(points, key=lambda point: point.macs):
        if point.macs > high:
            break
        if point.accuracy > best:
            start = max(place, math.log(point.macs))
            pieces.append((start - place) * best)
            best, place = point.accuracy, start
    pieces.append((math.log(high) - place) * best)
    return math.fsum(pieces) / (math.log(high) - math.log(low))
