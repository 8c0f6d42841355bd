"""The set of cascades: its size by counting is its size by looking, and its extremes are those of looking."""

from typing import Any

import numpy as np
import pytest

from dvt.config import CascadeConfig
from dvt.search import CascadeCost, Space
from tests.unit.search.tiny import space

CHOICES: dict[str, dict[str, Any]] = {
    "all of it": {},
    "one exit": {"num_exits": [1]},
    "features always": {"feature_reuse_depth": [1, 2]},
    "relationships always": {"relation_reuse_depth": [1, 2], "relation_upstream_depth": ["all"]},
    "no features": {"feature_reuse_depth": [0]},
    "the paper's reuse": {"feature_reuse_depth": ["all"], "relation_reuse_depth": ["all"]},
    "shared reuse": {"is_reuse_shared": True, "num_exits": [1, 3, 4], "relation_reuse_depth": [0, 1, 2]},
    "backbones": {
        "num_exits": [1, 2],
        "depth": [1, 2],
        "embed_dim": [12, 16],
        "num_heads": [2, 3, 4],
        "feature_reuse_depth": [0, 1, "all"],
    },
}
CAPS: dict[str, dict[str, float]] = {
    "none": {},
    "multiply-adds": {"max_macs": 8.2e5},
    "parameters": {"max_parameters": 36_000},
    "maps": {"max_map_mib": 0.005},
    "several": {"max_macs": 7.8e5, "max_parameters": 37_000, "max_map_mib": 0.023},
}


def last(config: CascadeConfig) -> int:
    return CascadeCost.of(config).macs[-1]


@pytest.mark.parametrize("choices", CHOICES.values(), ids=CHOICES)
def test_size_is_the_number_of_different_cascades(choices: dict[str, Any]) -> None:
    cascades = space(choices).cascades
    configs = [cascades.config(shape) for shape in cascades]
    assert cascades.size() == len(configs) == len(set(configs))


def test_sizes_worked_by_hand() -> None:
    # One exit: 4. Two: 6 pairs of grids, 3 ways with relationships, 1 + 2 with features. Three: 4 x 9 x (1 + 3 * 2).
    assert space().size() == 4 + 6 * 3 * 3 + 4 * 9 * 7
    # As one group: 4 x 3 x 3 of three exits.
    assert space({"is_reuse_shared": True}).size() == 4 + 6 * 3 * 3 + 4 * 3 * 3
    # 12 channels have 2, 3 or 4 heads, 16 have 2 or 4: 5, each with 2 depths; the grids of one exit are 4.
    assert space(CHOICES["backbones"] | {"num_exits": [1]}).size() == 2 * 5 * 4


@pytest.mark.parametrize("caps", CAPS.values(), ids=CAPS)
@pytest.mark.parametrize("choices", CHOICES.values(), ids=CHOICES)
def test_extremes_are_those_of_all_cascades(choices: dict[str, Any], caps: dict[str, float]) -> None:
    searched = space(choices, constraints=caps)
    macs = [last(config) for config in searched.legal_cascades()]
    assert len(macs) > 0
    assert last(searched.cheapest()) == min(macs)
    assert last(searched.dearest()) == max(macs)
    for config in (searched.cheapest(), searched.dearest()):
        assert searched.limits.broken_by(CascadeCost.of(config)) is None


def test_caps_bind_somewhere() -> None:
    counts = {name: sum(1 for _ in space(constraints=caps).legal_cascades()) for name, caps in CAPS.items()}
    assert counts.pop("none") == space().size()
    assert all(count < space().size() for count in counts.values())
    assert len(set(counts.values())) == len(counts)


@pytest.mark.parametrize("seed", range(20))
def test_the_dearest_of_four_transitions_under_random_caps(seed: int) -> None:
    generator = np.random.default_rng(seed)
    choices = {"num_exits": [5], "token_grids": [2, 3, 4, 5, 6], "feature_reuse_dim": [8]}
    free = space(choices | {"relation_upstream_depth": [1]})
    costs = [CascadeCost.of(config) for config in free.legal_cascades()]
    macs, parameters = ([each(cost) for cost in costs] for each in (lambda c: c.macs[-1], lambda c: c.parameters))
    caps = {
        "max_macs": float(generator.uniform(min(macs), max(macs))),
        "max_parameters": int(generator.uniform(np.median(parameters), max(parameters))),
    }
    capped = space(choices | {"relation_upstream_depth": [1]}, constraints=caps)
    legal = [m for m, p in zip(macs, parameters, strict=True) if m <= caps["max_macs"] and p <= caps["max_parameters"]]
    assert last(capped.dearest()) == max(legal)
    assert last(capped.cheapest()) == min(legal)


def test_the_first_exit_is_within_the_largest_budget() -> None:
    searched: Space = space(budgets={"min_macs": 1e5, "max_macs": 2e5})
    firsts = {config.token_grids[0]: CascadeCost.of(config).macs[0] for config in searched.legal_cascades()}
    assert set(firsts) < {2, 3, 5, 7}
    assert max(firsts.values()) <= 2e5
    assert searched.dearest().token_grids[0] in firsts
