"""Pictures of a search: its front over all trials' fronts, what the compute bought, and which choices mattered."""

import math
import re
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from dvt.search.importance import importances, varied_features
from dvt.search.results import SearchResult
from dvt.tracking.front_labels import place_in_row
from dvt.tracking.front_places import MACS_UNITS, Place, unit_of
from dvt.tracking.front_plot import draw_limits
from dvt.tracking.picture_style import (
    CALIBRATION,
    DASHED,
    GRID,
    INK,
    MUTED,
    STATIC,
    TEST,
    exit_colours,
    fix_layout,
    new_picture,
    set_costs,
    set_percents,
    set_style,
    set_title,
    use_font,
)

_OTHERS = "#c3c9d0"  # trials that are not on the front
_ROOM = 0.04  # between the numbers of two trials, as a share of the picture's width; closer ones would touch
_MOST_WIDE_COLUMNS = 11  # of parallel coordinates; the names of more would touch
_NONE_ENDED = "no trial was trained to the end yet"
_STATES = {"finished": ("o", TEST), "stopped": ("x", MUTED), "running": ("^", CALIBRATION), "failed": ("v", STATIC)}


def draw_search_front(result: SearchResult) -> Figure:
    """Draw the front of all finished trials over their own fronts, with the reference's.

    Args:
        result: What a search found; without a point within the largest budget the picture only says so.
    """
    figure, axes = new_picture()
    set_title(axes, f"{result.name}: the front of {_counted(len(result.finished))}")
    if not result.front:
        dear = "no trial that was trained to the end has a point within the largest budget"
        return _say(figure, axes, dear if result.finished else _NONE_ENDED)
    unit, size, label = _cost_axis(result)
    set_style(axes, label, "top-1 on validation images [%]")
    limits = result.budgets.low / size, result.budgets.high / size
    margin = (limits[1] / limits[0]) ** 0.06
    set_costs(axes, limits[0] / margin, limits[1] * margin, is_log=True)
    levels = _draw_fronts(axes, result, size, limits[1])
    set_percents(axes, min(levels), max(levels))
    for outside in ((limits[0] / margin, limits[0]), (limits[1], limits[1] * margin)):
        axes.axvspan(*outside, color=GRID, alpha=0.6, linewidth=0, zorder=0)
    _name_trials(axes, result, size)
    budgets = draw_limits(axes, limits, unit, zorder=1)
    _finish(figure)
    place_in_row(axes, budgets)
    use_font(figure)
    return figure


def draw_hypervolume(result: SearchResult) -> Figure:
    """Draw the best hypervolume so far over the compute spent, in the order of suggestion.

    Args:
        result: What a search found; without an epoch of any trial the picture only says so.
    """
    figure, axes = new_picture()
    set_title(axes, f"{result.name}: what the compute bought")
    trials = [trial for trial in result.trials if trial.epochs]
    if not trials:
        return _say(figure, axes, "no trial was trained for an epoch yet")
    set_style(axes, "compute spent [worker-hours]", "hypervolume [% of the area]")
    before = result.shared.spent_s if result.shared else 0.0
    hours = [spent / 3600 for spent in accumulate((trial.train_s for trial in trials), initial=before)][1:]
    values = [100 * trial.epochs[-1].hypervolume for trial in trials]
    places = list(zip(trials, hours, values, strict=True))
    for state, (marker, colour) in _STATES.items():
        kept = [(hour, value) for trial, hour, value in places if trial.state == state]
        if kept:
            axes.scatter(*_columns(kept), s=26, marker=marker, color=colour, zorder=5, label=f"{state} trials")
    any_best = list(accumulate(values, max))
    ended_best = list(accumulate((value if trial.state == "finished" else 0.0 for trial, _, value in places), max))
    if any_best != ended_best:  # else one would hide the other
        style: dict[str, Any] = {"color": CALIBRATION, "linewidth": 1.2, "linestyle": DASHED, "zorder": 3}
        axes.step(hours, any_best, where="post", label="best of any so far", **style)
    if before > 0:
        axes.axvspan(
            0, before / 3600, color=GRID, alpha=0.6, linewidth=0, zorder=0, label="shared weights, trained and measured"
        )
    first = next((index for index, trial in enumerate(trials) if trial.state == "finished"), None)
    if first is not None:
        style = {"color": TEST, "linewidth": 2, "zorder": 4}
        axes.step(hours[first:], ended_best[first:], where="post", label="best finished so far", **style)
    for trial, _, value in places:
        if trial.number == result.reference and trial.state == "finished":
            axes.axhline(value, color=STATIC, linewidth=1.2, linestyle=DASHED, zorder=2, label="first point")
    axes.set_xlim(0, 1.05 * hours[-1] or 1.0)  # an axis needs a length, also where no time was spent
    set_percents(axes, min(values), max(values))
    _finish(figure)
    return figure


