"""Pictures of a search: its front over all trials' fronts, what the compute bought, and which choices mattered."""

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dvt.search.importance import importances, varied_features
from dvt.search.results import SearchResult, TrialResult
from dvt.tracking.picture_style import (
    BUDGET,
    DASHED,
    DOTTED,
    INK,
    MUTED,
    STATIC,
    TEST,
    exit_colours,
    fix_layout,
    new_picture,
    set_costs,
    set_style,
    set_title,
    use_font,
)

_OTHERS = "#c3c9d0"  # trials that are not on the front
_ROOM = 0.04  # between the numbers of two trials, as a share of the picture's width; closer ones would touch
_UNITS = {"macs": (("G", 1e9), ("M", 1e6), ("k", 1e3)), "ms": (("ms", 1.0),)}


def draw_search_front(result: SearchResult) -> Figure:
    """Draw the front of all finished trials over their own fronts, with the reference's.

    Args:
        result: What a search found; without a finished trial the picture only says so.
    """
    figure, axes = new_picture()
    unit, size = _unit(result)
    label = f"mean multiply-adds an image [{unit}]" if result.budgets.unit == "macs" else "mean time an image [ms]"
    set_style(axes, label, "top-1 on validation images [%]")
    low, high = result.budgets.low / size, result.budgets.high / size
    set_costs(axes, low / (high / low) ** 0.06, high * (high / low) ** 0.06, is_log=True)
    set_title(axes, f"{result.name}: the front of {len(result.finished)} trials")
    on_front = {point.trial for point in result.front}
    told = "other trials"
    for trial in result.finished:
        is_reference = trial.number == result.reference
        if not is_reference:
            _draw_steps(axes, *_columns(trial, size), color=_OTHERS, linewidth=0.9, zorder=2, label=told, end=high)
            told = "_" + told.lstrip("_")  # named once
    for trial in result.finished:
        if trial.number == result.reference:
            name = f"first point (trial {trial.number})"
            _draw_steps(axes, *_columns(trial, size), color=STATIC, linewidth=1.6, zorder=4, label=name, end=high)
    if result.front:
        costs = [point.macs / size for point in result.front]
        accuracies = [100 * point.accuracy for point in result.front]
        _draw_steps(axes, costs, accuracies, color=TEST, linewidth=2.4, zorder=5, label="the search's front", end=high)
        _name_trials(axes, result, size)
    for budget in (low, high):
        axes.axvline(budget, color=BUDGET, linewidth=1.0, linestyle=DOTTED, zorder=1)
    _finish(figure, axes, is_empty=not on_front)
    return figure


def draw_hypervolume(result: SearchResult) -> Figure:
    """Draw the best hypervolume so far over the compute spent, in the order of suggestion."""
    figure, axes = new_picture()
    set_style(axes, "compute spent [worker-hours]", "hypervolume [% of the area]")
    set_title(axes, f"{result.name}: what the compute bought")
    trials = [trial for trial in result.trials if trial.epochs]
    hours = [spent / 3600 for spent in accumulate(trial.train_s for trial in trials)]
    values = [100 * trial.epochs[-1].hypervolume for trial in trials]

    def columns(state: str) -> tuple[list[float], list[float]]:
        places = zip(trials, hours, values, strict=True)
        kept = [(hour, value) for trial, hour, value in places if trial.state == state]
        return [hour for hour, _ in kept], [value for _, value in kept]

    for state, marker, colour in (("finished", "o", TEST), ("stopped", "x", MUTED), ("failed", "v", STATIC)):
        xs, ys = columns(state)
        if xs:
            axes.scatter(xs, ys, s=26, marker=marker, color=colour, zorder=3, label=f"{state} trials")
    xs, ys = columns("finished")
    if xs:
        best = list(accumulate(ys, max))
        steps = [*xs, hours[-1]], [*best, best[-1]]
        axes.step(*steps, where="post", color=TEST, linewidth=2, zorder=4, label="best so far")
    for trial in trials:
        if trial.number == result.reference and trial.state == "finished":
            level = 100 * trial.epochs[-1].hypervolume
            axes.axhline(level, color=STATIC, linewidth=1.2, linestyle=DASHED, zorder=2, label="first point")
    axes.set_xlim(left=0)
    axes.margins(y=0.12)
    _finish(figure, axes, is_empty=not trials)
    return figure


