"""Requests over HTTP: what is understood, what is refused and how, and the thresholds that keep to a budget."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from dvt.config import ConfigError
from dvt.exits import ThresholdTable
from dvt.exits.threshold_table import ThresholdRow
from dvt.inference import Budget
from dvt.serving.request import MAX_BODY_BYTES, Asked, Chosen, RefusedError, RequestBudgets, read_body, read_request

INF = float("inf")
JSON = "application/json; charset=utf-8"


def read(body: Any, query: dict[str, str] | None = None) -> Asked:
    return read_request(JSON, json.dumps(body).encode(), query or {})


def test_what_a_body_may_be() -> None:
    assert read_request("image/jpeg", b"file", {}) == Asked((b"file",), None)
    assert read({"image": "aGk="}) == Asked(("aGk=",), None)
    assert read({"images": ["aGk=", [[[0.5]]]], "budget_macs": 1e9}) == Asked(
        ("aGk=", [[[0.5]]]), Budget(budget_macs=1e9)
    )
    assert read({"image": "a", "budget_macs": None}) == Asked(("a",), None)
    assert read({"image": "a", "thresholds": [0.9, "inf"]}).budget == Budget(thresholds=(0.9, INF))


def test_a_budget_may_stand_in_the_address() -> None:
    assert read_request("image/png", b"", {"budget_ms": "2.5"}).budget == Budget(budget_ms=2.5)
    assert read_request("image/png", b"", {"thresholds": "0.9,-inf"}).budget == Budget(thresholds=(0.9, -INF))


@pytest.mark.parametrize(
    ("body", "query", "message"),
    [
        ({}, {}, "images must come as image or as images, got neither"),
        ({"image": 1, "images": []}, {}, "images must come as image or as images, got both; leave one out"),
        ({"images": []}, {}, "images must be a list of 1 to 1024 images, got 0"),
        ({"images": "aGk="}, {}, "images must be a list of 1 to 1024 images, got str"),
        (
            {"image": "a", "budget_mac": 1},
            {},
            "budget_mac must be one of image, images, budget_macs, budget_ms, thresholds; did you mean budget_macs?",
        ),
        ({"image": "a"}, {"budget": "1"}, "budget must be one of budget_macs, budget_ms, thresholds"),
        (
            {"image": "a", "budget_macs": 1},
            {"budget_macs": "1"},
            "budget_macs must stand in the body or in the",
        ),
        ({"image": "a", "budget_macs": "much"}, {}, "budget_macs must be a number, got 'much'"),
        ({"image": "a", "budget_macs": True}, {}, "budget_macs must be a number, got True"),
        ({"image": "a", "budget_ms": -1}, {}, "budget_ms must be above 0, got -1"),
        ({"image": "a", "thresholds": [[1]]}, {}, "thresholds must be a number, got [1]"),
        ({"image": "a", "budget_ms": 1, "budget_macs": 1}, {}, "budget_ms must come without budget_macs, got both"),
    ],
)
def test_fields_that_are_not_as_they_should_be(body: Any, query: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read(body, query)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("content_type", "body", "status", "sentence"),
    [
        (JSON, b"{", 400, "the body must be JSON, got text that is none ("),
        (JSON, b"[" * 100_000, 400, "the body must be JSON, got text that is none ("),
        (JSON, b"[]", 400, "the body must be a JSON object with images, got list"),
        ("", b"x", 415, "Content-Type must be application/json or image/*, got none; name what the body is"),
        ("text/html", b"x", 415, "Content-Type must be application/json or image/*, got text/html; name what"),
    ],
)
def test_bodies_that_are_refused(content_type: str, body: bytes, status: int, sentence: str) -> None:
    with pytest.raises(RefusedError) as refused:
        read_request(content_type, body, {})
    assert refused.value.status == status
    assert str(refused.value).startswith(sentence)


def test_no_more_of_a_body_is_taken_than_may_come() -> None:
    taken = 0

    async def without_end() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 2**20
            yield bytes(2**20)

    with pytest.raises(RefusedError) as refused:
        asyncio.run(read_body(without_end()))
    assert (refused.value.status, taken) == (413, MAX_BODY_BYTES + 2**20)
    assert str(refused.value) == f"the body must be at most {MAX_BODY_BYTES} bytes, got more; send fewer images"


def test_a_body_is_what_came_in_its_order() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for each in (b"a", b"", b"bc"):
            yield each

    assert asyncio.run(read_body(chunks())) == b"abc"


CHEAP = ThresholdRow(15.0, (0.2, -INF), (0.75, 0.25))
DEAR = ThresholdRow(25.0, (0.8, -INF), (0.25, 0.75))
TABLE = ThresholdTable((CHEAP, DEAR))
MACS = (10.0, 30.0)


def test_budgets_choose_rows_and_tell_their_shares() -> None:
    budgets = RequestBudgets(TABLE, MACS, default_macs=20.0)
    assert budgets.chosen(Budget(budget_macs=26)) == Chosen(DEAR.thresholds, DEAR.exit_shares)
    assert budgets.chosen(None) == Chosen(CHEAP.thresholds, CHEAP.exit_shares), "the model's own budget"
    assert budgets.chosen(Budget(budget_ms=26), (0.010, 0.030)) == Chosen(DEAR.thresholds, DEAR.exit_shares)
    assert budgets.chosen(Budget(thresholds=(0.5,))) == Chosen((0.5, -INF), ()), "none were seen under these"


def test_without_a_budget_all_stages_run() -> None:
    assert RequestBudgets(TABLE, MACS, None).chosen(None) == Chosen((INF, -INF), ())


def test_a_model_without_thresholds_takes_thresholds_alone() -> None:
    budgets = RequestBudgets(None, MACS, None)
    assert budgets.chosen(Budget(thresholds=(0.5,))).thresholds == (0.5, -INF)
    with pytest.raises(ConfigError, match="budget_ms must come with a model that holds thresholds"):
        budgets.chosen(Budget(budget_ms=1))


def test_budgets_that_cannot_be_kept() -> None:
    budgets = RequestBudgets(TABLE, MACS, None)
    with pytest.raises(ConfigError, match="budget_macs must be at most 30, the cost of the last exit, got 31"):
        budgets.chosen(Budget(budget_macs=31))
    with pytest.raises(ConfigError, match="budget_macs must be at least 15"):
        budgets.chosen(Budget(budget_macs=9))
