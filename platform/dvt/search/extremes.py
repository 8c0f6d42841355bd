"""The cheapest and the dearest cascade of a space, exactly, among far too many to look at one by one.

A cascade's multiply-adds and parameters are sums over its stages, and a stage's follow from its own grid, the one
before and its reuse. So for each backbone and sequence of grids the cheapest takes each stage at its least. The dearest
under a cap is a subset-sum: the stages are split into two halves, all sums of each are made, and the halves are matched
by search in sorted order (meet in the middle; Horowitz and Sahni, JACM 1974).

Shapes: O options of a stage, S sums of some stages.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dvt.config import CascadeConfig, StageReuse
from dvt.models import stage_macs, stage_map_bytes, stage_parameters
from dvt.search.cascades import Backbone, CascadeSet, Shape
from dvt.search.limits import CascadeCost, Limits

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Options:
    """The ways in which one stage may follow another, (O,) each, cheapest first; none where all break a cap."""

    reuses: tuple[StageReuse, ...]
    macs: Counts
    parameters: Counts


@dataclass(frozen=True)
class Sums:
    """The ways in which some stages may follow each other, cheapest first, with what they cost together.

    Attributes:
        macs: (S,).
        parameters: (S,).
        places: (S, stages), the option of each stage.
    """

    macs: Counts
    parameters: Counts
    places: Counts


class Sequences:
    """All sequences of grids over one backbone and context width, with the options of each stage.

    Args:
        cascades: The set.
        backbone: One of its backbones.
        context_dim: One of its context widths.
        limits: Options over its cap on relationship maps are left out.
    """

    def __init__(self, cascades: CascadeSet, backbone: Backbone, context_dim: int, limits: Limits) -> None:
        self.cascades, self.backbone, self.context_dim, self._limits = cascades, backbone, context_dim, limits
        self.options = lru_cache(maxsize=None)(self._options)
        self.first = lru_cache(maxsize=None)(self._first)

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        """Those whose first exit is within the largest budget and whose stages all have an option."""
        for grids in self.cascades.grids():
            if self.first(grids[0])[0] <= self._limits.first_exit_macs and all(
                len(options.reuses) > 0 for options in self.later(grids)
            ):
                yield grids

    def later(self, grids: Sequence[int]) -> list[Options]:
        """The options of each stage but the first, or of all of them where they share their reuse depths."""
        stages = [self.options(*pair) for pair in itertools.pairwise(grids)]
        return [_shared(stages)] if stages and self.cascades.choices.is_reuse_shared else stages

    def shape(self, grids: tuple[int, ...], places: Sequence[int]) -> Shape:
        """The cascade of these grids whose later stages take these options."""
        taken = [options.reuses[place] for options, place in zip(self.later(grids), places, strict=True)]
        groups = self.cascades.reuse_groups(len(grids))
        reuses = tuple(reuse for reuse, group in zip(taken, groups, strict=True) for _ in group)
        return Shape(self.backbone, grids, reuses, self.context_dim)

    def cheapest(self, grids: tuple[int, ...]) -> Shape:
        """The cascade of these grids whose stages reuse least."""
        return self.shape(grids, [0] * len(self.later(grids)))

    def _first(self, grid: int) -> tuple[int, int]:
        """Multiply-adds and parameters of a first stage."""
        config = self.cascades.config(Shape(self.backbone, (grid,), (), self.context_dim))
        return stage_macs(config, 0).total, stage_parameters(config, 0)

    def _options(self, upstream_grid: int, grid: int) -> Options:
        """Features and relationships add up, so each is counted alone beside a stage that reuses nothing."""
        depth = self.backbone.depth
        features = self.cascades.reuse_depths("feature_reuse_depth", depth)
        pairs = self.cascades.relation_depths(depth)
        plain = self._second(upstream_grid, grid, StageReuse())
        base = np.array([_macs_and_parameters(plain)])  # (1, 2)
        read = [self._second(upstream_grid, grid, StageReuse(feature_depth=blocks)) for blocks in features]
        mixed = [
            self._second(upstream_grid, grid, StageReuse(relation_depth=blocks, relation_upstream_depth=upstream))
            for blocks, upstream in pairs
        ]
        fits = [stage_map_bytes(config, 1) <= self._limits.map_bytes for config in mixed]
        kept = [pair for pair, is_small in zip(pairs, fits, strict=True) if is_small]
        mixed = [config for config, is_small in zip(mixed, fits, strict=True) if is_small]
        feature_counts = np.array([_macs_and_parameters(config) for config in read]).reshape(-1, 1, 2)
        relation_counts = np.array([_macs_and_parameters(config) for config in mixed]).reshape(1, -1, 2)
        counts = (feature_counts + relation_counts - base).reshape(-1, 2)
        reuses = [
            StageReuse(feature_depth=blocks, relation_depth=received, relation_upstream_depth=upstream)
            for blocks, (received, upstream) in itertools.product(features, kept)
        ]
        return _ordered(reuses, counts)

    def _second(self, upstream_grid: int, grid: int, reuse: StageReuse) -> CascadeConfig:
        return self.cascades.config(Shape(self.backbone, (upstream_grid, grid), (reuse,), self.context_dim))


def cheapest(cascades: CascadeSet, limits: Limits) -> Shape | None:
    """The cascade of the fewest multiply-adds at its last exit within all limits; None if there is none."""
    best: Shape | None = None
    least = limits.macs
    for sequences in _all_sequences(cascades, limits):
        for grids in sequences:
            macs, parameters = _least(sequences, grids)
            if parameters <= limits.parameters and (macs < least or (best is None and macs == least)):
                best, least = sequences.cheapest(grids), macs
    return best


def least_costs(cascades: CascadeSet) -> CascadeCost:
    """The least that any cascade needs of each, which one alone may not reach together; caps aside."""
    costs = [
        CascadeCost.of(cascades.config(sequences.cheapest(grids)))
        for sequences in _all_sequences(cascades, Limits.none())
        for grids in sequences
    ]
    return CascadeCost(
        macs=(min(cost.macs[-1] for cost in costs),),
        parameters=min(cost.parameters for cost in costs),
        map_bytes=min(cost.map_bytes for cost in costs),
    )


def cheapest_exit(cascades: CascadeSet, limits: Limits) -> int | None:
    """Fewest multiply-adds of the first exit of any cascade within all limits; None if there is none."""
    costs = []
    for sequences in _all_sequences(cascades, limits):
        for grids in sequences:
            macs, parameters = _least(sequences, grids)
            if macs <= limits.macs and parameters <= limits.parameters:
                costs.append(sequences.first(grids[0])[0])
    return min(costs, default=None)


def dearest(cascades: CascadeSet, limits: Limits) -> Shape | None:
    """The cascade of the most multiply-adds at its last exit within all limits; None if there is none."""
    best: Shape | None = None
    most = -1
    for sequences in _all_sequences(cascades, limits):
        for grids in sequences:
            found = _dearest_of(sequences, grids, limits, most)
            if found is not None:
                best, most = found
    return best


def _all_sequences(cascades: CascadeSet, limits: Limits) -> Iterator[Sequences]:
    for backbone, width in itertools.product(cascades.backbones(), cascades.values("feature_reuse_dim")):
        yield Sequences(cascades, backbone, width, limits)


def _least(sequences: Sequences, grids: tuple[int, ...]) -> tuple[int, int]:
    """Multiply-adds and parameters where each stage reuses least: both grow with every block that reuses."""
    macs, parameters = sequences.first(grids[0])
    for options in sequences.later(grids):
        macs, parameters = macs + int(options.macs[0]), parameters + int(options.parameters[0])
    return macs, parameters


def _dearest_of(sequences: Sequences, grids: tuple[int, ...], limits: Limits, most: int) -> tuple[Shape, int] | None:
    """The dearest cascade of these grids, if it is dearer than `most`."""
    later = sequences.later(grids)
    first_macs, first_parameters = sequences.first(grids[0])
    macs_left, parameters_left = limits.macs - first_macs, limits.parameters - first_parameters
    full_macs = sum(int(options.macs[-1]) for options in later)
    full_parameters = sum(int(options.parameters[-1]) for options in later)
    if first_macs + full_macs <= most:
        return None
    if full_macs <= macs_left and full_parameters <= parameters_left:
        return sequences.shape(grids, [len(options.reuses) - 1 for options in later]), first_macs + full_macs
    half = (len(later) + 1) // 2
    left, right = _sums(later[:half]), _sums(later[half:])
    found = _match(left, right, (macs_left, parameters_left), most - first_macs)
    if found is None:
        return None
    places = [*left.places[found[0]], *right.places[found[1]]]
    return sequences.shape(grids, places), first_macs + int(left.macs[found[0]] + right.macs[found[1]])


def _match(left: Sums, right: Sums, caps: tuple[float, float], most: int) -> tuple[int, int] | None:
    """The pair of the most multiply-adds within caps on those and on parameters, if they are more than `most`."""
    best = None
    ends = np.searchsorted(right.macs, caps[0] - left.macs, side="right")  # (S of left,), the right ones within the cap
    bounds = np.where(ends > 0, left.macs + right.macs[ends - 1], -1)
    for place in np.argsort(-bounds, kind="stable"):
        if bounds[place] <= most:
            break
        # Beside this left part, what is dearer than the best so far is a short window of the right ones.
        start = int(np.searchsorted(right.macs, most - left.macs[place], side="right"))
        fits = right.parameters[start : ends[place]] <= caps[1] - left.parameters[place]
        if fits.any():
            other = start + int(np.flatnonzero(fits)[-1])
            best, most = (int(place), other), int(left.macs[place] + right.macs[other])
    return best


def _ordered(reuses: Sequence[StageReuse], counts: Counts) -> Options:
    """Options with their multiply-adds and parameters (O, 2), cheapest first."""
    order = np.lexsort((counts[:, 1], counts[:, 0]))
    return Options(tuple(reuses[place] for place in order), counts[order, 0], counts[order, 1])


def _shared(stages: Sequence[Options]) -> Options:
    """Options of several stages that all reuse alike, with what they cost together."""
    rows = [
        {reuse: np.array(counts) for reuse, *counts in zip(each.reuses, each.macs, each.parameters, strict=True)}
        for each in stages
    ]
    reuses = [reuse for reuse in rows[0] if all(reuse in row for row in rows)]
    return _ordered(reuses, np.array([sum(row[reuse] for row in rows) for reuse in reuses]).reshape(-1, 2))


def _sums(stages: Sequence[Options]) -> Sums:
    """All combinations of the options of some stages, one of those that cost the same."""
    macs, parameters, places = np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros((1, 0), np.int64)
    for options in stages:
        macs, parameters = (
            (before[:, None] + each[None]).ravel()
            for before, each in ((macs, options.macs), (parameters, options.parameters))
        )
        taken = np.tile(np.arange(len(options.macs)), len(places))[:, None]
        places = np.concatenate((np.repeat(places, len(options.macs), axis=0), taken), axis=1)
        _, kept = np.unique(np.stack((macs, parameters), axis=1), axis=0, return_index=True)  # sorted by macs
        macs, parameters, places = macs[kept], parameters[kept], places[kept]
    return Sums(macs, parameters, places)


def _macs_and_parameters(config: CascadeConfig) -> tuple[int, int]:
    return stage_macs(config, 1).total, stage_parameters(config, 1)
