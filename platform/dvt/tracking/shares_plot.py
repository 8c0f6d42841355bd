"""The picture of who leaves where: each exit's share of the test images as a stacked area over the budget.

Shapes: E exits, P points of the curve.
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from dvt.exits import FrontReport
from dvt.tracking.front_labels import place_in_row
from dvt.tracking.front_places import FrontPlaces, places_over_macs
from dvt.tracking.front_plot import draw_limits
from dvt.tracking.picture_style import (
    exit_colours,
    fix_layout,
    ink_on,
    new_picture,
    set_costs,
    set_style,
    set_title,
    use_font,
)

_LEAST_TOLD = 5.0  # percent; a thinner area has no room for its number
_MOST_TOLD = 8  # budgets; the numbers of more would touch


def draw_shares(report: FrontReport) -> Figure:
    """Draw the share of test images that leaves at each exit, over the budget that thresholds were chosen for.

    Args:
        report: Its curve and, as dotted lines with the shares written on them, its budgets.

    Returns:
        A figure of the size of the front's, with the same cost axis, ready for `savefig`.
    """
    figure, axes = new_picture()
    places = places_over_macs(report)
    unit = report.exits[-1].macs / places.exits[-1][0]
    costs, shares = _curve(report, unit)
    colours = exit_colours(len(report.exits))
    axes.stackplot(
        costs, shares, labels=places.exit_names, colors=colours, edgecolor="white", linewidth=0.8, step="post"
    )
    set_costs(axes, float(costs[0]), float(costs[-1]), places.is_log)
    axes.set_ylim(0, 100)
    label = places.cost_label.replace("mean multiply-adds", "budget: mean multiply-adds")
    set_style(axes, label, "share of test images [%]")
    axes.grid(visible=False)
    set_title(axes, f"{report.recipe}: where images leave")
    figure.legend(loc="outside lower center", ncols=min(6, len(colours)), frameon=False, fontsize=9.5)
    fix_layout(figure)
    if len(report.budgets) <= _MOST_TOLD:
        place_in_row(axes, draw_limits(axes, places.limits, places.unit, zorder=4))
        _tell_shares(axes, report, places, unit)
    use_font(figure)
    return figure


def _curve(report: FrontReport, unit: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Budgets in the axis' unit, (P,), and percents, (E, P); a single point becomes a short level piece."""
    points = zip(report.calibration_front.points, report.test_points, strict=True)
    rows = [(chosen.macs / unit, *(100 * share for share in test.exit_shares)) for chosen, test in points]
    rows.append((max(report.exits[-1].macs / unit, rows[-1][0]), *rows[-1][1:]))  # a larger budget is not spent
    table = np.array(rows).T
    costs = table[0]
    if costs[0] == costs[-1]:
        costs = np.linspace(0.9, 1.1, len(costs)) * costs[0]
    return costs, table[1:]


def _tell_shares(axes: Axes, report: FrontReport, places: FrontPlaces, unit: float) -> None:
    """Write on each budget's line how many images leave at each exit."""
    colours = exit_colours(len(report.exits))
    for budget in report.budgets:
        ends = np.cumsum([0.0, *(100 * share for share in budget.test.exit_shares)])
        for colour, low, high in zip(colours, ends[:-1], ends[1:], strict=True):
            if high - low >= _LEAST_TOLD and budget.budget_macs / unit <= axes.get_xlim()[1]:
                axes.annotate(
                    f"{high - low:.0f} %",
                    (budget.budget_macs / unit, (low + high) / 2),
                    color=ink_on(colour),
                    fontsize=9.5,
                    ha="center",
                    va="center",
                    zorder=6,
                    bbox={"boxstyle": "round,pad=0.25", "facecolor": colour, "edgecolor": "none"},
                )
