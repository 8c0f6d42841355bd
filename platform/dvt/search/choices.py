"""What a search space file may say: the choices of the cascade, caps on candidates, and the budgets that count.

The comment behind a field is its documentation: meaning, unit and range.
"""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

from dvt.config import Rules
from dvt.config.cascade import ReuseDepth
from dvt.search.settings import SearchConfig

MOST_EXITS = 5
REUSE_FIELDS = ("feature_reuse_depth", "relation_reuse_depth", "relation_upstream_depth")
BACKBONE_FIELDS = ("depth", "embed_dim", "num_heads")


@dataclass(frozen=True, kw_only=True)
class CascadeChoices:
    """What may differ between the cascades of a space; each list holds every allowed value, in increasing order."""

    num_exits: tuple[int, ...]  # how many stages, from 1 to 5
    token_grids: tuple[int, ...]  # tokens a side that a stage may have; a cascade takes as many as it has stages
    feature_reuse_depth: tuple[ReuseDepth, ...] = ("all",)  # blocks of a later stage that read upstream features
    relation_reuse_depth: tuple[ReuseDepth, ...] = ("all",)  # blocks of a later stage that add upstream logits
    relation_upstream_depth: tuple[ReuseDepth, ...] = ("all",)  # blocks upstream that hand them on, where some do
    is_reuse_shared: bool = False  # whether all later stages of a cascade take the same reuse depths
    feature_reuse_dim: tuple[int, ...] = ()  # context width of the whole cascade; none given keeps the base's
    depth: tuple[int, ...] = ()  # blocks of every stage; none given keeps the base's
    embed_dim: tuple[int, ...] = ()  # channels of a token in every stage; none given keeps the base's
    num_heads: tuple[int, ...] = ()  # heads of every block, where they divide embed_dim; none given keeps the base's

    def __post_init__(self) -> None:
        rules = Rules()
        for name in ("num_exits", "token_grids", *REUSE_FIELDS):
            rules.require(len(getattr(self, name)) > 0, name, "must list at least one value, got none")
        for name in ("num_exits", "token_grids", "feature_reuse_dim", *BACKBONE_FIELDS, *REUSE_FIELDS):
            _check_increasing(rules, name, getattr(self, name))
        least = {"feature_reuse_depth": 0, "relation_reuse_depth": 0}
        for name in ("num_exits", "token_grids", "feature_reuse_dim", *BACKBONE_FIELDS, *REUSE_FIELDS):
            for index, value in enumerate(getattr(self, name)):
                if value != "all":
                    rules.at_least(f"{name}.{index}", value, least.get(name, 1))
        for index, count in enumerate(self.num_exits):
            most = min(MOST_EXITS, len(self.token_grids))
            why = "exits of a cascade" if most == MOST_EXITS else "values of token_grids"
            rules.require(count <= most, f"num_exits.{index}", f"must be at most {most}, the {why}, got {count}")
        rules.enforce()


@dataclass(frozen=True, kw_only=True)
class Constraints:
    """Caps that every candidate keeps to; null is none."""

    max_macs: float | None = None  # multiply-adds of an image that leaves at the last exit
    max_parameters: int | None = None  # numbers in the state dict, fixed tables among them
    max_map_mib: float | None = None  # relationship maps of one image in the stage that has most, MiB of float32

    def __post_init__(self) -> None:
        rules = Rules()
        for name in ("max_macs", "max_parameters"):
            if getattr(self, name) is not None:
                rules.above(name, getattr(self, name), 0)
        if self.max_map_mib is not None:
            rules.at_least("max_map_mib", self.max_map_mib, 0)
        rules.enforce()


@dataclass(frozen=True, kw_only=True)
class BudgetRange:
    """The budgets that cascades are compared over, a mean an image: multiply-adds, or milliseconds where they train."""

    min_macs: float | None = None  # least budget; at least what the cheapest exit of the space costs
    max_macs: float | None = None  # largest budget; a candidate's first exit must cost no more
    min_ms: float | None = None  # least budget in milliseconds, in place of multiply-adds
    max_ms: float | None = None  # largest budget in milliseconds; of an image by itself, on the device that trains

    def __post_init__(self) -> None:
        rules = Rules()
        given = [name for name in ("min_macs", "max_macs", "min_ms", "max_ms") if getattr(self, name) is not None]
        told = ", ".join(given) or "none"
        rules.require(
            given in (["min_macs", "max_macs"], ["min_ms", "max_ms"]),
            "",
            f"must hold min_macs and max_macs, or min_ms and max_ms, got {told}",
        )
        rules.enforce()
        rules.above(f"min_{self.unit}", self.low, 0)
        rules.require(
            self.high > self.low,
            f"max_{self.unit}",
            f"must be greater than min_{self.unit} {self.low:.12g}, got {self.high:.12g}",
        )
        rules.enforce()

    @property
    def unit(self) -> Literal["macs", "ms"]:
        """What budgets are counted in."""
        return "macs" if self.min_macs is not None else "ms"

    @property
    def low(self) -> float:
        """The least budget."""
        return float(getattr(self, f"min_{self.unit}"))

    @property
    def high(self) -> float:
        """The largest budget."""
        return float(getattr(self, f"max_{self.unit}"))


@dataclass(frozen=True, kw_only=True)
class SpaceFile:
    """A search space as its file says it, before the base recipe is known."""

    name: str  # names the study
    # A recipe file, from the folder above the space's own; or one behind `recipe` and fields to change; or all.
    base: Any
    cascade: CascadeChoices  # what cascades differ in
    budgets: BudgetRange  # the budgets that count
    constraints: Constraints = field(default_factory=Constraints)  # caps on candidates
    training: dict[str, Any] = field(default_factory=dict)  # dotted recipe fields, each a list or a range
    search: SearchConfig = field(default_factory=SearchConfig)  # how the space is searched
    first_points: tuple[Any, ...] = ()  # recipe fields that replace the base's, for each point to evaluate first


def _check_increasing(rules: Rules, name: str, values: tuple[ReuseDepth, ...]) -> None:
    ranks = [float("inf") if value == "all" else float(value) for value in values]
    rules.require(
        all(before < after for before, after in pairwise(ranks)),
        name,
        f"must be strictly increasing, got {', '.join(map(str, values))}",
    )
