"""What a request over HTTP asks: images, and what may be spent on them; and the thresholds that keep to it.

A body is JSON with `image` or `images`, each base64 text of an image file or nested numbers (c, height, width) from 0
to 1; or it is one image file itself. `budget_macs`, `budget_ms` or `thresholds` stand in the JSON or in the address.

Shapes: E exits, c image channels.
"""

import difflib
import json
import math
from collections.abc import AsyncIterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dvt.config import ConfigError, Problem
from dvt.exits import Thresholds, ThresholdTable, single_exit_thresholds
from dvt.inference import Budget, thresholds_within
from dvt.serving.ask_again import MAX_BODY_BYTES

BUDGETS = ("budget_macs", "budget_ms", "thresholds")
IMAGES = ("image", "images")
MAX_IMAGES = 1024


class RefusedError(ValueError):
    """A request that cannot be answered, for a reason other than what stands in its fields.

    Args:
        sentence: Why.
        status: Of HTTP.
    """

    def __init__(self, sentence: str, status: int) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True)
class Asked:
    """What a request asks."""

    images: tuple[Any, ...]  # as `Preparation` takes them
    budget: Budget | None  # None is the model's own


async def read_body(chunks: AsyncIterable[bytes]) -> bytes:
    """The body of a request, of which no more is held than may come.

    Raises:
        RefusedError: If it is too large.
    """
    held, size = list[bytes](), 0
    async for chunk in chunks:
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            raise RefusedError(f"the body must be at most {MAX_BODY_BYTES} bytes, got more; send fewer images", 413)
        held.append(chunk)
    return b"".join(held)


def read_request(content_type: str, body: bytes, query: Mapping[str, str]) -> Asked:
    """Understand a request.

    Args:
        content_type: Header of that name, empty where there was none.
        body: As it was sent.
        query: What stands behind the question mark of the address.

    Raises:
        ConfigError: If a field is not as it should be; it names which.
        RefusedError: If the body is neither JSON nor an image.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/json":
        images, fields = _of_json(body)
    elif kind.startswith("image/"):
        images, fields = (body,), {}
    else:
        rule = f"Content-Type must be application/json or image/*, got {kind or 'none'}"
        raise RefusedError(f"{rule}; name what the body is", 415)
    _check_names(query, BUDGETS)
    problems = [Problem(name, "must stand in the body or in the address, got both") for name in query if name in fields]
    if problems:
        raise ConfigError(problems)
    return Asked(images, _budget({**fields, **query}))


def _of_json(body: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The images of a JSON body, and its other fields."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:  # also of bytes that are no text, and of too many brackets
        raise RefusedError(f"the body must be JSON, got text that is none ({error}); encode it again", 400) from error
    if not isinstance(fields, dict):
        raise RefusedError(f"the body must be a JSON object with images, got {type(fields).__name__}", 400)
    _check_names(fields, (*IMAGES, *BUDGETS))
    given = [name for name in IMAGES if name in fields]
    if len(given) != 1:
        told = "both; leave one out" if given else "neither"
        raise ConfigError([Problem("images", f"must come as image or as images, got {told}")])
    images = fields.pop(given[0])
    if given[0] == "image":
        images = [images]
    if not isinstance(images, list) or not 1 <= len(images) <= MAX_IMAGES:
        told = f"{len(images)}" if isinstance(images, list) else type(images).__name__
        raise ConfigError([Problem("images", f"must be a list of 1 to {MAX_IMAGES} images, got {told}")])
    return tuple(images), {name: value for name, value in fields.items() if value is not None}


def _check_names(fields: Mapping[str, Any], known: Sequence[str]) -> None:
    problems = []
    for name in fields:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, 1)
            advice = f"; did you mean {nearest[0]}?" if nearest else ""
            problems.append(Problem(name, f"must be one of {', '.join(known)}{advice}"))
    if problems:
        raise ConfigError(problems)


def _budget(fields: Mapping[str, Any]) -> Budget | None:
    """What was asked to be spent; None where nothing was said."""
    amounts: dict[str, Any] = {}
    for name in ("budget_macs", "budget_ms"):
        if name in fields:
            amounts[name] = _number(name, fields[name])
            if not 0 < amounts[name] < math.inf:
                raise ConfigError([Problem(name, f"must be above 0, got {amounts[name]:g}")])
    if "thresholds" in fields:
        given = fields["thresholds"]
        listed = given.split(",") if isinstance(given, str) else given if isinstance(given, list) else [given]
        amounts["thresholds"] = tuple(_number("thresholds", each) for each in listed)
    return Budget(**amounts) if amounts else None


def _number(name: str, value: Any) -> float:
    """A number of JSON, or its text; `inf` and `-inf` too."""
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)
        except (ValueError, OverflowError):  # the second of an integer of hundreds of digits
            pass
    told = repr(value)
    told = told if len(told) <= 40 else f"{told[:40]}..."
    raise ConfigError([Problem(name, f"must be a number, got {told}")])


@dataclass(frozen=True)
class Chosen:
    """Thresholds for a request."""

    thresholds: Thresholds  # (E,)
    exit_shares: tuple[float, ...]  # (E,), of calibration images under these thresholds; empty where none were seen


class RequestBudgets:
    """Chooses thresholds for requests to one model.

    Args:
        table: The model's thresholds; None where none were chosen.
        macs: (E,), what an image costs that leaves at each exit.
        default_macs: What may be spent where a request says nothing; None is all stages.
    """

    def __init__(self, table: ThresholdTable | None, macs: Sequence[float], default_macs: float | None) -> None:
        self._table = table
        self._macs = tuple(macs)
        self._default = Budget(budget_macs=default_macs)
        self._shares = {} if table is None else {row.thresholds: row.exit_shares for row in table.rows}

    def chosen(self, budget: Budget | None, seconds_per_exit: Sequence[float] | None = None) -> Chosen:
        """The thresholds that keep to a budget; `seconds_per_exit` (E,) is needed for one in milliseconds.

        Raises:
            ConfigError: If it cannot be kept, or the model has no thresholds to keep it with.
        """
        asked = self._default if budget is None else budget
        if asked == Budget():
            return Chosen(single_exit_thresholds(len(self._macs), len(self._macs) - 1), ())
        table = self._table
        if table is None:
            if asked.thresholds is None:
                name = "budget_macs" if asked.budget_ms is None else "budget_ms"
                rule = "must come with a model that holds thresholds, and this one holds none; send thresholds"
                raise ConfigError([Problem(name, rule)])
            table = ThresholdTable.of_single_exits(self._macs)
        thresholds = thresholds_within(asked, table, self._macs, seconds_per_exit)
        return Chosen(thresholds, self._shares.get(thresholds, ()))
