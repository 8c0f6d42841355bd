"""Who chooses: what a space asks of a trial, and choosers that need no library of searchers.

`Suggester` has the three methods of Optuna's `Trial` that define-by-run spaces need, so that a trial fits unchanged.
"""

import difflib
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Protocol

import numpy as np

from dvt.config import ConfigError, Problem
from dvt.config.yaml_text import spell

Scalar = None | bool | int | float | str


class Suggester(Protocol):
    """Chooses values by name; the same name is always asked for with the same kind of choice."""

    def suggest_categorical(self, name: str, choices: Sequence[Scalar]) -> Scalar:
        """One of `choices`."""
        ...

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """One of `low`, `low + step`, ... up to `high`."""
        ...

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """A number from `low` to `high`."""
        ...


def choose(trial: Suggester, name: str, values: Sequence[int]) -> int:
    """One of some increasing whole numbers, chosen by the trial.

    Evenly spaced ones are asked for as a range, so that a searcher knows which are near each other. A single one is
    no choice: nothing is asked.
    """
    if len(values) == 1:
        return values[0]
    steps = {after - before for before, after in pairwise(values)}
    if len(steps) == 1:
        return trial.suggest_int(name, values[0], values[-1], step=steps.pop())
    chosen = trial.suggest_categorical(name, values)
    assert isinstance(chosen, int)
    return chosen


class RandomSuggester:
    """Chooses evenly, each value by itself.

    Args:
        generator: Draws all values; nothing else is random.
    """

    def __init__(self, generator: np.random.Generator) -> None:
        self._generator = generator

    def suggest_categorical(self, name: str, choices: Sequence[Scalar]) -> Scalar:
        """One of `choices`."""
        return choices[int(self._generator.integers(len(choices)))]

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """One of `low`, `low + step`, ... up to `high`."""
        if log:
            drawn = math.exp(self._generator.uniform(math.log(low - 0.5), math.log(high + 0.5)))
            return min(max(round(drawn), low), high)
        return low + step * int(self._generator.integers((high - low) // step + 1))

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """A number from `low` to `high`; `step` is not used here."""
        if log:
            drawn = math.exp(self._generator.uniform(math.log(low), math.log(high)))
            return min(max(drawn, low), high)  # rounding may leave the interval by a hair
        return float(self._generator.uniform(low, high))


class Answers:
    """Chooses what was chosen before.

    Args:
        values: By name; may hold more than is asked for.

    Attributes:
        asked: What was asked for so far, with the answers, in order.
    """

    def __init__(self, values: Mapping[str, Scalar]) -> None:
        self._values = values
        self.asked: dict[str, Scalar] = {}

    def suggest_categorical(self, name: str, choices: Sequence[Scalar]) -> Scalar:
        """The answer.

        Raises:
            ConfigError: If there is none, or none of `choices`.
        """
        value = self._answer(name)
        for choice in choices:
            if choice == value and isinstance(choice, bool) == isinstance(value, bool):
                self.asked[name] = choice
                return choice
        raise self._unfit(name, f"must be one of {', '.join(map(spell, choices))}")

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """The answer.

        Raises:
            ConfigError: If there is none, or none that may be.
        """
        value = self._answer(name)
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # tables of trials hold columns of floats
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high or (value - low) % step:
            raise self._unfit(name, f"must be a whole number from {low} to {high}{f' by {step}' * (step > 1)}")
        self.asked[name] = value
        return value

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """The answer.

        Raises:
            ConfigError: If there is none, or none that may be.
        """
        value = self._answer(name)
        if not (isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high):
            raise self._unfit(name, f"must be a number from {low:g} to {high:g}")
        self.asked[name] = float(value)
        return float(value)

    def require_all_asked(self) -> None:
        """Refuse answers to what nobody asked.

        Raises:
            ConfigError: With each of them.
        """
        problems = []
        for name in self._values:
            if name not in self.asked:
                near = difflib.get_close_matches(name, self.asked, n=1)
                advice = f"did you mean {near[0]}?" if near else f"choose from {', '.join(self.asked)}"
                problems.append(Problem(name, f"must be a parameter of this candidate; {advice}"))
        if problems:
            raise ConfigError(problems)

    def _answer(self, name: str) -> Scalar:
        if name not in self._values:
            raise ConfigError([Problem(name, "must be given, got no value")])
        return self._values[name]

    def _unfit(self, name: str, rule: str) -> ConfigError:
        return ConfigError([Problem(name, f"{rule}, got {spell(self._values[name])}")])
