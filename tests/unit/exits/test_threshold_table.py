"""Thresholds by budget, from a measured front and from a published checkpoint."""

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from dvt.config import ConfigError
from dvt.exits import Confidence, Front, FrontPoint, Guarantee, ThresholdRow, ThresholdTable
from dvt.models import WeightsError

INF = math.inf
MACS = (100, 300, 700)
RULE = "dynamic_threshold must hold 59 rows of 3 numbers, each ending with -1e8"
ADVICE = "import the state dict alone to go without thresholds"


def published() -> list[list[float]]:
    """As a checkpoint holds them; the last row closes the first exit."""
    rows = [[0.5 + p / 128, 0.25 + p / 128, -1e8] for p in range(1, 60)]  # no fraction is rounded
    rows[58][0] = 1e8
    return rows


def test_a_fronts_thresholds_are_found_by_their_cost() -> None:
    points = (
        FrontPoint(macs=100, accuracy=0.5, thresholds=(-INF, -INF), exit_shares=(1.0, 0.0)),
        FrontPoint(macs=150, accuracy=0.7, thresholds=(0.8, -INF), exit_shares=(0.75, 0.25)),
    )
    table = ThresholdTable.of_front(Front(points))
    assert table.num_exits == 2
    assert table.at_budget(100) == ThresholdRow(100, (-INF, -INF), (1.0, 0.0))
    assert table.at_budget(149.9).thresholds == (-INF, -INF)
    assert table.at_budget(1e9) == ThresholdRow(150, (0.8, -INF), (0.75, 0.25))


def test_a_budget_of_time_takes_the_best_row_that_keeps_to_it() -> None:
    rows = tuple(
        ThresholdRow(macs, (threshold, -INF), shares)
        for macs, threshold, shares in ((100, -INF, (1.0, 0.0)), (150, 0.8, (0.75, 0.25)), (300, INF, (0.0, 1.0)))
    )
    table = ThresholdTable((*rows, ThresholdRow(400, (INF, -INF))))  # nobody knows where the last one's images leave
    seconds = (0.001, 0.005)  # 1, 2 and 5 ms
    assert table.within_seconds(0.0009, seconds) is None
    assert table.within_seconds(0.001, seconds) == rows[0]
    assert table.within_seconds(0.0021, seconds) == rows[1]
    assert table.within_seconds(9.0, seconds) == rows[2]


def test_single_exits_cost_what_they_cost() -> None:
    assert ThresholdTable.of_single_exits(MACS).rows == (
        ThresholdRow(100, (-INF, INF, -INF), (1, 0, 0)),
        ThresholdRow(300, (INF, -INF, -INF), (0, 1, 0)),
        ThresholdRow(700, (INF, INF, -INF), (0, 0, 1)),
    )


def test_published_rows_cost_what_their_shares_cost_here() -> None:
    table = ThresholdTable.of_published(published(), MACS)
    assert len(table.rows) == 59 + 3
    costs = {row.thresholds: row.macs for row in table.rows}
    # q = 1 (row 20): a third leaves at each exit; q = 2 (row 40): 2/14, 4/14 and 8/14.
    assert costs[(0.5 + 20 / 128, 0.25 + 20 / 128, -INF)] == pytest.approx(1100 / 3)
    assert costs[(0.5 + 40 / 128, 0.25 + 40 / 128, -INF)] == pytest.approx((200 + 1200 + 5600) / 14)
    assert costs[(INF, 0.25 + 59 / 128, -INF)] == pytest.approx(
        (2.95 * 100 + 2.95**2 * 300 + 2.95**3 * 700) / (2.95 + 2.95**2 + 2.95**3)
    )
    assert [row.macs for row in table.rows] == sorted(costs.values())
    assert table.rows[0] == ThresholdRow(100, (-INF, INF, -INF), (1, 0, 0))
    assert table.at_budget(300).thresholds == (INF, -INF, -INF)
    assert table.rows[-1] == ThresholdRow(700, (INF, INF, -INF), (0, 0, 1))
    assert all(row.macs == pytest.approx(np.dot(row.exit_shares, MACS)) for row in table.rows)


@pytest.mark.parametrize(
    "kind",
    [
        torch.tensor(published(), dtype=torch.float64),
        [torch.tensor(row, dtype=torch.float64) for row in published()],
        [[torch.tensor([value], dtype=torch.float64) for value in row] for row in published()],
        tuple(tuple(row) for row in published()),
    ],
)
def test_published_rows_may_be_tensors_and_lists(kind: object) -> None:
    assert ThresholdTable.of_published(kind, MACS) == ThresholdTable.of_published(published(), MACS)


