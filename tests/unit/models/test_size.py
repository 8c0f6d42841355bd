"""Sizes from shapes alone are those of the model that is built."""

from typing import Any

import pytest
import torch

from dvt.config import CascadeConfig
from dvt.models import VARIANTS, Cascade, count_parameters, largest_map_bytes, stage_map_bytes, stage_parameters
from tests.unit.models.tiny import stages, tiny


def built(config: CascadeConfig) -> list[int]:
    with torch.device("meta"):
        cascade = Cascade(config)
    return [sum(tensor.numel() for tensor in stage.state_dict().values()) for stage in cascade.stages]


@pytest.mark.parametrize(
    ("name", "published"),
    [("dvt_t2t_vit_12", 22_461_516), ("dvt_t2t_vit_14", 67_881_836), ("dvt_deit_small", 70_442_232)],
)
def test_the_published_numbers(name: str, published: int) -> None:
    assert count_parameters(VARIANTS[name]) == published


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_registers": 2, "class_pos_embed": False},
        {"layer_scale": 1e-5, "qk_norm": True, "global_pool": "avg", "qkv_bias": False},
        {"stages": stages(2, 3, 4, feature_reuse_depth=1, relation_reuse_depth=2, relation_upstream_depth=1)},
        {"stages": stages(2, 4, feature_reuse_depth=0, relation_reuse_depth=0), "relation_reuse_ratio": 1.3},
        {"stages": stages(3, 4, feature_reuse_depth=0), "mlp_ratio": 1.7, "feature_reuse_dim": 7},
    ],
)
def test_stages_have_what_is_counted(options: dict[str, Any]) -> None:
    config = tiny(**options)
    assert [stage_parameters(config, index) for index in range(config.num_exits)] == built(config)


def test_maps_are_those_of_the_largest_stage() -> None:
    config = tiny(stages=stages(2, 3, relation_reuse_depth=2, relation_upstream_depth=1))  # 2 heads
    # 5 tokens upstream, 10 downstream: 2 maps handed on, 12 hidden, 4 mixed; 2 resized.
    assert stage_map_bytes(config, 1) == 4 * (18 * 5 * 5 + 2 * 10 * 10)
    assert largest_map_bytes(config) == stage_map_bytes(config, 1)
    assert largest_map_bytes(tiny(stages=stages(3))) == 0
