"""The picture of a front: accuracy over mean multiply-adds, as people compare classifiers that leave early.

Only Matplotlib's object interface is used: no figure is global, so pictures can be drawn in any thread.
"""

import math
import textwrap
from collections.abc import Sequence
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from dvt.exits import FrontReport
from dvt.tracking.front_labels import Label, place_beside, place_in_row

SIZE_INCHES = (8.0, 5.4)
DPI = 200  # pixels an inch; the picture is 1600 x 1080

_FONT = "DejaVu Sans"  # comes with Matplotlib, so pictures are the same on every machine
_INK, _MUTED, _GRID = "#22272e", "#8a929c", "#e8ebee"
_TEST, _CALIBRATION, _BUDGET, _STATIC = "#1f5fa8", "#6f9fd0", "#d96c00", "#b3261e"
_DASHED, _DOTTED = (0, (5, 3)), (0, (1, 2))
_LOG_FROM_RATIO = 4.0  # last over first exit's cost from which the cost axis is logarithmic
_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "K"), (1.0, ""))
_MANTISSAS = ((1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0), (1.0, 2.0, 3.0, 5.0), (1.0, 2.0, 5.0), (1.0,))  # fine to coarse
_MOST_TICKS = 9
_MOST_BUDGET_LINES = 8  # more would hide the curves
_MOST_MARKERS = 60  # more would run into one another
_COST_MARGIN = 0.09  # free room left and right, as a share of what is drawn
_TITLE_PAD = 22.0  # points; leaves a row for the budgets
_TITLE_LETTERS = 54  # a line of the title

_Place = tuple[float, float]  # cost in the axis' unit, accuracy in percent


def draw_front(report: FrontReport) -> Figure:
    """Draw the front of a report.

    Args:
        report: The exits, the budgets, both curves and, where one was trained, the static reference.

    Returns:
        A figure of `SIZE_INCHES` at `DPI`, ready for `savefig`. Its cost axis is logarithmic where the last exit costs
        at least four times the first.
    """
    layout = ConstrainedLayoutEngine(w_pad=0.14, h_pad=0.12)  # inches
    figure = Figure(figsize=SIZE_INCHES, dpi=DPI, layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(facecolor="white")
    unit, prefix = _unit(report)
    _set_scales(axes, report, unit)
    _set_style(axes, prefix)
    curves = _draw_curves(axes, report, unit)
    limits = _draw_budgets(axes, report, unit, prefix)
    beside = _draw_models(axes, report, unit)
    title = textwrap.fill(f"{report.recipe}: accuracy over cost", _TITLE_LETTERS)
    axes.set_title(title, loc="left", pad=_TITLE_PAD, fontsize=13, color=_INK, fontweight="bold", parse_math=False)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9, labelcolor=_INK, columnspacing=1.6)
    _use_font(figure)
    figure.draw_without_rendering()  # makes the layout, which the places of labels depend on
    figure.set_layout_engine("none")
    place_in_row(axes, limits)
    place_beside(axes, beside, curves)
    _use_font(figure)
    return figure


def _unit(report: FrontReport) -> tuple[float, str]:
    """The largest unit that the last exit costs at least one of: its multiply-adds and its prefix."""
    last = report.exits[-1].macs
    return next(((size, prefix) for size, prefix in _UNITS if last >= size), _UNITS[-1])


def _exits_places(report: FrontReport, unit: float) -> list[_Place]:
    return [(row.macs / unit, 100 * row.test_top1) for row in report.exits]


def _static_places(report: FrontReport, unit: float) -> list[_Place]:
    reference = report.static_reference
    return [] if reference is None else [(reference.macs / unit, 100 * reference.test_top1)]


def _set_scales(axes: Axes, report: FrontReport, unit: float) -> None:
    """Limits with room around everything that is drawn, and round ticks."""
    places = _exits_places(report, unit) + _static_places(report, unit)
    places += [(point.macs / unit, 100 * point.accuracy) for point in report.all_points()]
    low, high = min(cost for cost, _ in places), max(cost for cost, _ in places)
    if report.exits[-1].macs >= _LOG_FROM_RATIO * report.exits[0].macs:
        margin = (high / low) ** _COST_MARGIN
        low, high = low / margin, high * margin
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(_log_ticks(low, high)))
    else:
        margin = _COST_MARGIN * (high - low) or 0.5 * high
        low, high = low - margin, high + margin
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda cost, _: f"{cost:g}"))
    axes.set_xlim(low, high)
    bottom, top = min(accuracy for _, accuracy in places), max(accuracy for _, accuracy in places)
    room = max(top - bottom, 2.0)  # percentage points; a flat front is not blown up until it looks steep
    margin = 0.14 * room + (room - (top - bottom)) / 2
    axes.set_ylim(max(bottom - margin, -0.05 * room), min(top + margin, 100 + 0.05 * room))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10]))