def test_single_precision_infinities_are_infinities() -> None:
    table = ThresholdTable.of_published(torch.tensor(published()), MACS)
    assert {row.thresholds[-1] for row in table.rows} == {-INF}


def changed(row: int, exit_index: int, value: Any) -> list[list[Any]]:
    rows: list[list[Any]] = published()
    rows[row][exit_index] = value
    return rows


@pytest.mark.parametrize(
    ("given", "got"),
    [
        (published()[:58], "shape (58, 3)"),
        (torch.zeros(59, 2), "shape (59, 2)"),
        (None, "something else (expected a number, got NoneType)"),
        (changed(0, 0, "high"), "something else (expected a number, got str)"),
        (changed(3, 1, math.nan), "nan at row 4, exit 2"),
        (changed(6, 2, 0.25), "0.25 at the end of row 7"),
        (changed(6, 2, 1e8), "inf at the end of row 7"),
    ],
)
def test_published_rows_that_cannot_be_used(given: object, got: str) -> None:
    with pytest.raises(WeightsError) as caught:
        ThresholdTable.of_published(given, MACS)
    assert str(caught.value) == f"{RULE}, got {got}; {ADVICE}"


def test_ragged_rows_cannot_be_used() -> None:
    rows = published()
    del rows[5][0]
    with pytest.raises(WeightsError, match=r"^dynamic_threshold must hold .* got something else \(.*\); import"):
        ThresholdTable.of_published(rows, MACS)


@pytest.mark.parametrize(("budget", "got"), [(99.0, "99"), (math.nan, "nan")])
def test_a_budget_that_cannot_be_kept(budget: float, got: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ThresholdTable.of_single_exits(MACS).at_budget(budget)
    assert str(caught.value) == (f"budget_macs must be at least 100, the cost of leaving at the first exit, got {got}")


def test_it_goes_through_json_unchanged() -> None:
    table = ThresholdTable.of_published(published(), MACS)
    text = json.dumps(table.to_dict(), allow_nan=False)
    assert ThresholdTable.from_dict(json.loads(text)) == table


def test_it_carries_what_its_thresholds_are_of() -> None:
    table = replace(ThresholdTable.of_published(published(), MACS), confidence=Confidence("margin", (1.5, 0.7, 2.0)))
    assert ThresholdTable.from_dict(json.loads(json.dumps(table.to_dict()))) == table
    with pytest.raises(ValueError, match=r"^temperatures must be one for each of 3 exits, got 2$"):
        replace(table, confidence=Confidence("margin", (1.5, 0.7)))


def test_it_carries_a_guarantee() -> None:
    promise = Guarantee(
        thresholds=(0.5, INF, -INF), tolerated_loss=0.005, level=0.95, bound=0.004, macs=250.0, num_tested=5000
    )
    table = replace(ThresholdTable.of_single_exits(MACS), guarantee=promise)
    assert ThresholdTable.from_dict(json.loads(json.dumps(table.to_dict(), allow_nan=False))) == table


def test_tables_of_before_there_was_a_choice_are_of_the_largest_probability() -> None:
    data = ThresholdTable.of_single_exits(MACS).to_dict()
    del data["confidence"], data["guarantee"]
    assert ThresholdTable.from_dict(data) == ThresholdTable.of_single_exits(MACS)


def test_other_json_is_refused() -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the text is checked below
        ThresholdTable.from_dict({"rows": [{"macs": 1}]})
    assert str(caught.value) == "a threshold table must have rows of macs and thresholds, got others ('thresholds')"


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ((), "rows must hold at least one row, got none"),
        (
            (ThresholdRow(2, (-INF,)), ThresholdRow(1, (-INF,))),
            "rows must be sorted by macs, got 2 before 1",
        ),
        (
            (ThresholdRow(1, (-INF, -INF)), ThresholdRow(2, (-INF,))),
            "rows must each hold 2 thresholds, the last of them -inf, got -inf",
        ),
        (
            (ThresholdRow(1, (0.5, 0.5)),),
            "rows must each hold 2 thresholds, the last of them -inf, got 0.5, 0.5",
        ),
        (
            (ThresholdRow(1, (math.nan, -INF)),),
            "rows must each hold 2 thresholds, the last of them -inf, got nan, -inf",
        ),
    ],
)
def test_rows_that_are_no_table(rows: tuple[ThresholdRow, ...], sentence: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the text is checked below
        ThresholdTable(rows)
    assert str(caught.value) == sentence
