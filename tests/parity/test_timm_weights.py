"""Every stage of a cascade that starts from a timm ViT computes what that ViT does at the stage's grid, reuse or not.

The ViT at a grid is timm's own, its weights resampled by timm's own functions, called here directly.
"""

import math
from typing import Any

import pytest
import torch
from timm.layers.patch_embed import resample_patch_embed
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from dvt.config import CascadeConfig, StageConfig
from dvt.models import Cascade
from dvt.models.timm_weights import init_from_timm
from tests.parity.timm_vit import noisy_vit, padded, vit_options

DINOV2: dict[str, Any] = {"layer_scale": 1e-5, "num_registers": 4, "class_pos_embed": False}
CASES: dict[str, dict[str, Any]] = {
    "7x7 and 10x10 from 14x14": {"image_size": 56, "source": 14, "patch": 4, "grids": (7, 10, 14)},
    "of 224 pixels": {"image_size": 224, "source": 14, "patch": 16, "grids": (7, 10, 14), "depth": 2},
    "from 37x37 of 14 pixels": {"image_size": 224, "source": 37, "patch": 14, "grids": (7, 10, 16), "depth": 2},
    "registers with positions": {"num_registers": 3},
    "DeiT-III": {"layer_scale": 1e-4, "class_pos_embed": False},
    "DINOv2": {"layer_scale": 1e-5},
    "DINOv2 with registers": DINOV2,
    "DINOv2 with registers, from 37x37": DINOV2 | {"source": 37, "patch": 14, "image_size": 56},
    "normalised queries and keys": {"qk_norm": True},
    "mean of the patches": {"global_pool": "avg", "num_registers": 2},
    "every option": DINOV2 | {"qk_norm": True, "global_pool": "avg"},
    "grey, no bias": {"in_chans": 1, "qkv_bias": False},
    "context wider than the tokens": {"feature_reuse_dim": 48, "norm_eps": 1e-8},
    "partial reuse": {"reuse": {"feature_reuse_depth": 1, "relation_reuse_depth": 2, "relation_upstream_depth": 1}},
}


def setup(case: dict[str, Any]) -> tuple[CascadeConfig, VisionTransformer]:
    """A cascade whose context is an eighth of its width, as published, and timm's ViT at any grid."""
    backbone = {"image_size": 28, "num_classes": 7, "embed_dim": 24, "depth": 3, "num_heads": 3}
    values = backbone | {"feature_reuse_dim": 3} | case
    source, patch = values.pop("source", 7), values.pop("patch", 4)
    grids, reuse = values.pop("grids", (2, 3, 7)), values.pop("reuse", {})
    stages = tuple(StageConfig(token_grid=grid, **(reuse if index else {})) for index, grid in enumerate(grids))
    config = CascadeConfig(**values, stages=stages)
    return config, noisy_vit(config, img_size=source * patch, patch_size=patch)


def at_grid(vit: VisionTransformer, config: CascadeConfig, grid: int) -> VisionTransformer:
    """timm's ViT at another grid."""
    patch = math.ceil(config.image_size / grid)
    state = vit.state_dict()
    state["patch_embed.proj.weight"] = resample_patch_embed(state["patch_embed.proj.weight"], [patch, patch])
    num_prefix = 0 if vit.no_embed_class else vit.num_prefix_tokens
    old = list(vit.patch_embed.grid_size)
    state["pos_embed"] = resample_abs_pos_embed(state["pos_embed"], [grid, grid], old, num_prefix)
    resampled = VisionTransformer(img_size=grid * patch, patch_size=patch, **vit_options(config)).eval()
    resampled.to(next(vit.parameters()).dtype).load_state_dict(state)
    return resampled


def differences(config: CascadeConfig, vit: VisionTransformer, dtype: torch.dtype) -> list[float]:
    """By stage, the largest difference of a logit to timm's."""
    torch.manual_seed(0)
    cascade = Cascade(config).eval().to(dtype)
    init_from_timm(cascade, vit.state_dict())
    shape = (3, config.in_chans, config.image_size, config.image_size)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
    with torch.no_grad():
        logits = cascade(images)
        found = []
        for got, grid in zip(logits, config.token_grids, strict=True):
            expected: Tensor = at_grid(vit, config, grid)(padded(images, grid))
            assert expected.std() > 0.1
            found.append((got - expected).abs().max().item())
    return found


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_every_exit_starts_as_timms_vit(case: dict[str, Any]) -> None:
    config, vit = setup(case)
    assert max(differences(config, vit, torch.float32)) < 1e-5


@pytest.mark.parametrize("case", [{}, DINOV2], ids=["plain", "DINOv2 with registers"])
def test_only_the_epsilon_is_in_the_way_of_an_exact_start(case: dict[str, Any]) -> None:
    config, vit = setup({"norm_eps": 1e-12} | case)
    exact = differences(config, vit.double(), torch.float64)
    assert max(exact) < 1e-10
    assert exact[0] < 1e-13  # nothing to reuse: no epsilon in the way
    config, vit = setup({"norm_eps": 1e-8} | case)
    # Ten thousand times the epsilon is ten thousand times the difference.
    told = differences(config, vit.double(), torch.float64)
    assert told[1:] == pytest.approx([1e4 * difference for difference in exact[1:]], rel=0.05)


def test_stages_that_reuse_no_features_have_timms_weights_bit_for_bit() -> None:
    config, vit = setup({"reuse": {"feature_reuse_depth": 0}, "layer_scale": 0.1})
    cascade = Cascade(config)
    init_from_timm(cascade, vit.state_dict())
    for index, grid in enumerate(config.token_grids):
        state = cascade.stages[index].state_dict()
        for name, tensor in at_grid(vit, config, grid).state_dict().items():
            assert torch.equal(state[name.replace("patch_embed.", "tokenizer.")], tensor), name
    assert max(differences(config, vit, torch.float32)) < 1e-5
