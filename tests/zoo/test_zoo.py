"""Every variant, and cascades of every kind: shapes, finite numbers, and a gradient that reaches every parameter."""

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from dvt.config import CascadeConfig, StageConfig
from dvt.models import VARIANTS, Cascade

GRIDS = ((7,), (3, 7), (2, 4, 7), (1, 2, 3, 5, 7))
REUSES: dict[str, dict[str, Any]] = {
    "none": {"feature_reuse_depth": 0, "relation_reuse_depth": 0},
    "partial": {"feature_reuse_depth": 1, "relation_reuse_depth": 2, "relation_upstream_depth": 1},
    "all": {},
}
SIZES_AND_CHANNELS = tuple(product((28, 32, 96), (1, 3)))


def small_cascades() -> dict[str, CascadeConfig]:
    """Every number of stages with every family and reuse; sizes and channels take turns."""
    configs = {}
    for number, (grids, family, reuse) in enumerate(product(GRIDS, ("vit", "t2t_vit"), REUSES)):
        image_size, in_chans = SIZES_AND_CHANNELS[(number + number // 6) % 6]  # moves on with every six kinds
        configs[f"{len(grids)} stages, {family}, {reuse} reused, {in_chans}x{image_size}"] = CascadeConfig(
            image_size=image_size,
            in_chans=in_chans,
            num_classes=4,
            family=family,
            embed_dim=12,
            depth=2,
            num_heads=3,
            mlp_ratio=2.0,
            qkv_bias=family == "vit",
            feature_reuse_dim=5,
            feature_reuse_hidden_dim=7,
            stages=tuple(
                StageConfig(token_grid=grid, **(REUSES[reuse] if index else {})) for index, grid in enumerate(grids)
            ),
        )
    return configs


OPTIONS: dict[str, dict[str, Any]] = {
    "LayerScale": {"layer_scale": 0.5},
    "registers": {"num_registers": 2},
    "normalised queries and keys": {"qk_norm": True},
    "mean of the patches": {"global_pool": "avg"},
    "class token without position": {"class_pos_embed": False},
}
OPTIONS["every option"] = {name: value for option in OPTIONS.values() for name, value in option.items()}


SMALL = small_cascades()


def images(config: CascadeConfig, count: int) -> Tensor:
    shape = (count, config.in_chans, config.image_size, config.image_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def unread(config: CascadeConfig) -> set[str]:
    """Prefixes of parameters that no exit depends on.

    The published cascade has them: a context is made for patches only, and nobody reads the patches of the last
    stage's last block.
    """
    names = set()
    is_read = False  # whether a later stage makes anything of a stage's features
    for stage_index in reversed(range(config.num_exits)):
        depth = config.reuse(stage_index).feature_depth
        if depth == config.depth and not is_read and config.global_pool == "token":
            names.add(f"stages.{stage_index}.feature_reuse.{depth - 1}.")
            depth -= 1
        is_read = depth > 0
    return names


def check_gradients(cascade: Cascade, batch: Tensor) -> None:
    """DDP waits for a gradient of every parameter, so that there must be one, be it zero."""
    logits = cascade.train()(batch)
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    (logits * weights).sum().backward()
    without = [name for name, parameter in cascade.named_parameters() if parameter.grad is None]
    assert without == []
    gradients = {name: each.grad for name, each in cascade.named_parameters() if each.grad is not None}
    assert [name for name, gradient in gradients.items() if not gradient.isfinite().all()] == []
    zero = {name for name, gradient in gradients.items() if not gradient.any()}
    prefixes = tuple(unread(cascade.config))
    assert zero == {name for name in gradients if prefixes and name.startswith(prefixes)}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_as_it_is(name: str) -> None:
    torch.manual_seed(0)
    config = replace(VARIANTS[name], drop_path=0.0)  # a dropped block has no gradient
    cascade = Cascade(config).eval()
    batch = images(config, 1)
    with torch.no_grad():
        logits = cascade(batch)
    assert logits.shape == (3, 1, 1000)
    assert logits.isfinite().all()
    assert len({tuple(row) for row in logits[:, 0].tolist()}) == 3  # exits of their own
    check_gradients(cascade, batch)


@pytest.mark.parametrize("config", SMALL.values(), ids=SMALL.keys())
def test_small_cascades(config: CascadeConfig) -> None:
    torch.manual_seed(0)
    cascade = Cascade(config).eval()
    batch = images(config, 2)
    with torch.no_grad():
        logits = cascade(batch)
    assert logits.shape == (config.num_exits, 2, 4)
    assert logits.isfinite().all()
    assert not torch.equal(logits[:, 0], logits[:, 1])
    check_gradients(cascade, batch)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("reuse", REUSES)
def test_options_of_later_transformers(options: dict[str, Any], reuse: str) -> None:
    torch.manual_seed(0)
    config = replace(SMALL[next(name for name in SMALL if f"3 stages, vit, {reuse} reused" in name)], **options)
    cascade = Cascade(config).eval()
    batch = images(config, 2)
    with torch.no_grad():
        logits = cascade(batch)
    assert logits.shape == (3, 2, 4)
    assert logits.isfinite().all()
    check_gradients(cascade, batch)


def test_the_small_cascades_are_of_every_kind() -> None:
    configs = SMALL.values()
    assert len(SMALL) == 24
    assert {config.num_exits for config in configs} == {1, 2, 3, 5}
    for family in ("vit", "t2t_vit"):
        seen = {(config.image_size, config.in_chans) for config in configs if config.family == family}
        assert seen == set(SIZES_AND_CHANNELS)


def test_stochastic_depth_and_dropout_train() -> None:
    torch.manual_seed(0)
    config = next(config for config in SMALL.values() if config.num_exits == 3 and config.family == "t2t_vit")
    cascade = Cascade(replace(config, drop_path=0.5)).train()
    batch = images(config, 8)
    assert not torch.equal(cascade(batch), cascade(batch))
    assert cascade(batch).isfinite().all()
