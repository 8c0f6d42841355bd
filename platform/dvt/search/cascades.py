"""The cascades of a space as a set: which there are, how many, and each as a `CascadeConfig`.

Two cascades are the same if they compute the same: depths are numbers of blocks, a stage that adds no relationships
is handed none, and where no block reads features their width does not count.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from dvt.config import CascadeConfig, ConfigError, Problem, Rules, StageConfig, StageReuse
from dvt.config.cascade import ReuseDepth
from dvt.search.choices import BACKBONE_FIELDS, REUSE_FIELDS, CascadeChoices


@dataclass(frozen=True)
class Backbone:
    """What all stages of a cascade share."""

    depth: int
    embed_dim: int
    num_heads: int


@dataclass(frozen=True)
class Shape:
    """One choice of everything that cascades differ in.

    Attributes:
        backbone: Blocks, width and heads of every stage.
        grids: Tokens a side of each stage, coarse to fine.
        reuses: Reuse depths of each stage but the first, in blocks.
        context_dim: Channels of the context that features add.
    """

    backbone: Backbone
    grids: tuple[int, ...]
    reuses: tuple[StageReuse, ...]
    context_dim: int


@dataclass(frozen=True)
class CascadeSet:
    """All cascades that `choices` allow over `base`, caps aside.

    Args:
        base: Gives what is not chosen.
        choices: What may differ.

    Raises:
        ConfigError: If a choice fits no cascade over this base, such as a reuse depth above the stage's.
    """

    base: CascadeConfig
    choices: CascadeChoices

    def __post_init__(self) -> None:
        rules = Rules()
        for dim in self.values("embed_dim"):
            heads = ", ".join(map(str, self.values("num_heads")))
            rules.require(len(self.heads(dim)) > 0, "num_heads", f"must hold a divisor of embed_dim {dim}, got {heads}")
        for name in REUSE_FIELDS:
            self._check_depths(rules, name)
        rules.enforce()
        self._check_grids()

    def values(self, name: str) -> tuple[int, ...]:
        """The allowed values of a field of the whole cascade; the base's alone where none are given."""
        return getattr(self.choices, name) or (getattr(self.base, name),)

    def heads(self, embed_dim: int) -> tuple[int, ...]:
        """Numbers of heads that divide this width."""
        return tuple(heads for heads in self.values("num_heads") if embed_dim % heads == 0)

    def backbones(self) -> tuple[Backbone, ...]:
        """All allowed combinations of depth, width and heads."""
        wide = itertools.product(self.values("depth"), self.values("embed_dim"))
        return tuple(Backbone(depth, dim, heads) for depth, dim in wide for heads in self.heads(dim))

    def grids(self) -> Iterator[tuple[int, ...]]:
        """All allowed sequences of grids, those of few stages first."""
        for num_exits in self.choices.num_exits:
            yield from itertools.combinations(self.choices.token_grids, num_exits)

    def reuse_depths(self, name: str, depth: int) -> tuple[int, ...]:
        """Allowed values of one of a stage's reuse depths where stages have `depth` blocks, increasing."""
        return _resolved(getattr(self.choices, name), depth)

    def relation_depths(self, depth: int) -> tuple[tuple[int, int], ...]:
        """Allowed pairs of receiving and upstream blocks where stages have `depth` blocks; (0, 0) is none."""
        received = self.reuse_depths("relation_reuse_depth", depth)
        handed_on = self.reuse_depths("relation_upstream_depth", depth)
        none = [(0, 0)] if 0 in received else []
        return (*none, *itertools.product([blocks for blocks in received if blocks], handed_on))

    def reuse_groups(self, num_exits: int) -> tuple[range, ...]:
        """The numbers of the later stages, from 2, in groups that share their reuse depths."""
        if num_exits == 1:
            return ()
        if self.choices.is_reuse_shared:
            return (range(2, num_exits + 1),)
        return tuple(range(k, k + 1) for k in range(2, num_exits + 1))

    def size(self) -> int:
        """Number of different cascades, caps aside; exact, and counted without making them."""
        total = 0
        for backbone in self.backbones():
            features = self.reuse_depths("feature_reuse_depth", backbone.depth)
            relations, widths = len(self.relation_depths(backbone.depth)), len(self.values("feature_reuse_dim"))
            for num_exits in self.choices.num_exits:
                later = len(self.reuse_groups(num_exits))
                blind = 1 if later == 0 or 0 in features else 0  # no block reads features: their width is no choice
                reading = len(features) ** later - blind
                grids = math.comb(len(self.choices.token_grids), num_exits)
                total += grids * relations**later * (blind + reading * widths)
        return total

    def __iter__(self) -> Iterator[Shape]:
        """Every cascade once, made as it is asked for; may be far too many to wait for."""
        for backbone, grids in itertools.product(self.backbones(), self.grids()):
            features = self.reuse_depths("feature_reuse_depth", backbone.depth)
            options = [
                StageReuse(feature_depth=blocks, relation_depth=received, relation_upstream_depth=handed_on)
                for blocks, (received, handed_on) in itertools.product(features, self.relation_depths(backbone.depth))
            ]
            groups = self.reuse_groups(len(grids))
            for taken in itertools.product(options, repeat=len(groups)):
                reuses = tuple(reuse for reuse, group in zip(taken, groups, strict=True) for _ in group)
                reads = any(reuse.feature_depth for reuse in reuses)
                for width in self.values("feature_reuse_dim") if reads else (self.base.feature_reuse_dim,):
                    yield Shape(backbone, grids, reuses, width)

    def config(self, shape: Shape) -> CascadeConfig:
        """The cascade of a shape, its depths written as numbers.

        Raises:
            ConfigError: If the shape breaks a rule of cascades.
        """
        coarsest, *later = shape.grids
        stages = [
            StageConfig(
                token_grid=grid,
                feature_reuse_depth=reuse.feature_depth,
                relation_reuse_depth=reuse.relation_depth,
                relation_upstream_depth=reuse.relation_upstream_depth,
            )
            for grid, reuse in zip(later, shape.reuses, strict=True)
        ]
        reads = any(reuse.feature_depth for reuse in shape.reuses)
        return replace(
            self.base,
            stages=(StageConfig(token_grid=coarsest), *stages),
            feature_reuse_dim=shape.context_dim if reads else self.base.feature_reuse_dim,
            **{name: getattr(shape.backbone, name) for name in BACKBONE_FIELDS},
        )

    def shape(self, config: CascadeConfig) -> Shape:
        """The shape of any cascade, whether it is one of the set or not."""
        return Shape(
            backbone=Backbone(config.depth, config.embed_dim, config.num_heads),
            grids=config.token_grids,
            reuses=tuple(config.reuse(index) for index in range(1, config.num_exits)),
            context_dim=config.feature_reuse_dim,
        )

    def require_one_width(self) -> None:
        """Refuse what cascades cannot differ in that share their weights.

        Raises:
            ConfigError: If they differ in the width of tokens or in heads.
        """
        rules = Rules()
        for name in ("embed_dim", "num_heads"):
            values = self.values(name)
            told = ", ".join(map(str, values))
            rule = f"must hold one value where cascades share weights, got {told}; search each in a space of its own"
            rules.require(len(values) == 1, f"cascade.{name}", rule)
        rules.enforce()

    def _check_depths(self, rules: Rules, name: str) -> None:
        given, depths = getattr(self.choices, name), self.values("depth")
        deepest = max(depths)
        for index, blocks in enumerate(given):
            path = f"{name}.{index}"
            if blocks == "all":
                adds = any(depth not in given for depth in depths)
                rules.require(adds, path, f"must not repeat {deepest}, the stages' depth, got all")
            else:
                rules.require(blocks <= deepest, path, f"must be at most {deepest}, the stages' depth, got {blocks}")
        for depth in depths[:-1]:
            told = ", ".join(map(str, given))
            fits = len(_resolved(given, depth)) > 0
            rules.require(fits, name, f"must hold a value of at most depth {depth}, got {told}")

    def _check_grids(self) -> None:
        """What a cascade says of a backbone or grid that it cannot have, such as one too fine for the image."""
        for backbone in self.backbones():
            for index, grid in enumerate(self.choices.token_grids):
                try:
                    self.config(Shape(backbone, (grid,), (), self.base.feature_reuse_dim))
                except ConfigError as error:
                    place = f"token_grids.{index}"
                    raise ConfigError(
                        Problem(problem.path.replace("stages.0.token_grid", place), problem.rule)
                        for problem in error.problems
                    ) from error


def _resolved(depths: tuple[ReuseDepth, ...], depth: int) -> tuple[int, ...]:
    """Depths in blocks of a stage of `depth`, without those that it cannot have."""
    blocks = [depth if each == "all" else each for each in depths]
    return tuple(dict.fromkeys(each for each in blocks if each <= depth))
