"""Amounts as people type them."""

import math

import pytest

from dvt.cli.amounts import read_macs, read_milliseconds, read_thresholds
from dvt.config import Problem


@pytest.mark.parametrize(
    ("text", "macs"),
    [("1.2G", 1.2e9), ("300M", 3e8), ("12e6", 1.2e7), ("5k", 5e3), ("5K", 5e3), (" .5 T ", 5e11), ("7", 7.0)],
)
def test_multiply_adds(text: str, macs: float) -> None:
    assert read_macs("--budget-macs", text) == macs


@pytest.mark.parametrize("text", ["", "0", "-1", "1.2B", "1.2GG", "nan", "inf", "1e400", "G", "1,2G"])
def test_what_is_no_number_of_multiply_adds(text: str) -> None:
    rule = f"must be multiply-adds above 0 such as 1.2G, 300M or 12e6, got {text!r}"
    assert read_macs("--budget-macs", text) == Problem("--budget-macs", rule)


def test_milliseconds() -> None:
    assert [read_milliseconds("--budget-ms", text) for text in ("3.5", "12ms", "1e-2")] == [3.5, 12.0, 0.01]
    for text in ("0", "3k", "soon", "1e999"):
        rule = f"must be milliseconds above 0 such as 3.5, got {text!r}"
        assert read_milliseconds("--budget-ms", text) == Problem("--budget-ms", rule)


def test_thresholds() -> None:
    assert read_thresholds("--thresholds", "0.5, inf", num_exits=3) == (0.5, math.inf, -math.inf)
    for text in ("0.5", "0.5,0.6,0.7", "0.5,", "nan,0.1", "high,low"):
        rule = f"must be 2 numbers with commas between, one for each exit but the last, got {text!r}"
        assert read_thresholds("--thresholds", text, num_exits=3) == Problem("--thresholds", rule)