def draw_importances(result: SearchResult) -> Figure:
    """Draw how much of the difference in hypervolume each choice explains."""
    figure, axes = new_picture()
    shares = importances(result.finished)
    set_style(axes, "share of the difference in hypervolume explained [%]", "")
    set_title(axes, f"{result.name}: which choices mattered")
    names = list(shares)[::-1]
    values = [100 * shares[name] for name in names]
    bars = axes.barh(names, values, color=TEST, height=0.62, zorder=3)
    axes.bar_label(bars, [f"{value:.0f} %" for value in values], padding=4, color=INK, fontsize=9.5)
    axes.margins(x=0.1)
    axes.grid(visible=False, axis="y")
    _finish(figure, axes, is_empty=not shares, has_legend=False, told="too few trials were trained to the end to tell")
    return figure


def draw_parallel(result: SearchResult) -> Figure:
    """Draw each finished trial as a line through its choices, the best ones dark."""
    figure, axes = new_picture()
    trials = result.finished
    columns = varied_features(trials)
    axes.axis("off")
    set_title(axes, f"{result.name}: the choices of {len(trials)} trials, dark where the hypervolume is large")
    if not columns or len(trials) < 2:
        _finish(figure, axes, is_empty=True, has_legend=False, told="too few trials were trained to the end to compare")
        return figure
    values = [trial.epochs[-1].hypervolume for trial in trials]
    columns |= {"hypervolume": tuple(values)}
    places = np.array([_spread(column) for column in columns.values()]).T  # (trials, columns)
    colours = exit_colours(len(trials))
    for rank, index in enumerate(np.argsort(values)):
        axes.plot(places[index], color=colours[rank], linewidth=1.6, alpha=0.9, zorder=2 + rank / len(trials))
    for place, (name, column) in enumerate(columns.items()):
        axes.vlines(place, 0, 1, color=MUTED, linewidth=1, zorder=1)
        for level, value in ((-0.04, min(column)), (1.04, max(column))):
            side = "top" if level < 0 else "bottom"
            axes.text(place, level, f"{value:.3g}", color=INK, fontsize=9, ha="center", va=side)
        told = name.replace(" ", "\n").replace(".", ".\n")
        axes.text(place, -0.12, told, color=INK, fontsize=9, ha="center", va="top")
    axes.set_ylim(-0.32, 1.1)
    axes.set_xlim(-0.4, len(columns) - 0.6)
    _finish(figure, axes, is_empty=False, has_legend=False)
    return figure


def _spread(column: Sequence[float]) -> list[float]:
    """A column from 0 to 1, in log where it spans about a decade."""
    low, high = min(column), max(column)
    if high == low:
        return [0.5] * len(column)
    if low > 0 and high / low >= 8:
        return [math.log(value / low) / math.log(high / low) for value in column]
    return [(value - low) / (high - low) for value in column]


def _name_trials(axes: Axes, result: SearchResult, size: float) -> None:
    """Mark where another trial takes over on the front, and write its number."""
    points = result.front
    starts = [point for index, point in enumerate(points) if index == 0 or points[index - 1].trial != point.trial]
    axes.scatter(
        [point.macs / size for point in starts],
        [100 * point.accuracy for point in starts],
        s=30, color=TEST, edgecolors="white", zorder=6, label="another trial takes over",
    )  # fmt: skip
    named = -math.inf
    for point in starts:
        at = math.log(point.macs) / math.log(result.budgets.high / result.budgets.low)
        if at - named < _ROOM:
            continue
        named = at
        place = (point.macs / size, 100 * point.accuracy)
        style: dict[str, Any] = {"fontsize": 9, "color": INK, "zorder": 7}
        axes.annotate(str(point.trial), place, (-4, 6), textcoords="offset points", ha="right", **style)


def _draw_steps(axes: Axes, costs: Sequence[float], accuracies: Sequence[float], *, end: float, **style: Any) -> None:
    """A front as steps: between two points the cheaper one is the best there is."""
    if costs and costs[0] <= end:
        axes.step([*costs, max(end, costs[-1])], [*accuracies, accuracies[-1]], where="post", **style)


def _columns(trial: TrialResult, size: float) -> tuple[list[float], list[float]]:
    points = trial.epochs[-1].front.points
    return [point.macs / size for point in points], [100 * point.accuracy for point in points]


def _unit(result: SearchResult) -> tuple[str, float]:
    units = _UNITS[result.budgets.unit]
    return next(((name, size) for name, size in units if result.budgets.high >= size), units[-1])


def _finish(figure: Figure, axes: Axes, *, is_empty: bool, has_legend: bool = True, told: str = "") -> None:
    if is_empty:
        told = told or "no trial was trained to the end yet"
        axes.axis("off")
        axes.text(0.5, 0.5, told, transform=axes.transAxes, ha="center", va="center", color=MUTED, fontsize=11)
    elif has_legend:
        axes.yaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10]))
        figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9, labelcolor=INK, columnspacing=1.6)
    fix_layout(figure)
    use_font(figure)
