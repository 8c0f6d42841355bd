"""Training fields that a space chooses with the cascade: any dotted recipe field, from a list or a range."""

import dataclasses
import difflib
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from dvt.config import ConfigError, Problem, Recipe, Rules, flatten, from_dict, recipe_from_dict, to_dict
from dvt.search.suggester import Scalar, Suggester

# What the space itself, or a run of it, decides.
_NOT_TRAINING = ("name", "cascade", "exits", "cluster", "run")


class TrainingChoice(Protocol):
    """The values that one recipe field may take."""

    def suggest(self, trial: Suggester, name: str) -> Scalar:
        """One of the values, chosen by the trial."""
        ...

    def outermost(self) -> Sequence[Scalar]:
        """Values that stand for all where they are checked against the recipe."""
        ...


@dataclass(frozen=True)
class Listed:
    """One of some values."""

    values: tuple[Scalar, ...]

    def suggest(self, trial: Suggester, name: str) -> Scalar:
        """One of the values, chosen by the trial; a single one is no choice."""
        return self.values[0] if len(self.values) == 1 else trial.suggest_categorical(name, self.values)

    def outermost(self) -> Sequence[Scalar]:
        """All values."""
        return self.values

    def __str__(self) -> str:
        return ", ".join(map(str, self.values))


@dataclass(frozen=True, kw_only=True)
class Range:
    """A number of a closed interval."""

    low: float  # least value
    high: float  # greatest value
    log: bool = False  # whether equal ratios, rather than equal differences, are equally likely

    def __post_init__(self) -> None:
        rules = Rules()
        rules.require(self.low < self.high, "high", f"must be greater than low {self.low:g}, got {self.high:g}")
        if self.log:
            rules.above("low", self.low, 0)
        rules.enforce()

    def suggest(self, trial: Suggester, name: str) -> Scalar:
        """A number of the interval, chosen by the trial."""
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    def outermost(self) -> Sequence[Scalar]:
        """The ends."""
        return self.low, self.high

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}{', log' if self.log else ''}"


@dataclass(frozen=True, kw_only=True)
class WholeRange(Range):
    """A whole number of a closed interval."""

    low: int  # least value
    high: int  # greatest value

    def suggest(self, trial: Suggester, name: str) -> Scalar:
        """A whole number of the interval, chosen by the trial."""
        return trial.suggest_int(name, self.low, self.high, log=self.log)


def training_choices(tree: Mapping[str, Any], base: Recipe) -> dict[str, TrainingChoice]:
    """Read what a space says of training fields.

    Args:
        tree: By dotted recipe field, a list of values or the fields of a range.
        base: The recipe whose fields they are; every value must be valid in it.

    Returns:
        The choice of each field, in the order of `tree`.

    Raises:
        ConfigError: With every problem, each naming `training.<field>`.
    """
    choices, problems = {}, []
    for path, given in tree.items():
        try:
            choices[path] = _choice(str(path), given, base)
        except ConfigError as error:
            problems += [problem.below(f"training.{path}") for problem in error.problems]
    if problems:
        raise ConfigError(problems)
    return choices


def with_fields(config: Any, values: Mapping[str, Any]) -> Any:
    """A configuration dataclass with the fields at dotted paths replaced, all at once.

    Raises:
        ConfigError: With every rule that the new values break.
    """
    inner: dict[str, dict[str, Any]] = {}
    changes = {}
    for path, value in values.items():
        first, _, rest = path.partition(".")
        if rest:
            inner.setdefault(first, {})[rest] = value
        else:
            changes[first] = value
    for name, below in inner.items():
        try:
            changes[name] = with_fields(getattr(config, name), below)
        except ConfigError as error:
            raise ConfigError(problem.below(name) for problem in error.problems) from error
    return dataclasses.replace(config, **changes)


def _choice(path: str, given: Any, base: Recipe) -> TrainingChoice:
    known = [name for name in flatten(to_dict(base)) if name.partition(".")[0] not in _NOT_TRAINING]
    if path not in known:
        near = difflib.get_close_matches(path, known, n=1)
        advice = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError([Problem("", f"must be a field of data, optimizer, loss or train{advice}")])
    if isinstance(given, list):
        if not given:
            raise ConfigError([Problem("", "must list at least one value, got none")])
        values = tuple(_checked(path, value, base) for value in given)
        if len(set(values)) < len(values):
            raise ConfigError([Problem("", f"must not repeat a value, got {', '.join(map(str, given))}")])
        return Listed(values)
    if not isinstance(given, Mapping):
        raise ConfigError([Problem("", f"must be a list of values, or low, high and log, got {given!r}")])
    kind = {bool: None, int: WholeRange, float: Range}.get(_number_type(path))
    if kind is None:
        raise ConfigError([Problem("", "must be a list of values, since the field is no number")])
    choice: Range = from_dict(kind, given)
    for value in choice.outermost():
        _checked(path, value, base)
    return choice


def _checked(path: str, value: Any, base: Recipe) -> Scalar:
    """The value as the recipe holds it."""
    if isinstance(value, list | dict):
        raise ConfigError([Problem("", f"must list numbers, text, true, false or null, got {value!r}")])
    tree = to_dict(base)
    place = tree
    *parents, last = path.split(".")
    for part in parents:
        place = place[part]
    place[last] = value
    try:
        fitting: Scalar = flatten(to_dict(recipe_from_dict(tree)))[path]
    except ConfigError as error:
        told = "; ".join(map(str, error.problems))
        raise ConfigError([Problem("", f"must be valid in the base recipe, got {value!r}: {told}")]) from error
    return fitting


def _number_type(path: str) -> Any:
    """The type of a recipe field, without `None`."""
    kind: Any = Recipe
    for part in path.split("."):
        kind = typing.get_type_hints(kind)[part]
        members = [member for member in typing.get_args(kind) if member is not type(None)]
        kind = members[0] if len(members) == 1 else kind
    return kind
