"""The contact sheet: test images by the exit they left at, easy ones on the left and hard ones on the right.

After figure 8 of Wang et al., "Not All Images are Worth 16x16 Words", NeurIPS 2021: a row a class, a column an exit.

Shapes: E exits, N images, n images of a cell, S image side, c channels.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from dvt.tracking.picture_style import DPI, GRID, INK, MUTED, SIZE_INCHES, exit_colours, ink_on, use_font

NUM_CLASSES = 6
IMAGES_A_ROW = 12  # over all exits together
_NAME, _MARGIN, _GAP = 1.05, 0.2, 0.14  # inches: room for class names, around everything, between exits
_HEAD, _FOOT = 1.12, 0.38  # inches above and below the images
_TILE_GAP = 0.05  # between images, as a share of their side
_NAME_LETTERS, _NAME_LINES = 13, 3  # of a class name


@dataclass(frozen=True)
class ExampleRow:
    """The images chosen of one class."""

    label: int
    indices: tuple[tuple[int, ...], ...]  # (E,), the images of each exit; an exit may have none


@dataclass(frozen=True)
class ContactSheet:
    """What there is to draw."""

    title: str
    headings: tuple[tuple[str, str], ...]  # (E,), the exit and what is to be said of it
    row_names: tuple[str, ...]
    cells: tuple[tuple[NDArray[np.uint8], ...], ...]  # rows x E, each (n, S, S, c)
    images_a_cell: int


def choose_examples(
    labels: NDArray[np.int64], exits: NDArray[np.int64], correct: NDArray[np.bool_], num_exits: int, *, seed: int = 0
) -> tuple[ExampleRow, ...]:
    """Choose classes that have images at every exit, as far as there are, and images of them, at random.

    Args:
        labels: (N,), the class of each image.
        exits: (N,), the exit that each leaves at, from 0.
        correct: (N,), whether it is classified correctly there; only such images are chosen.
        num_exits: E.
        seed: Seed of the choice.

    Returns:
        At most `NUM_CLASSES` rows, by label.
    """
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(labels))
    order = order[correct[order]]
    per_cell = images_a_cell(num_exits)
    found: dict[int, list[list[int]]] = {}
    for index in order.tolist():
        cells = found.setdefault(int(labels[index]), [[] for _ in range(num_exits)])
        if len(cells[exits[index]]) < per_cell:
            cells[exits[index]].append(index)
    # The fullest rows, counting exits first; of equally full ones those that came first in the random order.
    fullest = sorted(found, key=lambda label: [-sum(map(bool, found[label])), -sum(map(len, found[label]))])
    chosen = sorted(fullest[:NUM_CLASSES])
    return tuple(ExampleRow(label, tuple(map(tuple, found[label]))) for label in chosen)


def images_a_cell(num_exits: int) -> int:
    """How many images of a class are shown for each exit."""
    return max(1, IMAGES_A_ROW // num_exits)


def draw_contact_sheet(sheet: ContactSheet) -> Figure:
    """Draw a contact sheet.

    Args:
        sheet: The images and what is said of them; there must be at least one row.

    Returns:
        A figure as wide as the front's, as high as it needs, ready for `savefig`.
    """
    num_exits = len(sheet.headings)
    width = SIZE_INCHES[0]
    cell = (width - _NAME - _MARGIN - _GAP * (num_exits - 1)) / num_exits  # inches
    tile = cell / (sheet.images_a_cell + _TILE_GAP * (sheet.images_a_cell - 1))
    row = tile * (1 + 2 * _TILE_GAP)
    height = _HEAD + row * len(sheet.row_names) + _FOOT
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    figure.text(_MARGIN / width, 1 - 0.3 / height, sheet.title, fontsize=13, fontweight="bold", color=INK, va="center")
    for index, colour in enumerate(exit_colours(num_exits)):
        left = _NAME + index * (cell + _GAP)
        _draw_heading(figure, sheet.headings[index], colour, (left / width, cell / width))
        for number, cells in enumerate(sheet.cells):
            bottom = height - _HEAD - row * number - tile
            _draw_cell(figure, cells[index], sheet.images_a_cell, (left, bottom, cell, tile))
    for number, name in enumerate(sheet.row_names):
        middle = height - _HEAD - row * number - tile / 2
        told = textwrap.fill(textwrap.shorten(name, _NAME_LETTERS * _NAME_LINES, placeholder=" ..."), _NAME_LETTERS)
        figure.text((_NAME - 0.12) / width, middle / height, told, fontsize=9.5, color=INK, ha="right", va="center")
    told = "Test images that were classified correctly where they left, chosen at random."
    figure.text(_NAME / width, 0.18 / height, told, fontsize=8.5, color=MUTED, va="center")
    use_font(figure)
    return figure


def _draw_heading(figure: Figure, heading: tuple[str, str], colour: str, span: tuple[float, float]) -> None:
    """A coloured bar with the exit's name, and what is said of it below; `span` is left and width."""
    left, width = span
    height = figure.get_figheight()
    bar = Rectangle((left, 1 - 0.8 / height), width, 0.25 / height, transform=figure.transFigure, color=colour)
    figure.add_artist(bar)
    name, told = heading
    middle = left + width / 2
    figure.text(middle, 1 - 0.68 / height, name, fontsize=9.5, color=ink_on(colour), ha="center", va="center")
    figure.text(middle, 1 - 0.94 / height, told, fontsize=8.5, color=INK, ha="center", va="center")


def _draw_cell(figure: Figure, images: NDArray[np.uint8], count: int, place: tuple[float, float, float, float]) -> None:
    """Images side by side; `place` is left, bottom, width and height in inches."""
    left, bottom, width, height = place
    size = figure.get_size_inches()
    axes = figure.add_axes((left / size[0], bottom / size[1], width / size[0], height / size[1]))
    axes.set_axis_off()
    axes.set_xlim(0, count + _TILE_GAP * (count - 1))
    axes.set_ylim(0, 1)
    for index in range(count):
        start = index * (1 + _TILE_GAP)
        if index < len(images):
            image = images[index] if images.shape[-1] == 3 else images[index].repeat(3, axis=-1)  # (S, S, 3)
            axes.imshow(image, extent=(start, start + 1, 0, 1), aspect="auto", interpolation="antialiased")
        else:
            axes.add_patch(Rectangle((start, 0), 1, 1, color=GRID, linewidth=0))


def heading_of(exit_index: int, token_grid: int, macs: str, share: float) -> tuple[str, str]:
    """What stands above the images of an exit.

    Args:
        exit_index: From 1.
        token_grid: Tokens a side.
        macs: What an image costs that leaves there, as a person reads it.
        share: Of all test images, from 0 to 1.
    """
    return f"exit {exit_index} · {token_grid}x{token_grid}", f"{macs} · {100 * share:.1f} % of images"


def as_pixels(images: NDArray[np.float32], mean: Sequence[float], std: Sequence[float]) -> NDArray[np.uint8]:
    """Normalised images, (n, c, S, S), as they look: (n, S, S, c) from 0 to 255."""
    spread, middle = (np.asarray(values, dtype=np.float32)[:, None, None] for values in (std, mean))
    pixels = np.rint((images * spread + middle) * 255).clip(0, 255).astype(np.uint8)
    return np.moveaxis(pixels, 1, -1)
