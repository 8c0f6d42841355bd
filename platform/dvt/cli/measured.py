"""From what a trained cascade says of calibration and test images to the report of a run."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from dvt.config import Recipe
from dvt.exits import (
    Confidence,
    ExitScores,
    FrontReport,
    StaticReference,
    choose_confidence,
    guaranteed_thresholds,
    make_report,
    score_in_chunks,
    split_calibration,
)
from dvt.models import macs_per_exit


def measured_report(
    recipe: Recipe,
    calibration: tuple[Tensor, Tensor],
    score_test: Callable[[Confidence], ExitScores],
    budgets: Sequence[float],
    static: StaticReference | None,
) -> tuple[FrontReport, ExitScores]:
    """Choose what to leave by and when on calibration images, and measure it on test images.

    Args:
        recipe: Of the cascade.
        calibration: Logits (E, N, C) and labels (N,) of the calibration images.
        score_test: Scores the test images by the confidence that was chosen.
        budgets: Mean multiply-adds an image to choose thresholds for.
        static: A trained single-stage model, if there is one.

    Returns:
        The report, and the test images' scores that it was made of.
    """
    logits, labels = calibration
    macs = macs_per_exit(recipe.cascade)
    choosing, _ = split_calibration(len(labels))  # the other half is for the guarantee to test on
    choice = choose_confidence(logits[:, choosing], labels[choosing], macs, recipe.exits.confidence)
    scores = score_in_chunks(logits, labels, choice.confidence)
    promise = guaranteed_thresholds(scores, macs, recipe.exits.tolerated_loss, recipe.exits.guarantee_level)
    test = score_test(choice.confidence)
    report = make_report(recipe.name, recipe.cascade.token_grids, macs, scores, test, budgets, static, promise)
    return replace(report, confidence_areas=choice.areas), test
