"""What a candidate costs, and whether a space's caps and budgets allow it."""

from dataclasses import dataclass

from dvt.config import CascadeConfig
from dvt.models import count_parameters, largest_map_bytes, macs_per_exit
from dvt.search.choices import BudgetRange, Constraints

MIB = 2**20


class IllegalCandidate(ValueError):  # noqa: N818  no error of anyone's: searches meet many
    """A candidate that must not be trained; says in one sentence which limit it breaks, and by what value."""


@dataclass(frozen=True, kw_only=True)
class CascadeCost:
    """What one image costs in a cascade, and what the cascade keeps.

    Attributes:
        macs: Cumulative multiply-adds of leaving at each exit.
        parameters: Numbers in the state dict, fixed tables among them.
        map_bytes: Relationship maps of one image in the stage that has most of them, bytes of float32.
    """

    macs: tuple[int, ...]
    parameters: int
    map_bytes: int

    @classmethod
    def of(cls, config: CascadeConfig) -> "CascadeCost":
        """The cost of a cascade, from shapes alone."""
        return cls(macs=macs_per_exit(config), parameters=count_parameters(config), map_bytes=largest_map_bytes(config))


@dataclass(frozen=True)
class Limits:
    """The caps of a space and its largest budget, as numbers to compare with; infinite where there is none.

    Attributes:
        macs: Most multiply-adds of the last exit.
        parameters: Most numbers in the state dict.
        map_bytes: Most bytes of relationship maps.
        first_exit_macs: Most multiply-adds of the first exit: a cascade whose cheapest exit is above the largest
            budget classifies nothing within it.
    """

    macs: float
    parameters: float
    map_bytes: float
    first_exit_macs: float

    @classmethod
    def of(cls, constraints: Constraints, budgets: BudgetRange) -> "Limits":
        """The limits that a space's sections state."""

        def or_none(cap: float | None) -> float:
            return float("inf") if cap is None else cap

        return cls(
            macs=or_none(constraints.max_macs),
            parameters=or_none(constraints.max_parameters),
            map_bytes=or_none(constraints.max_map_mib) * MIB,
            first_exit_macs=or_none(budgets.max_macs),
        )

    @classmethod
    def none(cls) -> "Limits":
        """Limits that everything keeps to."""
        return cls(*[float("inf")] * 4)

    def broken_by(self, cost: CascadeCost) -> str | None:
        """A sentence on the first limit that a candidate breaks; None if it breaks none."""
        rows = (
            ("multiply-adds of the first exit", "budgets.max_macs", cost.macs[0], self.first_exit_macs, 1),
            ("multiply-adds of the last exit", "constraints.max_macs", cost.macs[-1], self.macs, 1),
            ("parameters", "constraints.max_parameters", cost.parameters, self.parameters, 1),
            ("MiB of relationship maps", "constraints.max_map_mib", cost.map_bytes, self.map_bytes, MIB),
        )
        for meaning, name, value, most, unit in rows:
            if value > most:
                return f"{meaning} must be at most {most / unit:.12g} ({name}), got {value / unit:.12g}"
        return None
