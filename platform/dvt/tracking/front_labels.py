"""Places for the labels of a picture: beside their points, covering neither curves, markers nor each other.

All distances are in points, 1/72 inch. The axes must have their final layout: places are found in pixels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

_FONT_SIZE = 9.5
_MARKER_RADIUS = 7.0  # how far from its point a label starts, and how much of the picture a marker covers
_CURVE_RADIUS = 2.5  # how close to a curve a label may come
_CURVE_SAMPLES = 60  # a straight piece of a curve is looked at in so many places
_ROW_GAP = 4.0  # least distance between two labels of a row

# Sides of a point that a label can stand on, the most usual first: fronts rise to the right, so there is room below.
_SIDES = ((1, -1), (1, 0), (0, -1), (-1, -1), (-1, 0), (1, 1), (0, 1), (-1, 1))
_DISTANCES = (1.3, 2.0, 3.5)  # in marker radii
_HORIZONTAL = {-1: "right", 0: "center", 1: "left"}
_VERTICAL = {-1: "top", 0: "center", 1: "bottom"}


@dataclass(frozen=True)
class Label:
    """A text that belongs to a point of the picture."""

    x: float  # in data coordinates
    y: float  # in data coordinates
    text: str
    colour: str


def place_beside(axes: Axes, labels: Sequence[Label], curves: Sequence[tuple[tuple[float, float], ...]]) -> None:
    """Write each label on the side of its point where it covers least.

    Args:
        axes: Where the points are drawn.
        labels: The labels, the most important first.
        curves: Straight pieces, each as its two ends in data coordinates.
    """
    point = _pixels_per_point(axes)
    marked = _pixels(axes, [(label.x, label.y) for label in labels])
    blocked = [_square(x, y, _MARKER_RADIUS * point) for x, y in marked]
    blocked += [_square(x, y, _CURVE_RADIUS * point) for x, y in _along(axes, curves)]
    for label in labels:
        text = axes.annotate(label.text, (label.x, label.y), color=label.colour, fontsize=_FONT_SIZE, zorder=8)
        text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
        blocked.append(_choose_side(axes, text, blocked))


def place_in_row(axes: Axes, labels: Sequence[Label]) -> None:
    """Write labels in a row above the axes, from left to right, leaving out those that would touch the one before."""
    end = -np.inf
    for label in sorted(labels, key=lambda label: label.x):
        text = axes.annotate(
            label.text, (label.x, 1.0), xycoords=axes.get_xaxis_transform(), color=label.colour, fontsize=8.5
        )
        _move(text, (0, 1), 2.0)
        box = _extent(axes, text)
        if box.x0 < end + _ROW_GAP * _pixels_per_point(axes):
            text.remove()
        else:
            end = box.x1


def _choose_side(axes: Axes, text: Annotation, blocked: Sequence[Bbox]) -> Bbox:
    """Move a text to its best side; returns what it covers there."""
    best, fewest = None, np.inf
    for distance, side in _sides():
        _move(text, side, distance)
        box = _extent(axes, text)
        covered = box.count_overlaps(blocked) + 1000 * (not _is_inside(box, axes.bbox))
        if covered < fewest:
            best, fewest = (side, distance, box), covered
    assert best is not None  # the loop has run, and every count is finite
    side, distance, box = best
    _move(text, side, distance)
    return box


def _sides() -> Iterator[tuple[float, tuple[int, int]]]:
    """Distances and sides to try: all sides near the point, then farther off."""
    for distance in _DISTANCES:
        for side in _SIDES:
            yield distance * _MARKER_RADIUS, side


def _move(text: Annotation, side: tuple[int, int], distance: float) -> None:
    text.set_anncoords("offset points")
    across, up = side
    slant = 0.75 if across and up else 1.0  # a corner is nearer to the text's middle than a side is
    text.set_position((across * distance * slant, up * distance * slant))
    text.set(horizontalalignment=_HORIZONTAL[across], verticalalignment=_VERTICAL[up])


def _along(axes: Axes, curves: Sequence[tuple[tuple[float, float], ...]]) -> list[tuple[float, float]]:
    """Places in pixels along straight pieces, which are straight in pixels too."""
    steps = np.linspace(0, 1, _CURVE_SAMPLES)[:, None]
    places: list[tuple[float, float]] = []
    for piece in curves:
        (x0, y0), (x1, y1) = _pixels(axes, piece)
        along = np.array([x0, y0]) * (1 - steps) + np.array([x1, y1]) * steps
        places += [(float(x), float(y)) for x, y in along]
    return places


def _pixels(axes: Axes, places: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in axes.transData.transform(np.array(places, dtype=float).reshape(-1, 2))]


def _pixels_per_point(axes: Axes) -> float:
    return axes.get_figure(root=True).dpi / 72  # type: ignore[union-attr]


def _square(x: float, y: float, radius: float) -> Bbox:
    return Bbox.from_extents(x - radius, y - radius, x + radius, y + radius)


def _extent(axes: Axes, text: Annotation) -> Bbox:
    canvas = axes.figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    return text.get_window_extent(canvas.get_renderer())  # type: ignore[no-untyped-call]


def _is_inside(box: Bbox, frame: Bbox) -> bool:
    return bool(frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1)