def draw_importances(result: SearchResult) -> Figure:
    """Draw how much of the difference in hypervolume each choice explains."""
    figure, axes = new_picture()
    set_title(axes, f"{result.name}: which choices mattered")
    shares = importances(result.finished)
    if not shares:
        return _say(figure, axes, "too few trials were trained to the end to tell, or they differ too little")
    set_style(axes, "share of the difference in hypervolume explained [%]", "")
    names = list(shares)[::-1]
    values = [100 * shares[name] for name in names]
    bars = axes.barh(names, values, color=TEST, height=0.62, zorder=3)
    axes.bar_label(bars, [f"{value:.0f} %" for value in values], padding=4, color=INK, fontsize=9.5)
    axes.margins(x=0.1)
    axes.grid(visible=False, axis="y")
    _finish(figure, has_legend=False)
    return figure


def draw_parallel(result: SearchResult) -> Figure:
    """Draw each finished trial as a line through its choices, the best ones dark."""
    figure, axes = new_picture()
    trials = result.finished
    set_title(axes, f"{result.name}: the choices of {_counted(len(trials))}, dark where the hypervolume is large")
    columns = varied_features(trials)
    if not columns:
        return _say(figure, axes, "too few trials were trained to the end to compare, or their choices are the same")
    axes.axis("off")
    values = [trial.epochs[-1].hypervolume for trial in trials]
    columns |= {"hypervolume": tuple(values)}
    places = np.array([_spread(column) for column in columns.values()]).T  # (trials, columns)
    colours = exit_colours(len(trials))
    for rank, index in enumerate(np.argsort(values, kind="stable")):
        axes.plot(places[index], color=colours[rank], linewidth=1.6, alpha=0.9, zorder=2 + rank / len(trials))
    size = 9 if len(columns) <= _MOST_WIDE_COLUMNS else 7.5
    for place, (name, column) in enumerate(columns.items()):
        axes.vlines(place, 0, 1, color=MUTED, linewidth=1, zorder=1)
        for level, value in ((-0.04, min(column)), (1.04, max(column))):
            side = "top" if level < 0 else "bottom"
            axes.text(place, level, f"{value:.3g}", color=INK, fontsize=size, ha="center", va=side)
        told = re.sub("(?<=[._])", "\n", name.replace(" ", "\n").replace("hypervolume", "hyper-\nvolume"))
        axes.text(place, -0.12, told, color=INK, fontsize=size, ha="center", va="top")
    axes.set_ylim(-0.32, 1.1)
    axes.set_xlim(-0.4, len(columns) - 0.6)
    _finish(figure, has_legend=False)
    return figure


def _spread(column: Sequence[float]) -> list[float]:
    """A column from 0 to 1, in log where it spans about a decade."""
    low, high = min(column), max(column)
    if high == low:
        return [0.5] * len(column)
    if low > 0 and high / low >= 8:
        return [math.log(value / low) / math.log(high / low) for value in column]
    return [(value - low) / (high - low) for value in column]


