"""Problems with what a person typed: collected, then raised once, one sentence each.

A sentence reads `dotted.path must <rule>, got <value>; <what to do>`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Problem:
    """One broken rule: the dotted path of the field and the rest of the sentence."""

    path: str
    rule: str

    def __str__(self) -> str:
        return f"{self.path} {self.rule}"

    def below(self, parent: str) -> "Problem":
        """The same problem, with `parent` put before its path."""
        return Problem(".".join(part for part in (parent, self.path) if part), self.rule)


class ConfigError(ValueError):
    """What a person typed cannot be used; `problems` holds every broken rule, not only the first."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[type["ConfigError"], tuple[tuple[Problem, ...]]]:
        """Pickled by its problems, so that it can leave a Ray worker."""
        return ConfigError, (self.problems,)


@dataclass
class Rules:
    """Collects the broken rules of one dataclass; `enforce` raises them together.

    Example:
        >>> rules = Rules()
        >>> rules.require(False, "epochs", "must be at least 1, got 0")
        >>> rules.enforce()
        Traceback (most recent call last):
        dvt.config.problems.ConfigError: epochs must be at least 1, got 0
    """

    problems: list[Problem] = field(default_factory=list)

    def require(self, holds: bool, path: str, rule: str) -> None:
        """Note that `path` breaks `rule` unless it `holds`."""
        if not holds:
            self.problems.append(Problem(path, rule))

    def at_least(self, path: str, value: float, least: float) -> None:
        """Note a `value` under `least`."""
        self.require(value >= least, path, f"must be at least {least:g}, got {value:.15g}")

    def above(self, path: str, value: float, bound: float) -> None:
        """Note a `value` that is not greater than `bound`."""
        self.require(value > bound, path, f"must be greater than {bound:g}, got {value:.15g}")

    def between(self, path: str, value: float, least: float, most: float) -> None:
        """Note a `value` outside the closed interval from `least` to `most`."""
        self.require(least <= value <= most, path, f"must be from {least:g} to {most:g}, got {value:.15g}")

    def enforce(self) -> None:
        """Raise what was noted.

        Raises:
            ConfigError: If any rule was broken.
        """
        if self.problems:
            raise ConfigError(self.problems)
