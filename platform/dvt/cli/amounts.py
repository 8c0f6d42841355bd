"""Amounts as a person types them: multiply-adds with a unit, milliseconds, thresholds."""

import math
import re

from dvt.config import Problem
from dvt.exits import Thresholds

_UNITS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_AMOUNT = re.compile(r"(?P<number>[0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*(?P<unit>[kKMGT]?)")


def read_macs(flag: str, text: str) -> float | Problem:
    """Multiply-adds, such as 1.2G, 300M or 12e6; what is wrong with them if they are none."""
    match = _AMOUNT.fullmatch(text.strip())
    macs = float(match["number"]) * _UNITS[match["unit"].replace("K", "k")] if match is not None else math.nan
    if not 0 < macs < math.inf:
        return Problem(flag, f"must be multiply-adds above 0 such as 1.2G, 300M or 12e6, got {text!r}")
    return macs


def read_milliseconds(flag: str, text: str) -> float | Problem:
    """Milliseconds, such as 3.5; what is wrong with them if they are none."""
    match = _AMOUNT.fullmatch(text.strip().removesuffix("ms"))
    if match is None or match["unit"] or not 0 < float(match["number"]) < math.inf:
        return Problem(flag, f"must be milliseconds above 0 such as 3.5, got {text!r}")
    return float(match["number"])


def read_thresholds(flag: str, text: str, num_exits: int) -> Thresholds | Problem:
    """A threshold for each exit but the last, with commas between; what is wrong with them if they are not that.

    Args:
        flag: The flag they were typed behind.
        text: What was typed; inf closes an exit, -inf lets all leave.
        num_exits: Of the model.
    """
    count = num_exits - 1
    wanted = "1 number" if count == 1 else f"{count} numbers with commas between"
    rule = f"must be {wanted}, one for each exit but the last, got {text!r}"
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        return Problem(flag, rule)
    if len(numbers) != count or any(map(math.isnan, numbers)):
        return Problem(flag, rule)
    return (*numbers, -math.inf)
