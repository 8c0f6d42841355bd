"""Shared weights: what a cascade inherits computes alone what it computes in the elastic cascade."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from timm.layers.patch_embed import resample_patch_embed

from dvt.config import CascadeConfig, ConfigError, StageConfig
from dvt.models import Cascade
from dvt.search import Space
from dvt.search.elastic import ElasticCascade
from dvt.search.settings import Sharing
from dvt.search.shared_stage import resize_patches
from tests.unit.search.tiny import BASE, space

SHARINGS: tuple[Sharing, ...] = ("grid", "position")
SHAPE = {"feature_reuse_hidden_dim": 8, "relation_reuse_ratio": 1.5, "mlp_ratio": 2}
NO_RELATIONS = {"relation_reuse_depth": 0, "relation_upstream_depth": 0}
SPACES: dict[str, dict[str, Any]] = {
    "vit": {},
    "depths": {"depth": [1, 2, 3], "feature_reuse_depth": [0, 1, "all"], "relation_reuse_depth": [0, 1]},
    "options": {
        "cascade": {
            "num_registers": 2,
            "class_pos_embed": False,
            "qk_norm": True,
            "layer_scale": 0.1,
            "global_pool": "avg",
        }
    },
    "t2t_vit": {"cascade": {"family": "t2t_vit", "stages": [{"token_grid": 2}]}},
}


def make_space(name: str) -> Space:
    choices = dict(SPACES[name])
    cascade = BASE["cascade"] | SHAPE | choices.pop("cascade", {})
    return space(choices, base=BASE | {"cascade": cascade}, budgets={"min_macs": 4e6, "max_macs": 1e9})


def make_elastic(of: Space, sharing: Sharing) -> ElasticCascade:
    torch.manual_seed(0)
    elastic = ElasticCascade(of.cascades, sharing)
    with torch.no_grad():  # no zeros, so that what is cut wrongly is seen
        for parameter in elastic.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return elastic


def sampled(of: Space, count: int = 2) -> list[CascadeConfig]:
    return [recipe.cascade for recipe in of.sample(np.random.default_rng(1), count)]


def every_part(of: Space) -> list[CascadeConfig]:
    """Cascades in which every grid reuses as much as it may."""
    cascades = of.cascades
    depth = max(cascades.values("depth"))
    relations, upstream = cascades.relation_depths(depth)[-1]
    most = {
        "feature_reuse_depth": cascades.reuse_depths("feature_reuse_depth", depth)[-1],
        "relation_reuse_depth": relations,
        "relation_upstream_depth": upstream,
    }
    stages = [
        (StageConfig(token_grid=first), *(StageConfig(token_grid=grid, **most) for grid in later))
        for first, *later in [(2, 3), (2, 5), (3, 7), (5, 7), (7,), (2, 3, 5), (2, 3, 7), (2, 5, 7)]
    ]
    return [replace(cascades.base, stages=each, depth=depth, feature_reuse_dim=16) for each in stages]


def make_images(count: int = 3) -> torch.Tensor:
    return torch.randn(count, 1, 28, 28, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("name", SPACES)
def test_an_inheriting_cascade_computes_the_same(name: str, sharing: Sharing) -> None:
    of = make_space(name)
    elastic, images = make_elastic(of, sharing).eval(), make_images()
    for config in [of.dearest(), *sampled(of)]:
        alone = Cascade(config).eval()
        alone.load_state_dict(elastic.inherit(config), strict=True)
        with torch.no_grad():
            torch.testing.assert_close(elastic(images, config), alone(images), rtol=0, atol=1e-5)
            torch.testing.assert_close(elastic(images, config, False), alone(images, False), rtol=0, atol=1e-5)
            torch.testing.assert_close(elastic.extract(config)(images), alone(images), rtol=0, atol=0)


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("name", SPACES)
def test_a_gradient_reaches_every_shared_number(name: str, sharing: Sharing) -> None:
    of = make_space(name)
    elastic = make_elastic(of, sharing).train()
    for config in every_part(of):
        logits = elastic(make_images(), config)
        (logits * torch.randn(logits.shape)).sum().backward()
    untouched = {
        name for name, parameter in elastic.named_parameters() if parameter.grad is None or not parameter.grad.any()
    }
    # The last block's context reaches the patches alone, which nobody reads after the last stage.
    last = "grid_7" if sharing == "grid" else "stage_2"
    blind = f"shared.{last}.stage.feature_reuse.{len(elastic.shared[last].stage.blocks) - 1}."
    assert {name for name in untouched if not name.startswith(blind)} == set()


def test_gradients_are_those_of_the_cascade_alone() -> None:
    of = make_space("vit")
    elastic, config, images = make_elastic(of, "grid"), of.dearest(), make_images()
    alone = elastic.extract(config)
    alone(images).square().sum().backward()
    elastic(images, config).square().sum().backward()
    finest = config.token_grids[-1]
    shared = elastic.get_parameter(f"shared.grid_{finest}.stage.blocks.0.attn.qkv.weight").grad
    assert shared is not None
    torch.testing.assert_close(shared, alone.stages[-1].blocks[0].attn.qkv.weight.grad)


def test_the_last_blocks_upstream_are_the_same_ones_however_many_hand_on() -> None:
    of = make_space("vit")
    elastic = make_elastic(of, "grid")

    def taken(upstream: int) -> torch.Tensor:
        later = StageConfig(
            token_grid=5, feature_reuse_depth=0, relation_reuse_depth=1, relation_upstream_depth=upstream
        )
        config = replace(of.base.cascade, stages=(StageConfig(token_grid=2), later))
        return elastic.inherit(config)["stages.1.relation_reuse.fc1.weight"]

    assert torch.equal(taken(1), taken(2)[:, 2:])  # two heads


def test_fewer_context_channels_are_the_first() -> None:
    of = make_space("vit")
    elastic = make_elastic(of, "position")
    stages = (StageConfig(token_grid=2), StageConfig(token_grid=5, **NO_RELATIONS))
    narrow, wide = (elastic.inherit(replace(of.base.cascade, stages=stages, feature_reuse_dim=dim)) for dim in (8, 16))
    name = "stages.1.blocks.0.mlp.fc1.weight"
    assert torch.equal(narrow[name], wide[name][:, : 16 + 8])
    name = "stages.1.feature_reuse.0.mlp.fc2.weight"
    assert torch.equal(narrow[name], wide[name][:8])


@pytest.mark.parametrize("patch", [4, 6, 14, 20])
def test_patches_are_resized_as_timm_does(patch: int) -> None:
    weight = torch.randn(5, 1, 14, 14, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        resize_patches(weight, patch), resample_patch_embed(weight, [patch, patch]), rtol=1e-4, atol=1e-4
    )


def test_running_a_cascade_draws_no_random_numbers() -> None:
    of = make_space("vit")
    elastic = make_elastic(of, "grid")
    before = torch.get_rng_state()
    elastic(make_images(), of.dearest())
    elastic.extract(of.cheapest())
    assert torch.equal(torch.get_rng_state(), before)


def test_looking_without_gradients_first_leaves_what_gradients_need() -> None:
    of = make_space("vit")
    elastic = make_elastic(of, "position")
    config = replace(
        of.base.cascade,
        stages=(StageConfig(token_grid=2), StageConfig(token_grid=7, **NO_RELATIONS)),
        feature_reuse_dim=8,
    )
    with torch.inference_mode():
        elastic(make_images(), config)
    elastic(make_images(), config).sum().backward()


def test_few_skeletons_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dvt.search.elastic.MOST_SKELETONS", 2)
    of = make_space("vit")
    elastic = make_elastic(of, "grid")
    for config in sampled(of, 5):
        elastic.inherit(config)
    assert len(elastic._skeletons) == 2


def test_other_cascades_are_refused() -> None:
    of = make_space("vit")
    elastic = make_elastic(of, "grid")
    for config in (
        replace(of.base.cascade, stages=(StageConfig(token_grid=4),)),
        replace(of.dearest(), embed_dim=32),
        replace(of.dearest(), mlp_ratio=3.0),
    ):
        with pytest.raises(ValueError, match="config must be one of the cascades with shared weights"):
            elastic(make_images(), config)


def test_cascades_of_several_widths_cannot_share() -> None:
    of = space({"embed_dim": [16, 32], "num_heads": [1, 2]})
    with pytest.raises(ConfigError) as caught:
        ElasticCascade(of.cascades)
    assert str(caught.value) == (
        "cascade.embed_dim must hold one value where cascades share weights, got 16, 32; "
        "search each in a space of its own\n"
        "cascade.num_heads must hold one value where cascades share weights, got 1, 2; "
        "search each in a space of its own"
    )
