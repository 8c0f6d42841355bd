"""The variants, by name and through timm."""

import pytest
import timm
import torch
from timm.optim import create_optimizer_v2

from dvt.config import ConfigError
from dvt.models import VARIANTS, Cascade
from tests.unit.models.tiny import tiny

# Width, blocks, heads, MLP ratio, query-key-value bias, epsilon; as the paper's table.
BACKBONES = {
    "dvt_t2t_vit_12": ("t2t_vit", 256, 12, 4, 2, False, 1e-5),
    "dvt_t2t_vit_14": ("t2t_vit", 384, 14, 6, 3, False, 1e-5),
    "dvt_deit_small": ("vit", 384, 12, 6, 4, True, 1e-6),
}


@pytest.mark.parametrize("name", BACKBONES)
def test_backbones_are_the_papers(name: str) -> None:
    config = VARIANTS[name]
    backbone = (config.family, config.embed_dim, config.depth, config.num_heads)
    assert (*backbone, config.mlp_ratio, config.qkv_bias, config.norm_eps) == BACKBONES[name]
    assert (config.image_size, config.in_chans, config.num_classes) == (224, 3, 1000)
    assert (config.token_grids, config.drop_path) == ((7, 10, 14), 0.1)
    reuse = (config.feature_reuse_dim, config.feature_reuse_hidden_dim, config.relation_reuse_ratio)
    assert reuse == (48, 128, 3)
    for index in (1, 2):
        depths = config.reuse(index)
        assert {depths.feature_depth, depths.relation_depth, depths.relation_upstream_depth} == {config.depth}


def test_timm_lists_the_variants() -> None:
    assert set(VARIANTS) == set(BACKBONES)
    assert timm.list_models("dvt_*") == sorted(VARIANTS)
    assert timm.list_models("dvt_*", pretrained=True) == []
    for name in VARIANTS:
        assert timm.is_model(name)


@pytest.mark.parametrize("name", VARIANTS)
def test_timm_creates_the_variants(name: str) -> None:
    with torch.device("meta"):
        cascade = timm.create_model(name, num_classes=10)
    assert isinstance(cascade, Cascade)
    assert cascade.num_classes == cascade.config.num_classes == 10
    assert [stage.head.out_features for stage in cascade.stages] == [10] * 3


def test_timm_changes_what_can_be_changed() -> None:
    with torch.device("meta"):
        cascade = timm.create_model("dvt_deit_small", num_classes=7, in_chans=1, img_size=128, drop_path_rate=0.3)
        unchanged = timm.create_model("dvt_deit_small")
    config = cascade.config
    assert (config.num_classes, config.in_chans, config.image_size, config.drop_path) == (7, 1, 128, 0.3)
    assert unchanged.config == VARIANTS["dvt_deit_small"]


def test_timm_refuses_what_cannot_be_changed() -> None:
    with pytest.raises(TypeError) as caught:
        timm.create_model("dvt_deit_small", depth=3)
    assert str(caught.value) == (
        "depth must be an argument of dvt_deit_small, got another; "
        "choose from num_classes, in_chans, img_size, drop_path_rate"
    )
    with pytest.raises(ConfigError) as broken:
        timm.create_model("dvt_deit_small", img_size=12)
    assert str(broken.value) == "stages.2.token_grid must be at most 12 for family vit and image_size 12, got 14"


def test_there_are_no_pretrained_weights() -> None:
    with pytest.raises(
        ValueError, match=r"^pretrained must be False for dvt_t2t_vit_14, got True; load weights from a "
    ):
        timm.create_model("dvt_t2t_vit_14", pretrained=True)


def test_timm_decays_what_it_should() -> None:
    cascade = Cascade(tiny())
    optimizer = create_optimizer_v2(cascade, opt="adamw", weight_decay=0.05)
    names = {id(parameter): name for name, parameter in cascade.named_parameters()}
    told = {
        group["weight_decay"]: {names[id(parameter)] for parameter in group["params"]}
        for group in optimizer.param_groups
    }
    free = {name for name, parameter in cascade.named_parameters() if parameter.ndim == 1}
    free |= {name for name in names.values() if name.endswith(("cls_token", "pos_embed"))}
    assert told == {0.0: free, 0.05: set(names.values()) - free}