def _log_ticks(low: float, high: float) -> list[float]:
    """Round numbers between two positive ones, of the finest series that stays readable."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    for mantissas in _MANTISSAS:
        numbers = [mantissa * 10.0**decade for decade in decades for mantissa in mantissas]
        ticks = [number for number in numbers if low <= number <= high]
        if len(ticks) <= _MOST_TICKS:
            break
    return ticks


def _set_style(axes: Axes, prefix: str) -> None:
    unit = f" [{prefix}]" if prefix else ""
    axes.set_xlabel(f"mean multiply-adds per image{unit}", color=_INK, fontsize=10.5)
    axes.set_ylabel("top-1 accuracy [%]", color=_INK, fontsize=10.5)
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(color=_MUTED, labelcolor=_INK, labelsize=9.5, labelfontfamily=_FONT)
    for side, spine in axes.spines.items():
        spine.set(visible=side in ("left", "bottom"), color=_MUTED)


def _draw_curves(axes: Axes, report: FrontReport, unit: float) -> list[tuple[_Place, _Place]]:
    """Both curves, where there is more than a point; returns their straight pieces, which labels keep clear of."""
    if len(report.test_points) == 1:
        return []
    calibration = [(point.macs / unit, 100 * point.accuracy) for point in report.calibration_front.points]
    # The order by calibrated cost need not be the order on other images, and a line must not run backwards.
    test = sorted((point.macs / unit, 100 * point.accuracy) for point in report.test_points)
    marker = "o" if len(test) <= _MOST_MARKERS else ""
    axes.plot(*_columns(test), color=_TEST, linewidth=2, marker=marker, markersize=3.6, zorder=4, label="test images")
    told = "calibration images (optimistic)"  # thresholds were chosen on them
    axes.plot(*_columns(calibration), color=_CALIBRATION, linewidth=1.2, linestyle=_DASHED, zorder=3, label=told)
    return [*pairwise(test), *pairwise(calibration)]


def _draw_budgets(axes: Axes, report: FrontReport, unit: float, prefix: str) -> list[Label]:
    """Points chosen for budgets, and budgets as lines, to see what was spent of each; returns the lines' labels."""
    if not report.budgets:
        return []
    has_lines = len(report.budgets) <= _MOST_BUDGET_LINES
    told = "thresholds for a budget (dotted line)" if has_lines else "thresholds for a budget"
    places = [(budget.test.macs / unit, 100 * budget.test.accuracy) for budget in report.budgets]
    axes.scatter(*_columns(places), s=44, marker="D", color=_BUDGET, edgecolors="white", zorder=7, label=told)
    if not has_lines:
        return []
    labels = []
    for limit in sorted({budget.budget_macs / unit for budget in report.budgets}):
        if limit <= axes.get_xlim()[1]:  # a budget beyond is more than the last exit spends
            axes.axvline(limit, color=_BUDGET, linewidth=1.0, linestyle=_DOTTED, zorder=2)
            labels.append(Label(limit, 1.0, f"{limit:.3g} {prefix}".strip(), _BUDGET))
    return labels


def _draw_models(axes: Axes, report: FrontReport, unit: float) -> list[Label]:
    """Each exit on its own and the static reference; returns their labels."""
    exits, static = _exits_places(report, unit), _static_places(report, unit)
    told = "all images leave at one exit"
    axes.scatter(
        *_columns(exits), s=84, marker="s", color="white", edgecolors=_INK, linewidths=1.5, zorder=6, label=told
    )
    labels = [
        Label(cost, accuracy, f"exit {row.exit_index} · {row.token_grid}x{row.token_grid}", _INK)
        for row, (cost, accuracy) in zip(report.exits, exits, strict=True)
    ]
    if report.static_reference is not None:
        told = "static model, same recipe"
        axes.scatter(*_columns(static), s=190, marker="*", color=_STATIC, edgecolors="white", zorder=7, label=told)
        grid = report.static_reference.token_grid
        labels += [Label(cost, accuracy, f"static {grid}x{grid}", _STATIC) for cost, accuracy in static]
    return labels


def _columns(places: Sequence[_Place]) -> tuple[list[float], list[float]]:
    return [cost for cost, _ in places], [accuracy for _, accuracy in places]


def _use_font(figure: Figure) -> None:
    """One font for all texts, whatever a person's own Matplotlib settings are."""
    for text in figure.findobj(Text):
        text.set_fontfamily(_FONT)