def _draw_fronts(axes: Axes, result: SearchResult, size: float, end: float) -> list[float]:
    """The front over those of the trials it is of; returns the accuracies in the picture, in percent."""
    drawn = []
    told = "other trials"
    for trial in result.finished:
        points = [(point.macs / size, 100 * point.accuracy) for point in trial.epochs[-1].front.points]
        points = [(cost, accuracy) for cost, accuracy in points if cost <= end]
        drawn += [accuracy for _, accuracy in points]
        if trial.number == result.reference:
            name = f"first point (trial {trial.number})"
            _draw_steps(axes, points, end, color=STATIC, linewidth=1.6, zorder=4, label=name)
        else:
            _draw_steps(axes, points, end, color=_OTHERS, linewidth=0.9, zorder=2, label=told)
            told = "_" + told.lstrip("_")  # named once
    points = [(point.macs / size, 100 * point.accuracy) for point in result.front]
    _draw_steps(axes, points, end, color=TEST, linewidth=2.4, zorder=5, label="the search's front")
    return drawn


def _name_trials(axes: Axes, result: SearchResult, size: float) -> None:
    """Mark where another trial takes over on the front, and write each trial's number where it leads longest."""
    points = result.front
    starts = [point for index, point in enumerate(points) if index == 0 or points[index - 1].trial != point.trial]
    places = [(point.macs / size, 100 * point.accuracy) for point in starts]
    axes.scatter(*_columns(places), s=30, color=TEST, edgecolors="white", zorder=6, label="another trial takes over")
    budgets = result.budgets
    whole = math.log(budgets.high / budgets.low)
    at = [math.log(point.macs / budgets.low) / whole for point in starts]
    lengths = [after - before for before, after in pairwise([*at, 1.0])]
    named: dict[int, float] = {}  # by trial, where
    for index in sorted(range(len(starts)), key=lambda index: -lengths[index]):
        trial = starts[index].trial
        if trial in named or any(abs(at[index] - other) < _ROOM for other in named.values()):
            continue
        named[trial] = at[index]
        style: dict[str, Any] = {"fontsize": 9, "color": INK, "zorder": 7, "ha": "right"}
        # Up and left of a point of the front there is no other curve.
        text = axes.annotate(str(trial), places[index], (-4, 6), textcoords="offset points", **style)
        text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])


def _draw_steps(axes: Axes, points: Sequence[Place], end: float, **style: Any) -> None:
    """A front as steps: between two points the cheaper one is the best there is."""
    if points:
        costs, accuracies = _columns(points)
        axes.step([*costs, end], [*accuracies, accuracies[-1]], where="post", **style)


def _columns(places: Sequence[Place]) -> tuple[list[float], list[float]]:
    return [across for across, _ in places], [up for _, up in places]


def _cost_axis(result: SearchResult) -> tuple[str, float, str]:
    """What is written behind a cost, how much one of it is, and what the axis says."""
    if result.budgets.unit == "ms":
        return "ms", 1.0, "mean time per image [ms]"
    size, unit = unit_of(result.budgets.high, MACS_UNITS)
    return unit, size, "mean multiply-adds per image" + (f" [{unit}]" if unit else "")


def _counted(count: int) -> str:
    return f"{count} trial{'' if count == 1 else 's'}"


def _say(figure: Figure, axes: Axes, told: str) -> Figure:
    """A picture that has nothing to show but why."""
    axes.axis("off")
    axes.text(0.5, 0.5, told, transform=axes.transAxes, ha="center", va="center", color=MUTED, fontsize=11)
    _finish(figure, has_legend=False)
    return figure


def _finish(figure: Figure, *, has_legend: bool = True) -> None:
    if has_legend:
        figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9, labelcolor=INK, columnspacing=1.6)
    fix_layout(figure)
    use_font(figure)
