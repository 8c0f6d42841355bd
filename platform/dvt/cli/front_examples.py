"""The contact sheet of a trained cascade: test images by the exit they leave at with the thresholds of one budget.

Shapes: E exits, N test images.
"""

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from dvt.data import DataSets
from dvt.exits import ExitScores, FrontReport, exit_indices
from dvt.models.told_amounts import told_macs
from dvt.tracking.contact_sheet import (
    ContactSheet,
    ExampleRow,
    as_pixels,
    choose_examples,
    draw_contact_sheet,
    heading_of,
    images_a_cell,
)


def sheet_budget(report: FrontReport, asked: float | None) -> float:
    """The budget to show images for: the one asked for, else the middle one of those reported."""
    if asked is not None:
        return asked
    budgets = sorted(budget.budget_macs for budget in report.budgets)
    return budgets[len(budgets) // 2]


def draw_examples(
    report: FrontReport, budget_macs: float, data: DataSets, scores: ExitScores, labels: NDArray[np.int64]
) -> Figure | None:
    """Draw test images by the exit they leave at; None where not one is classified correctly.

    Args:
        report: Its calibration front has the thresholds.
        budget_macs: Mean multiply-adds an image that may be spent.
        data: Its test images are shown.
        scores: Of the test images.
        labels: (N,), of the test images.

    Raises:
        ConfigError: If the budget is below the first exit's cost.
        DataError: If an image cannot be read.
    """
    chosen = report.calibration_front.at_budget(budget_macs)
    exits = exit_indices(scores.confidence, chosen.thresholds)
    correct = scores.correct[exits, np.arange(scores.num_images)]
    rows = choose_examples(labels, exits, correct, scores.num_exits)
    if not rows:
        return None
    shares = np.bincount(exits, minlength=scores.num_exits) / scores.num_images
    return draw_contact_sheet(
        ContactSheet(
            title=f"{report.recipe}: from easy to hard, at {told_macs(budget_macs)} multiply-adds",
            headings=tuple(
                heading_of(row.exit_index, row.token_grid, f"{told_macs(row.macs)} MACs", share)
                for row, share in zip(report.exits, shares.tolist(), strict=True)
            ),
            row_names=tuple(data.class_names[row.label] for row in rows),
            cells=tuple(_read_row(data, row) for row in rows),
            images_a_cell=images_a_cell(scores.num_exits),
        )
    )


def _read_row(data: DataSets, row: ExampleRow) -> tuple[NDArray[np.uint8], ...]:
    """The images of a row as they look, one array an exit."""
    indices = [index for cell in row.indices for index in cell]
    pixels = as_pixels(data.test.read(indices).images.numpy(), data.mean, data.std)
    ends = np.cumsum([len(cell) for cell in row.indices])[:-1]
    return tuple(np.split(pixels, ends))
