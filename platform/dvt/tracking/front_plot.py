"""The picture of a front: accuracy over mean multiply-adds or over time, to compare classifiers that leave early."""

from collections.abc import Sequence
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dvt.exits import FrontReport
from dvt.exits.bootstrap import FrontBands
from dvt.tracking.front_labels import Label, place_beside, place_in_row
from dvt.tracking.front_places import FrontPlaces, Place, places_over_macs, places_over_seconds
from dvt.tracking.picture_style import (
    BUDGET,
    CALIBRATION,
    DASHED,
    DOTTED,
    INK,
    STATIC,
    TEST,
    fix_layout,
    new_picture,
    set_costs,
    set_percents,
    set_style,
    set_title,
    use_font,
)

_MOST_BUDGET_LINES = 8  # more would hide the curves
_MOST_MARKERS = 60  # more would run into one another
_COST_MARGIN = 0.09  # free room left and right, as a share of what is drawn


def draw_front(report: FrontReport, bands: FrontBands | None = None) -> Figure:
    """Draw the front of a report over mean multiply-adds.

    Args:
        report: The exits, the budgets, both curves and, where one was trained, the static reference.
        bands: How sure the points on the test images are, to draw around them.

    Returns:
        A figure of `SIZE_INCHES` at `DPI`, ready for `savefig`. Its cost axis is logarithmic where the last exit costs
        at least four times the first.
    """
    return _draw(places_over_macs(report, bands))


def draw_front_over_seconds(
    report: FrontReport, seconds_per_exit: Sequence[float], bands: FrontBands | None = None
) -> Figure:
    """Draw the front of a report over measured time, as `draw_front` does over multiply-adds.

    Args:
        report: The exits, the budgets and both curves.
        seconds_per_exit: (E,), cumulative seconds of an image that leaves at each exit, rising.
        bands: How sure the points on the test images are, to draw around them.

    Raises:
        ValueError: If the seconds are not as stated.
    """
    return _draw(places_over_seconds(report, seconds_per_exit, bands))


def _draw(places: FrontPlaces) -> Figure:
    figure, axes = new_picture()
    _set_scales(axes, places)
    set_style(axes, places.cost_label, "top-1 accuracy [%]")
    curves = _draw_curves(axes, places)
    limits = _draw_budgets(axes, places)
    beside = _draw_models(axes, places)
    set_title(axes, places.title)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9, labelcolor=INK, columnspacing=1.6)
    fix_layout(figure)
    place_in_row(axes, limits)
    place_beside(axes, beside, curves)
    use_font(figure)
    return figure


def draw_limits(axes: Axes, limits: Sequence[float], unit: str, zorder: float = 2) -> list[Label]:
    """Budgets as dotted lines, as far as they are in the picture; returns their labels."""
    labels = []
    for limit in limits:
        if limit <= axes.get_xlim()[1]:  # a budget beyond is more than the last exit spends
            axes.axvline(limit, color=BUDGET, linewidth=1.0, linestyle=DOTTED, zorder=zorder)
            labels.append(Label(limit, 1.0, f"{limit:.3g} {unit}".strip(), BUDGET))
    return labels


def _set_scales(axes: Axes, places: FrontPlaces) -> None:
    """Limits with room around everything that is drawn."""
    drawn = [*places.exits, *places.static, *places.test, *places.calibration, *places.budgets]
    drawn += [(band.cost, end) for band in places.test_band + places.exit_bands for end in (band.low, band.high)]
    low, high = min(cost for cost, _ in drawn), max(cost for cost, _ in drawn)
    if places.is_log:
        margin = (high / low) ** _COST_MARGIN
        low, high = low / margin, high * margin
    else:
        margin = _COST_MARGIN * (high - low) or 0.5 * high
        low, high = low - margin, high + margin
    set_costs(axes, low, high, places.is_log)
    bottom, top = min(accuracy for _, accuracy in drawn), max(accuracy for _, accuracy in drawn)
    set_percents(axes, bottom, top)


def _draw_curves(axes: Axes, places: FrontPlaces) -> list[tuple[Place, Place]]:
    """Both curves, where there is more than a point; returns their straight pieces, which labels keep clear of."""
    if len(places.test) == 1:
        return []
    marker = "o" if len(places.test) <= _MOST_MARKERS else ""
    axes.plot(
        *_columns(places.test), color=TEST, linewidth=2, marker=marker, markersize=3.6, zorder=4, label="test images"
    )
    if places.test_band:
        costs, lows, highs = zip(*((band.cost, band.low, band.high) for band in places.test_band), strict=True)
        told = f"{100 * places.band_level:g} % bootstrap band"
        axes.fill_between(costs, lows, highs, color=TEST, alpha=0.16, linewidth=0, zorder=2.5, label=told)
    told = "calibration images (optimistic)"  # thresholds were chosen on them
    axes.plot(*_columns(places.calibration), color=CALIBRATION, linewidth=1.2, linestyle=DASHED, zorder=3, label=told)
    return [*pairwise(places.test), *pairwise(places.calibration)]


def _draw_budgets(axes: Axes, places: FrontPlaces) -> list[Label]:
    """Points chosen for budgets, and budgets as lines, to see what was spent of each; returns the lines' labels."""
    if not places.budgets:
        return []
    has_lines = bool(places.limits) and len(places.budgets) <= _MOST_BUDGET_LINES
    told = "thresholds for a budget (dotted line)" if has_lines else "thresholds for a budget"
    axes.scatter(*_columns(places.budgets), s=44, marker="D", color=BUDGET, edgecolors="white", zorder=7, label=told)
    return draw_limits(axes, places.limits, places.unit) if has_lines else []


def _draw_models(axes: Axes, places: FrontPlaces) -> list[Label]:
    """Each exit on its own and the static reference; returns their labels."""
    for band in places.exit_bands:
        axes.vlines(band.cost, band.low, band.high, color=INK, linewidth=1.1, alpha=0.55, zorder=5)
    told = "all images leave at one exit"
    axes.scatter(
        *_columns(places.exits), s=84, marker="s", color="white", edgecolors=INK, linewidths=1.5, zorder=6, label=told
    )
    names = zip(places.exit_names, places.exits, strict=True)
    labels = [Label(cost, accuracy, name, INK) for name, (cost, accuracy) in names]
    if places.static:
        told = "static model, same recipe"
        axes.scatter(
            *_columns(places.static), s=190, marker="*", color=STATIC, edgecolors="white", zorder=7, label=told
        )
        labels += [Label(cost, accuracy, places.static_name, STATIC) for cost, accuracy in places.static]
    return labels


def _columns(places: Sequence[Place]) -> tuple[list[float], list[float]]:
    return [cost for cost, _ in places], [accuracy for _, accuracy in places]
