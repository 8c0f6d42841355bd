"""The gate's rule, worked by hand: who passes at which budgets, and what each budget compares."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest

from dvt.exits.gate import BudgetComparison, Contestant, compare_at_budgets, judge, outcomes
from dvt.exits.paired import paired_difference
from tests.unit.exits.examples import FOUR_IMAGES, cascade_scores, costs, scores

FIRST, LAST = (-math.inf, -math.inf), (math.inf, -math.inf)
SAME = BudgetComparison(
    budget_macs=2e6,
    candidate_top1=0.8,
    champion_top1=0.8,
    difference=0.0,
    low=-0.003,
    high=0.003,
    candidate_macs=1.9e6,
    champion_macs=1.9e6,
    macs_high=0.0,
    candidate_alone=3,
    champion_alone=3,
)
BETTER = replace(SAME, candidate_top1=0.82, difference=0.02, low=0.001, high=0.04)
CHEAPER = replace(SAME, candidate_macs=1.7e6, macs_high=-0.1e6)
WORSE = replace(SAME, candidate_top1=0.78, difference=-0.02, low=-0.03, high=-0.01)
OVER = replace(BETTER, candidate_macs=2.2e6, macs_high=0.4e6)


@pytest.mark.parametrize(
    ("comparisons", "margin", "is_passed"),
    [
        ([BETTER], 0.0, True),
        ([CHEAPER], 0.005, True),
        ([CHEAPER], 0.003, True),  # the margin itself is not past it
        ([CHEAPER], 0.002, False),  # it may be 0.3 points worse
        ([SAME], 0.005, False),  # neither better nor cheaper: nothing speaks for it
        ([WORSE], 0.005, False),
        ([WORSE], 0.03, False),  # within the margin, but at no lower cost
        ([BETTER, SAME, SAME], 0.005, True),
        ([BETTER, SAME, CHEAPER], 0.005, True),
        ([BETTER, BETTER, WORSE], 0.005, False),  # every budget has a say
        ([OVER], 0.005, False),
        ([BETTER, OVER], 0.005, False),
    ],
)
def test_the_rule(comparisons: list[BudgetComparison], margin: float, is_passed: bool) -> None:
    assert judge(comparisons, margin).is_passed is is_passed


def test_who_speaks_for_and_against() -> None:
    told = judge([BETTER, WORSE, CHEAPER, OVER, SAME], 0.005)
    assert told.failures == (WORSE, OVER)
    assert told.gains == (BETTER, CHEAPER, OVER)


@pytest.mark.parametrize(
    ("candidate_macs", "champion_macs", "keeps_budget"),
    [(2.1e6, 1.9e6, True), (2.101e6, 1.9e6, False), (2.5e6, 2.5e6, True), (2.5e6, 2.499e6, False)],
)
def test_a_budget_is_kept_within_a_twentieth_or_as_the_champion_does(
    candidate_macs: float, champion_macs: float, keeps_budget: bool
) -> None:
    compared = replace(SAME, candidate_macs=candidate_macs, champion_macs=champion_macs)
    assert compared.keeps_budget is keeps_budget


@pytest.mark.parametrize(("macs_high", "is_cheaper"), [(-19_000, True), (-18_999, False), (0, False), (1, False)])
def test_cheaper_is_a_hundredth_of_the_champions_cost(macs_high: float, is_cheaper: bool) -> None:
    assert replace(SAME, macs_high=macs_high).is_cheaper is is_cheaper


def test_four_images_by_hand() -> None:
    champion = Contestant(FOUR_IMAGES, (1.0, 3.0), [(0.7, -math.inf), LAST])
    other = scores([[0.1, 0.9, 0.1, 0.1], [0.5] * 4], [[0, 1, 0, 0], [1, 1, 1, 0]])
    candidate = Contestant(other, (2.0, 4.0), [(0.5, -math.inf), FIRST])
    first, second = compare_at_budgets(candidate, champion, (3.5, 4.0))
    # The champion lets images 0 and 1 leave at 1, and is right about all; the candidate image 1 alone, and errs on 3.
    assert (first.champion_top1, first.candidate_top1, first.difference) == (1.0, 0.75, -0.25)
    assert (first.champion_macs, first.candidate_macs) == (2.0, 3.5)
    assert (first.candidate_alone, first.champion_alone) == (0, 1)
    assert (first.low, first.high) == (-0.75, 0.0)
    # At the last exit the champion errs on image 1; at its first one the candidate is right about that alone.
    assert (second.champion_top1, second.candidate_top1, second.champion_macs, second.candidate_macs) == (
        0.75,
        0.25,
        3,
        2,
    )
    assert (second.candidate_alone, second.champion_alone) == (1, 3)
    assert second.macs_high == -1.0  # every image costs one less
    assert second.is_cheaper


def test_several_budgets_have_wider_intervals_that_hold_together() -> None:
    old, new = cascade_scores(3, 400, seed=0), cascade_scores(3, 400, seed=1)
    thresholds = (0.6, 0.6, -math.inf)
    alone = compare_at_budgets(*(Contestant(each, costs(3), [thresholds]) for each in (new, old)), (4e6,))
    together = compare_at_budgets(*(Contestant(each, costs(3), [thresholds] * 2) for each in (new, old)), (4e6, 5e6))
    assert together[0].low < alone[0].low
    assert together[0].high > alone[0].high
    right, _ = outcomes(new, costs(3), thresholds)
    other, _ = outcomes(old, costs(3), thresholds)
    expected = paired_difference(right, other, level=0.975)  # 5 % are shared out among two budgets
    assert (together[1].low, together[1].high) == (expected.low, expected.high)


def test_what_each_image_comes_to() -> None:
    right, spent = outcomes(FOUR_IMAGES, (1.0, 3.0), (0.7, -math.inf))
    np.testing.assert_array_equal(right, [True, True, True, True])
    np.testing.assert_array_equal(spent, [1, 1, 3, 3])


def test_what_is_asked_wrong() -> None:
    with pytest.raises(ValueError, match=r"^comparisons must hold at least one budget, got none$"):
        judge([], 0.1)
    with pytest.raises(ValueError, match=r"^margin must be from 0 to 1, got 2$"):
        judge([SAME], 2)
    model = Contestant(FOUR_IMAGES, (1.0, 3.0), [LAST])
    message = re.escape("thresholds must hold one vector for each of 2, got 1")
    with pytest.raises(ValueError, match=f"^{message}$"):
        compare_at_budgets(model, model, (1.0, 2.0))
