"""What a verdict says in words: why a candidate passed or failed, and what came of each budget."""

from dataclasses import replace

import pytest

from dvt.exits.gate import BudgetComparison
from dvt.tracking.verdict import Verdict, told_outcome, told_points, verdict_beside
from tests.unit.tracking.gate_race import BETTER

SAME = replace(BETTER, difference=0.0, low=-0.003, high=0.003)
CHEAPER = replace(SAME, candidate_macs=1.6e6, macs_high=-0.1e6)
BOTH = replace(BETTER, candidate_macs=1.6e6, macs_high=-0.1e6)
WORSE = replace(BETTER, budget_macs=4e6, difference=-0.02, low=-0.035, high=-0.005)
WORST = replace(WORSE, budget_macs=8e6, low=-0.1)
OVER = replace(BETTER, candidate_macs=2.2e6)


def verdict(*comparisons: BudgetComparison, margin: float = 0.005) -> Verdict:
    return verdict_beside(comparisons, margin=margin, num_images=10, data="/images/val")


@pytest.mark.parametrize(
    ("comparisons", "is_passed", "reason"),
    [
        ([BETTER, SAME], True, "better within 1 of 2 budgets, and within none worse by more than 0.5 points"),
        ([CHEAPER, SAME], True, "cheaper within 1 of 2 budgets, and within none worse by more than 0.5 points"),
        (
            [BOTH, BETTER, SAME],
            True,
            "better within 2 and cheaper within 1 of 3 budgets, and within none worse by more than 0.5 points",
        ),
        ([SAME], False, "within no budget is it surely better, or cheaper by 1 %"),
        (
            [BETTER, WORSE, WORST],
            False,
            "within 8 M it may be 10.00 points worse, more than the margin of 0.5 points",
        ),
        (
            [WORSE, OVER],
            False,
            "within 2 M it costs 2.2 M on the test images, more than 5 % over the budget and more than the champion",
        ),
    ],
)
def test_the_reason(comparisons: list[BudgetComparison], is_passed: bool, reason: str) -> None:
    told = verdict(*comparisons)
    assert (told.is_passed, told.reason) == (is_passed, reason)


@pytest.mark.parametrize(
    ("compared", "outcome"),
    [
        (BETTER, "better"),
        (CHEAPER, "cheaper"),
        (BOTH, "better and cheaper"),
        (SAME, "not worse"),
        (WORSE, "may be worse"),
        (OVER, "over budget"),
    ],
)
def test_the_outcome_of_a_budget(compared: BudgetComparison, outcome: str) -> None:
    assert told_outcome(compared, 0.005) == outcome


def test_points_have_their_interval() -> None:
    assert told_points(WORSE) == "-2.00 (-3.50 to -0.50)"
