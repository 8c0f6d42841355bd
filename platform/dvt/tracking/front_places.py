"""Where everything of a front stands in a picture, over multiply-adds or over seconds, in the unit of its cost axis.

The picture on paper and the one in a browser are drawn from this alone.

Shapes: E exits, P points of a curve.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dvt.exits import FrontPoint, FrontReport
from dvt.exits.bootstrap import Band, FrontBands

LOG_FROM_RATIO = 4.0  # last over first exit's cost from which the cost axis is logarithmic
MACS_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "K"), (1.0, ""))
_SECONDS_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))

Place = tuple[float, float]  # cost in the axis' unit, accuracy in percent


@dataclass(frozen=True)
class BandPlace:
    """How far a point reaches up and down."""

    cost: float  # in the axis' unit
    low: float  # percent
    high: float  # percent


@dataclass(frozen=True, kw_only=True)
class FrontPlaces:
    """What there is to draw."""

    title: str
    cost_label: str  # what the cost axis says
    unit: str  # written behind a cost, as M or ms
    is_log: bool  # whether the cost axis is logarithmic
    exit_names: tuple[str, ...]  # (E,)
    exits: tuple[Place, ...]  # (E,), all images leave there
    test: tuple[Place, ...]  # (P,), by cost
    calibration: tuple[Place, ...]  # (P,), by cost
    budgets: tuple[Place, ...]  # thresholds chosen for a budget, on the test images
    limits: tuple[float, ...] = ()  # the budgets themselves; none where they are of another kind of cost
    static: tuple[Place, ...] = ()  # a single-stage model, where there is one of known cost
    static_name: str = ""
    band_level: float = 0.0  # probability that a band holds its point
    test_band: tuple[BandPlace, ...] = ()  # (P,), by cost; none without bands
    exit_bands: tuple[BandPlace, ...] = ()  # (E,); none without bands


def places_over_macs(report: FrontReport, bands: FrontBands | None = None) -> FrontPlaces:
    """A report over mean multiply-adds an image.

    Args:
        report: The exits, budgets, curves and, where one was trained, the static reference.
        bands: How sure its points are, where that is known.
    """
    unit, prefix = unit_of(report.exits[-1].macs, MACS_UNITS)
    static = report.static_reference
    return _places(
        report,
        bands,
        _Axis(
            title=f"{report.recipe}: accuracy over cost",
            label="mean multiply-adds per image" + (f" [{prefix}]" if prefix else ""),
            unit=prefix,
            exits=tuple(row.macs / unit for row in report.exits),
            cost=lambda point: point.macs / unit,
            limits=tuple(sorted({budget.budget_macs / unit for budget in report.budgets})),
            static=() if static is None else ((static.macs / unit, 100 * static.test_top1),),
        ),
    )


def places_over_seconds(
    report: FrontReport, seconds_per_exit: Sequence[float], bands: FrontBands | None = None
) -> FrontPlaces:
    """A report over mean seconds an image, measured on some machine.

    Args:
        report: The exits, budgets and curves.
        seconds_per_exit: (E,), cumulative seconds of an image that leaves at each exit, rising.
        bands: How sure its points are, where that is known.

    Raises:
        ValueError: If the seconds are not as stated.
    """
    seconds = np.asarray(seconds_per_exit, dtype=np.float64)
    is_rising = seconds.shape == (len(report.exits),) and seconds[0] > 0 and bool((np.diff(seconds) > 0).all())
    if not is_rising:
        told = ", ".join(f"{value:g}" for value in seconds.ravel()) or "none"
        raise ValueError(f"seconds_per_exit must hold {len(report.exits)} rising seconds above 0, got {told}")
    unit, name = unit_of(float(seconds[-1]), _SECONDS_UNITS)
    return _places(
        report,
        bands,
        _Axis(
            title=f"{report.recipe}: accuracy over time",
            label=f"mean time per image [{name}]",
            unit=name,
            exits=tuple(float(value) / unit for value in seconds),
            cost=lambda point: float(np.dot(point.exit_shares, seconds)) / unit,
        ),
    )


@dataclass(frozen=True, kw_only=True)
class _Axis:
    """One kind of cost."""

    title: str
    label: str
    unit: str
    exits: tuple[float, ...]
    cost: Callable[[FrontPoint], float]
    limits: tuple[float, ...] = ()
    static: tuple[Place, ...] = ()


def _places(report: FrontReport, bands: FrontBands | None, axis: _Axis) -> FrontPlaces:
    def place(point: FrontPoint) -> Place:
        return axis.cost(point), 100 * point.accuracy

    static = report.static_reference
    test = [place(point) for point in report.test_points]
    return FrontPlaces(
        title=axis.title,
        cost_label=axis.label,
        unit=axis.unit,
        is_log=axis.exits[-1] >= LOG_FROM_RATIO * axis.exits[0],
        exit_names=tuple(f"exit {row.exit_index} · {row.token_grid}x{row.token_grid}" for row in report.exits),
        exits=tuple((cost, 100 * row.test_top1) for cost, row in zip(axis.exits, report.exits, strict=True)),
        # The order by calibrated cost need not be the order on other images, and a line must not run backwards.
        test=tuple(sorted(test)),
        calibration=tuple(sorted(map(place, report.calibration_front.points))),
        budgets=tuple(place(budget.test) for budget in report.budgets),
        limits=axis.limits,
        static=axis.static,
        static_name="" if static is None else f"static {static.token_grid}x{static.token_grid}",
        band_level=0.0 if bands is None else bands.level,
        test_band=() if bands is None else _band_places([cost for cost, _ in test], bands.test_points),
        exit_bands=() if bands is None else _band_places(axis.exits, bands.exits),
    )


def _band_places(costs: Sequence[float], bands: Sequence[Band]) -> tuple[BandPlace, ...]:
    """Bands over the costs of their points, from left to right."""
    places = [
        BandPlace(cost, 100 * band.accuracy_low, 100 * band.accuracy_high)
        for cost, band in zip(costs, bands, strict=True)
    ]
    return tuple(sorted(places, key=lambda place: place.cost))


def unit_of(largest: float, units: Sequence[tuple[float, str]]) -> tuple[float, str]:
    """The largest unit of which there is at least one, and what it is called."""
    return next(((size, name) for size, name in units if largest >= size), units[-1])
