"""Multiply-adds from shapes: the published table, torch's own counter, and stages worked by hand."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dvt.config import CascadeConfig, StageConfig
from dvt.models import VARIANTS, Cascade, macs_per_exit, stage_macs
from tests.unit.models.tiny import images, stages, tiny

# Measured on the published code: G multiply-adds of an image that leaves at each exit; entries of the state dict.
PUBLISHED = {
    "dvt_t2t_vit_12": ((0.4677, 1.4461, 3.4550), 22_461_516),
    "dvt_t2t_vit_14": ((1.2006, 3.8181, 9.2642), 67_881_836),
    "dvt_deit_small": ((1.1429, 3.6431, 8.8006), 70_442_232),
}


@pytest.mark.parametrize("variant", PUBLISHED)
def test_variants_cost_what_was_published(variant: str) -> None:
    published, _ = PUBLISHED[variant]
    assert [macs / 1e9 for macs in macs_per_exit(VARIANTS[variant])] == pytest.approx(published, rel=0.0005)


@pytest.mark.parametrize("variant", PUBLISHED)
def test_variants_have_the_published_parameters(variant: str) -> None:
    with torch.device("meta"):
        state = Cascade(VARIANTS[variant]).state_dict()
    assert sum(tensor.numel() for tensor in state.values()) == PUBLISHED[variant][1]


# The paper prints 1.78 for 14x14; the matrix products of its model, which torch counts, come to 1.763.
@pytest.mark.parametrize(("grid", "macs"), [(14, "1.763"), (7, "0.468"), (4, "0.210")])
def test_a_single_stage_costs_what_t2t_vit_12_does(grid: int, macs: str) -> None:
    config = replace(VARIANTS["dvt_t2t_vit_12"], stages=(StageConfig(token_grid=grid),))
    assert f"{macs_per_exit(config)[0] / 1e9:.3f}" == macs
    assert macs_per_exit(config)[0] == counted(config)


def counted(config: CascadeConfig) -> float:
    """Multiply-adds by torch's counter, of one image through all exits."""
    cascade = Cascade(config).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        cascade(images(config, 1))
    return counter.get_total_flops() / 2


def with_depths(feature: Any, relation: Any, upstream: Any) -> tuple[StageConfig, ...]:
    depths = {"feature_reuse_depth": feature, "relation_reuse_depth": relation, "relation_upstream_depth": upstream}
    return stages(2, 3, 7, **depths)


COUNTED: dict[str, CascadeConfig] = {
    "one stage": tiny(stages=stages(5)),
    "no reuse": tiny(stages=with_depths(0, 0, 0)),
    "no reuse, grey": tiny(stages=with_depths(0, 0, 0), in_chans=1, qkv_bias=False, mlp_ratio=1.3),
    "features": tiny(stages=with_depths("all", 0, 0)),
    "relations": tiny(stages=with_depths(0, "all", "all")),
    "partial": tiny(stages=with_depths(1, 2, 1), relation_reuse_ratio=1.7),
    "all": tiny(stages=with_depths("all", "all", "all")),
    "registers, no reuse": tiny(stages=with_depths(0, 0, 0), num_registers=4),
    "registers, all": tiny(num_registers=3, class_pos_embed=False, qk_norm=True, layer_scale=0.1, global_pool="avg"),
    "t2t, no reuse": tiny(family="t2t_vit", stages=with_depths(0, 0, 0)),
    "t2t, all": tiny(family="t2t_vit", image_size=37, in_chans=1),
}


@pytest.mark.parametrize("config", COUNTED.values(), ids=COUNTED.keys())
def test_the_count_is_torchs(config: CascadeConfig) -> None:
    assert macs_per_exit(config)[-1] == counted(config)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_count_of_a_variant_is_torchs(variant: str) -> None:
    config = VARIANTS[variant]
    assert macs_per_exit(config)[-1] == counted(config)


def test_a_stage_worked_by_hand() -> None:
    # 2x2 and 4x4 tokens of 4 channels, 1 block of 2 heads; 8x8 grey pixels; 2 hidden per channel.
    config = tiny(
        image_size=8,
        in_chans=1,
        num_classes=3,
        embed_dim=4,
        depth=1,
        relation_reuse_ratio=3.0,
        stages=stages(2, 4),
    )
    coarse, fine = stage_macs(config, 0), stage_macs(config, 1)
    assert coarse.tokenizer == 4 * 16 * 4  # 4 patches of 4x4 pixels
    assert coarse.blocks == 5 * (4 * 12 + 4 * 4) + 2 * 5 * 5 * 4 + 2 * 5 * 4 * 8  # qkv and proj, attention, MLP
    assert (coarse.feature_reuse, coarse.relation_reuse, coarse.head) == (0, 0, 12)
    assert fine.tokenizer == 16 * 4 * 4
    assert fine.blocks == 17 * (4 * 12 + 4 * 4) + 2 * 17 * 17 * 4 + 2 * 17 * 4 * 8 + 17 * 6 * 8  # 6 channels of context
    assert fine.feature_reuse == 5 * (4 * 8 + 8 * 6)
    assert fine.relation_reuse == 5 * 5 * (2 * 6 + 6 * 2)
    assert fine.total == fine.tokenizer + fine.blocks + fine.feature_reuse + fine.relation_reuse + 12


def test_a_register_costs_what_a_patch_does_but_for_its_pixels() -> None:
    # 2x2 and 3x3 tokens of 4 channels with 2 registers, 1 block; 1x1 hidden maps of 2 heads.
    config = tiny(
        image_size=6,
        in_chans=1,
        num_classes=3,
        embed_dim=4,
        depth=1,
        num_registers=2,
        relation_reuse_ratio=1.0,
        stages=stages(2, 3),
    )
    fine = stage_macs(config, 1)
    assert fine.tokenizer == 9 * 4 * 4
    assert fine.blocks == 12 * (4 * 12 + 4 * 4) + 2 * 12 * 12 * 4 + 2 * 12 * 4 * 8 + 12 * 6 * 8
    assert fine.feature_reuse == 7 * (4 * 8 + 8 * 6)
    assert fine.relation_reuse == 7 * 7 * (2 * 2 + 2 * 2)


def test_costs_add_up_over_exits() -> None:
    config = tiny()
    parts = [stage_macs(config, index).total for index in range(3)]
    assert macs_per_exit(config) == (parts[0], parts[0] + parts[1], sum(parts))
