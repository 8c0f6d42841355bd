"""Every search space that is shipped loads, round-trips, and says in its header what it is and how large."""

import re
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from dvt.models import VARIANTS
from dvt.search import CascadeCost, load_space

ROOT = Path(__file__).resolve().parents[2]
SPACES = sorted((ROOT / "search_spaces").glob("*.y*ml"))
PROMISED = {"embedded", "imagenet_t2t_vit_12", "imagenet_deit_small", "reuse_ablation"}


def named(path: Path) -> str:
    return path.stem


def header(path: Path) -> str:
    """The comment above the fields, as one line."""
    lines = path.read_text(encoding="utf-8").split("\n\n", maxsplit=1)[0].splitlines()
    assert all(line.startswith("#") for line in lines)
    return " ".join(line.removeprefix("#").strip() for line in lines)


def test_the_spaces_that_are_promised_are_there() -> None:
    assert {path.stem for path in SPACES} >= PROMISED


@pytest.mark.parametrize("path", SPACES, ids=named)
def test_a_space_loads_and_its_candidates_round_trip(path: Path) -> None:
    space = load_space(path)
    assert space.name == path.stem
    assert space.first_points
    for recipe in (*space.first_points, *space.sample(np.random.default_rng(0), 10)):
        params = space.params_of(recipe)
        again = space.recipe_of(params)
        assert space.params_of(again) == params
        assert CascadeCost.of(again.cascade) == CascadeCost.of(recipe.cascade)
        assert (again.optimizer, again.loss, again.data) == (recipe.optimizer, recipe.loss, recipe.data)


@pytest.mark.parametrize("path", SPACES, ids=named)
def test_a_header_tells_source_size_and_command(path: Path) -> None:
    text = header(path)
    for part in ("Source: ", "Searches: ", "Size: ", "Command:"):
        assert part in text, f"{path.name} must tell its {part!r}"
    assert f"dvt search describe search_spaces/{path.name}" in text
    size = re.search(r"Size: ([\d,]+) cascades", text)
    assert size is not None
    assert int(size[1].replace(",", "")) == load_space(path).size()


@pytest.mark.parametrize(
    ("name", "variant"), [("imagenet_t2t_vit_12", "dvt_t2t_vit_12"), ("imagenet_deit_small", "dvt_deit_small")]
)
def test_the_papers_cascade_comes_first(name: str, variant: str) -> None:
    space = load_space(ROOT / "search_spaces" / f"{name}.yaml")
    first, paper = space.first_points[0].cascade, VARIANTS[variant]
    assert first.token_grids == (7, 10, 14)
    assert [first.reuse(index) for index in range(3)] == [paper.reuse(index) for index in range(3)]
    assert CascadeCost.of(first) == CascadeCost.of(paper)


def test_the_ablation_is_features_by_relationships_by_depth() -> None:
    space = load_space(ROOT / "search_spaces" / "reuse_ablation.yaml")
    depths = [(cascade.reuse(1).feature_depth, cascade.reuse(1).relation_depth) for cascade in space.legal_cascades()]
    assert sorted(depths) == sorted(product((0, 3, 6, 9, 12), repeat=2))
    corners = [point.cascade.reuse(2) for point in space.first_points]
    assert [(reuse.feature_depth, reuse.relation_depth) for reuse in corners] == [(0, 0), (12, 0), (0, 12), (12, 12)]
