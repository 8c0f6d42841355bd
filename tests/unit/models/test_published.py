"""The published layout, read and written: exact both ways, and every difference told."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dvt.config import CascadeConfig, StageConfig
from dvt.models import VARIANTS, Cascade, WeightsError, load_published, published_state_dict
from tests.unit.models.tiny import stages, tiny

SWITCHES = [("all", "all"), ("all", 0), (0, "all"), (0, 0)]
EVERY = "dvt_t2t_vit_12, dvt_t2t_vit_14 or dvt_deit_small, of any number of classes and with each reuse on or off"


def config(variant: str, num_classes: int = 10, features: object = "all", relations: object = "all") -> CascadeConfig:
    later = stages(7, 10, 14, feature_reuse_depth=features, relation_reuse_depth=relations)
    return replace(VARIANTS[variant], num_classes=num_classes, stages=later)


def on_meta(asked: CascadeConfig) -> dict[str, Tensor]:
    with torch.device("meta"):
        return published_state_dict(Cascade(asked))


@pytest.fixture(scope="module")
def small() -> dict[str, Tensor]:
    return published_state_dict(Cascade(config("dvt_t2t_vit_12")))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("num_classes", [1000, 10])
@pytest.mark.parametrize(("features", "relations"), SWITCHES)
def test_everything_is_read_off_names_and_shapes(
    variant: str, num_classes: int, features: object, relations: object
) -> None:
    asked = config(variant, num_classes, features, relations)
    state = on_meta(asked)
    cascade = load_published(dict(reversed(state.items())))
    assert cascade.config == asked
    assert not cascade.training
    again = published_state_dict(cascade)
    assert {name: tensor.shape for name, tensor in again.items()} == {n: tensor.shape for n, tensor in state.items()}
    assert any("feature_resuse_mlp" in name for name in state) == bool(features)
    assert any("relation_reuse_conv" in name for name in state) == bool(relations)
    width = asked.embed_dim + (48 if features else 0)
    assert state["less_token.blocks.0.norm2.weight"].shape == (width,)
    assert state["less_token.blocks.0.mlp.fc1.weight"].shape[1] == width


@pytest.mark.parametrize("variant", VARIANTS)
def test_both_ways_are_exact(variant: str) -> None:
    cascade = Cascade(config(variant))
    generator = torch.Generator().manual_seed(0)
    for tensor in cascade.state_dict().values():  # each differs from all others, so that none can be mistaken
        tensor.copy_(torch.rand(tensor.shape, generator=generator))
    state = published_state_dict(cascade)
    loaded = load_published(state)
    own, expected = loaded.state_dict(), cascade.state_dict()
    assert own.keys() == expected.keys()
    assert all(torch.equal(own[name], tensor) for name, tensor in expected.items())
    again = published_state_dict(loaded)
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())
    assert {tensor.dtype for tensor in again.values()} == {torch.float32}


def test_the_loaded_cascade_does_not_share_memory(small: dict[str, Tensor]) -> None:
    loaded = load_published(small)
    name = "normal_token.head.weight"
    before = small[name].clone()
    with torch.no_grad():
        loaded.state_dict()["stages.2.head.weight"].zero_()
    assert torch.equal(small[name], before)


def test_the_type_is_kept(small: dict[str, Tensor]) -> None:
    halves = {name: tensor.bfloat16() for name, tensor in small.items()}
    again = published_state_dict(load_published(halves))
    assert all(torch.equal(again[name], tensor) for name, tensor in halves.items())
    assert {tensor.dtype for tensor in again.values()} == {torch.bfloat16}


def test_every_difference_is_told_at_once(small: dict[str, Tensor]) -> None:
    changed = dict(small)
    del changed["less_less_token.cls_token"]
    del changed["normal_token.blocks.11.mlp.fc2.bias"]
    changed["less_token.extra"] = torch.zeros(1)
    changed["less_less_token.head.weight"] = torch.zeros(11, 256)
    changed["less_less_token.blocks.0.norm1.weight"] = torch.zeros(384)
    with pytest.raises(WeightsError) as caught:
        load_published(changed)
    assert str(caught.value) == (
        "a published state dict must have the entries of the model, got 5 differences: "
        "missing less_less_token.cls_token, missing normal_token.blocks.11.mlp.fc2.bias, unexpected less_token.extra, "
        "less_less_token.blocks.0.norm1.weight of shape (384,) instead of (256,), "
        "less_less_token.head.weight of shape (11, 256) instead of (10, 256)"
    )


CHOICES = (
    "choose from (256,) and tokens_to_token for dvt_t2t_vit_12, (384,) and tokens_to_token for dvt_t2t_vit_14, "
    "(384,) and patch_embed for dvt_deit_small"
)


@pytest.mark.parametrize(
    ("state", "got"),
    [
        ({}, "no such entry and no tokenizer"),
        ({"cls_token": torch.zeros(1, 1, 256)}, "no such entry and no tokenizer"),
        (
            {
                "less_less_token.blocks.0.norm1.weight": torch.zeros(448),
                "less_token.tokens_to_token.project.bias": torch.zeros(448),
            },
            "(448,) and tokens_to_token",
        ),
        (
            {
                "less_less_token.blocks.0.norm1.weight": torch.zeros(256),
                "less_token.patch_embed.proj.bias": torch.zeros(256),
            },
            "(256,) and patch_embed",
        ),
    ],
)
def test_a_variant_that_cannot_be_told(state: dict[str, Tensor], got: str) -> None:
    with pytest.raises(WeightsError) as caught:
        load_published(state)
    assert str(caught.value) == (
        "a published state dict must have less_less_token.blocks.0.norm1.weight and a tokenizer of a published "
        f"variant, got {got}; {CHOICES}"
    )


def test_what_is_no_tensor_is_told(small: dict[str, Tensor]) -> None:
    with pytest.raises(WeightsError) as caught:
        load_published({**small, "epoch": 3, "lr": 0.1})  # type: ignore[dict-item]
    assert str(caught.value) == "a published state dict must hold tensors alone, got others at epoch, lr"


def test_mixed_types_are_told(small: dict[str, Tensor]) -> None:
    name = "less_token.norm.bias"
    with pytest.raises(WeightsError) as caught:
        load_published({**small, name: small[name].half()})
    assert str(caught.value) == (
        "a published state dict must hold numbers of one floating type, got torch.float16, torch.float32; convert it"
    )


@pytest.mark.parametrize(
    ("asked", "got"),
    [
        (
            replace(VARIANTS["dvt_deit_small"], stages=stages(7, 14)),
            "token grids 7, 14 instead of 7, 10, 14",
        ),
        (
            replace(VARIANTS["dvt_deit_small"], stages=stages(7, 10, 14, feature_reuse_depth=5)),
            "feature_depth 5, 5 instead of 0 or 12 for all",
        ),
        (
            config("dvt_t2t_vit_14", relations=3),
            "relation_depth 3, 3 instead of 0 or 14 for all",
        ),
        (
            replace(
                VARIANTS["dvt_t2t_vit_12"],
                stages=(
                    StageConfig(token_grid=7),
                    StageConfig(token_grid=10, feature_reuse_depth=0),
                    StageConfig(token_grid=14, relation_upstream_depth=4),
                ),
            ),
            "feature_depth 0, 12 instead of 0 or 12 for all, relation_upstream_depth 12, 4 instead of 0 or 12 for all",
        ),
        (
            replace(VARIANTS["dvt_t2t_vit_12"], embed_dim=448, depth=19, num_heads=7),
            "embed_dim 448 instead of 256, depth 19 instead of 12, num_heads 7 instead of 4",
        ),
        (
            tiny(family="t2t_vit", stages=stages(2, 4)),
            (
                "image_size 32 instead of 224, embed_dim 16 instead of 256, depth 3 instead of 12, num_heads 2 instead "
                "of 4, qkv_bias True instead of False, norm_eps 1e-06 instead of 1e-05, feature_reuse_dim 6 instead "
                "of 48, feature_reuse_hidden_dim 8 instead of 128, token grids 2, 4 instead of 7, 10, 14"
            ),
        ),
    ],
)
def test_a_cascade_that_the_layout_cannot_hold(asked: CascadeConfig, got: str) -> None:
    with pytest.raises(WeightsError) as caught:
        on_meta(asked)
    assert str(caught.value) == f"a cascade in the published layout must be {EVERY}, got {got}"
