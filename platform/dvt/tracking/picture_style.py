"""How all pictures look: size, colours, font, axes and titles.

Only Matplotlib's object interface is used: no figure is global, so pictures can be drawn in any thread.
"""

import math
import textwrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

SIZE_INCHES = (8.0, 5.4)
DPI = 200  # pixels an inch; the picture is 1600 x 1080

FONT = "DejaVu Sans"  # comes with Matplotlib, so pictures are the same on every machine
INK, MUTED, GRID = "#22272e", "#8a929c", "#e8ebee"
TEST, CALIBRATION, BUDGET, STATIC = "#1f5fa8", "#6f9fd0", "#d96c00", "#b3261e"
DASHED, DOTTED = (0, (5, 3)), (0, (1, 2))
_EXITS = ("#bcd7f0", "#4c87c4", "#123a6b")  # of the first, the middle and the last exit
_MANTISSAS = ((1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0), (1.0, 2.0, 3.0, 5.0), (1.0, 2.0, 5.0), (1.0,))  # fine to coarse
_MOST_TICKS = 9
_TITLE_PAD = 22.0  # points; leaves a row for the budgets
_TITLE_LETTERS = 54  # a line of the title


def new_picture() -> tuple[Figure, Axes]:
    """An empty picture of the usual size, and its only axes."""
    layout = ConstrainedLayoutEngine(w_pad=0.14, h_pad=0.12)  # inches
    figure = Figure(figsize=SIZE_INCHES, dpi=DPI, layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot(facecolor="white")


def set_title(axes: Axes, title: str) -> None:
    """A title that leaves a row for the budgets."""
    told = textwrap.fill(title, _TITLE_LETTERS)
    axes.set_title(told, loc="left", pad=_TITLE_PAD, fontsize=13, color=INK, fontweight="bold", parse_math=False)


def fix_layout(figure: Figure) -> None:
    """Make the layout, which the places of labels depend on, and keep it."""
    use_font(figure)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def set_costs(axes: Axes, low: float, high: float, is_log: bool) -> None:
    """Limits of the cost axis, and round ticks."""
    if is_log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(_log_ticks(low, high)))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda cost, _: f"{cost:g}"))
    axes.set_xlim(low, high)


def set_percents(axes: Axes, bottom: float, top: float) -> None:
    """Limits of an axis of percents with room around what is drawn, and round ticks."""
    room = max(top - bottom, 2.0)  # percentage points; a flat curve is not blown up until it looks steep
    margin = 0.14 * room + (room - (top - bottom)) / 2
    axes.set_ylim(max(bottom - margin, -0.05 * room), min(top + margin, 100 + 0.05 * room))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10]))


def set_style(axes: Axes, cost_label: str, other_label: str) -> None:
    """Names of the axes, a quiet grid, and no frame."""
    axes.set_xlabel(cost_label, color=INK, fontsize=10.5)
    axes.set_ylabel(other_label, color=INK, fontsize=10.5)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(color=MUTED, labelcolor=INK, labelsize=9.5, labelfontfamily=FONT)
    for side, spine in axes.spines.items():
        spine.set(visible=side in ("left", "bottom"), color=MUTED)


def use_font(figure: Figure) -> None:
    """One font for all texts, whatever a person's own Matplotlib settings are."""
    for text in figure.findobj(Text):
        text.set_fontfamily(FONT)


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


def exit_colours(num_exits: int) -> list[str]:
    """A colour for each exit, light and cheap to dark and dear; the same in all pictures."""
    stops = np.array([[int(colour[at : at + 2], 16) for at in (1, 3, 5)] for colour in _EXITS])  # (3, 3)
    steps = np.linspace(0, 2, num_exits) if num_exits > 1 else np.array([1.0])
    parts = [np.interp(steps, (0, 1, 2), channel) for channel in stops.T]
    mixed = np.rint(parts).astype(int).T  # (E, 3)
    return ["#" + "".join(f"{part:02x}" for part in colour) for colour in mixed]


def ink_on(colour: str) -> str:
    """The colour of text that can be read on a colour of `exit_colours`."""
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return INK if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "#ffffff"
