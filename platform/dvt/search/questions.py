"""Asking a trial for a cascade, choice by choice, each under a name that stays the same.

Names, in the order in which they are asked for; a choice of one value is not asked for:

    depth, embed_dim, num_heads
    num_exits
    <E>_exits.grid_<k>                  index into `token_grids` of stage k of E, above that of stage k - 1
    exit_<k>.feature_reuse_depth        of every stage but the first; later_exits where all share their depths
    exit_<k>.relation_reuse_depth
    exit_<k>.relation_upstream_depth    where relationships are reused
    feature_reuse_dim                   where some block reads features

Where the allowed values depend on an earlier choice, its value is in the name, as in
`exit_2.feature_reuse_depth.depth_6`: searchers such as Optuna's take one list of values a name.
"""

from collections.abc import Callable

from dvt.config import CascadeConfig, ConfigError, Problem, StageReuse
from dvt.search.cascades import Backbone, CascadeSet, Shape
from dvt.search.suggester import Scalar, Suggester, choose


def suggest_shape(cascades: CascadeSet, trial: Suggester) -> Shape:
    """One cascade of a set, chosen by the trial; caps are not looked at."""
    backbone = _suggest_backbone(cascades, trial)
    num_exits = choose(trial, "num_exits", cascades.choices.num_exits)
    grids = _suggest_grids(cascades.choices.token_grids, num_exits, trial)
    reuses: list[StageReuse] = []
    for group in cascades.reuse_groups(num_exits):
        reuses += [_suggest_reuse(cascades, backbone.depth, _stage_name(cascades, group[0]), trial)] * len(group)
    reads = any(reuse.feature_depth for reuse in reuses)
    widths = cascades.values("feature_reuse_dim")
    width = choose(trial, "feature_reuse_dim", widths) if reads else cascades.base.feature_reuse_dim
    return Shape(backbone, grids, tuple(reuses), width)


def answers_of(cascades: CascadeSet, config: CascadeConfig) -> dict[str, Scalar]:
    """What a trial must have answered for `suggest_shape` to choose this cascade; more than it is asked for.

    Raises:
        ConfigError: If a grid is none of the set's.
    """
    shape, known = cascades.shape(config), cascades.choices.token_grids
    problems = [
        Problem(f"cascade.stages.{index}.token_grid", f"must be one of {', '.join(map(str, known))}, got {grid}")
        for index, grid in enumerate(shape.grids)
        if grid not in known
    ]
    if problems:
        raise ConfigError(problems)
    backbone, num_exits = shape.backbone, len(shape.grids)
    answers: dict[str, Scalar] = {
        "depth": backbone.depth,
        "embed_dim": backbone.embed_dim,
        _heads_name(cascades, backbone.embed_dim): backbone.num_heads,
        "num_exits": num_exits,
        "feature_reuse_dim": shape.context_dim,
    }
    for k, grid in enumerate(shape.grids, start=1):
        answers[_grid_name(num_exits, k)] = known.index(grid)
    for k, reuse in enumerate(shape.reuses, start=2):
        blocks = {
            "feature_reuse_depth": reuse.feature_depth,
            "relation_reuse_depth": reuse.relation_depth,
            "relation_upstream_depth": reuse.relation_upstream_depth,
        }
        for field, value in blocks.items():
            answers[_depth_name(cascades, _stage_name(cascades, k), field, backbone.depth)] = value
    return answers


def _suggest_backbone(cascades: CascadeSet, trial: Suggester) -> Backbone:
    depth = choose(trial, "depth", cascades.values("depth"))
    dim = choose(trial, "embed_dim", cascades.values("embed_dim"))
    return Backbone(depth, dim, choose(trial, _heads_name(cascades, dim), cascades.heads(dim)))


def _suggest_grids(known: tuple[int, ...], num_exits: int, trial: Suggester) -> tuple[int, ...]:
    """Increasing by construction: each index is above the one before, and leaves room for those behind."""
    grids: list[int] = []
    lowest = 0
    for k in range(1, num_exits + 1):
        highest = len(known) - 1 - (num_exits - k)
        index = choose(trial, _grid_name(num_exits, k), range(lowest, highest + 1))
        grids.append(known[index])
        lowest = index + 1
    return tuple(grids)


def _suggest_reuse(cascades: CascadeSet, depth: int, stage: str, trial: Suggester) -> StageReuse:
    def ask(field: str) -> int:
        return choose(trial, _depth_name(cascades, stage, field, depth), cascades.reuse_depths(field, depth))

    features, relations = ask("feature_reuse_depth"), ask("relation_reuse_depth")
    upstream = ask("relation_upstream_depth") if relations else 0
    return StageReuse(feature_depth=features, relation_depth=relations, relation_upstream_depth=upstream)


def _grid_name(num_exits: int, k: int) -> str:
    return f"{num_exits}_exits.grid_{k}"


def _stage_name(cascades: CascadeSet, k: int) -> str:
    return "later_exits" if cascades.choices.is_reuse_shared else f"exit_{k}"


def _heads_name(cascades: CascadeSet, embed_dim: int) -> str:
    name = "num_heads"
    return _conditional(name, "embed_dim", embed_dim, cascades.values("embed_dim"), cascades.heads)


def _depth_name(cascades: CascadeSet, stage: str, field: str, depth: int) -> str:
    name = f"{stage}.{field}"
    return _conditional(name, "depth", depth, cascades.values("depth"), lambda each: cascades.reuse_depths(field, each))


def _conditional(
    name: str, on: str, value: int, conditions: tuple[int, ...], allowed: Callable[[int], tuple[int, ...]]
) -> str:
    """`name`, with the condition behind it where different conditions allow different values."""
    return name if len({allowed(each) for each in conditions}) == 1 else f"{name}.{on}_{value}"
