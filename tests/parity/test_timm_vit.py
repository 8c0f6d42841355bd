"""A stage of family `vit` that reuses nothing computes what timm's `VisionTransformer` does, with its weights."""

import math
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from dvt.config import CascadeConfig, StageConfig
from dvt.models import Cascade
from tests.parity.timm_vit import noisy_vit, padded

EVERY_OPTION: dict[str, Any] = {
    "layer_scale": 0.1,
    "num_registers": 4,
    "qk_norm": True,
    "global_pool": "avg",
    "class_pos_embed": False,
}
CASES: dict[str, dict[str, Any]] = {
    "7x7 of 224": {"image_size": 224, "grid": 7},
    "14x14 of 224": {"image_size": 224, "grid": 14},
    "10x10 of 224, padded": {"image_size": 224, "grid": 10},
    "4x4 of 32, grey": {"image_size": 32, "grid": 4, "in_chans": 1},
    "9x9 of 28, grey and padded unevenly": {"image_size": 28, "grid": 9, "in_chans": 1},
    "no bias": {"image_size": 32, "grid": 8, "qkv_bias": False},
    "another width": {"image_size": 48, "grid": 6, "embed_dim": 40, "num_heads": 5, "mlp_ratio": 2.5},
    "another epsilon": {"image_size": 32, "grid": 4, "norm_eps": 1e-2},
    "one token": {"image_size": 16, "grid": 1},
    "LayerScale": {"image_size": 32, "grid": 4, "layer_scale": 1e-5},
    "registers": {"image_size": 32, "grid": 4, "num_registers": 3},
    "normalised queries and keys": {"image_size": 32, "grid": 4, "qk_norm": True, "norm_eps": 1e-2},
    "mean of the patches": {"image_size": 32, "grid": 4, "global_pool": "avg"},
    "mean of the patches, not of registers": {"image_size": 32, "grid": 4, "global_pool": "avg", "num_registers": 2},
    "class token without position": {"image_size": 32, "grid": 4, "class_pos_embed": False},
    "registers without position": {"image_size": 32, "grid": 4, "class_pos_embed": False, "num_registers": 4},
    "every option": {"image_size": 28, "grid": 9, "in_chans": 1, **EVERY_OPTION},
}


def config_of(case: dict[str, Any]) -> CascadeConfig:
    values = {"in_chans": 3, "num_classes": 11, "embed_dim": 48, "depth": 3, "num_heads": 3} | case
    grid = values.pop("grid")
    # A coarser stage before it, of which it reuses nothing.
    coarser = (StageConfig(token_grid=grid - 1),) if grid > 1 else ()
    stage = StageConfig(token_grid=grid, feature_reuse_depth=0, relation_reuse_depth=0)
    return CascadeConfig(**values, stages=(*coarser, stage))


def timm_vit(config: CascadeConfig) -> VisionTransformer:
    """timm's of the last stage, with weights that leave no path at zero."""
    grid = config.token_grids[-1]
    patch = math.ceil(config.image_size / grid)
    return noisy_vit(config, img_size=grid * patch, patch_size=patch)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_logits_are_timms(case: dict[str, Any]) -> None:
    config = config_of(case)
    vit = timm_vit(config)
    state = {name.replace("patch_embed.", "tokenizer."): tensor for name, tensor in vit.state_dict().items()}
    cascade = Cascade(config).eval()
    stage_index = config.num_exits - 1
    cascade.stages[stage_index].load_state_dict(state)  # strict: the same names, no more and no less
    shape = (2, config.in_chans, config.image_size, config.image_size)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = vit(padded(images, config.token_grids[-1]))
        logits = cascade(images)[stage_index]
        features = cascade.stage(stage_index, images).features
        expected_features = vit.forward_intermediates(
            padded(images, config.token_grids[-1]),
            indices=1,
            return_prefix_tokens=True,
            norm=False,
            intermediates_only=True,
        )[0]
    assert expected.std() > 0.1
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
    patches, prefix = expected_features
    tokens = torch.cat((prefix, patches.flatten(2).transpose(1, 2)), dim=1)
    torch.testing.assert_close(features, tokens, rtol=0, atol=1e-5)  # before the final norm


@pytest.mark.parametrize("options", [{}, EVERY_OPTION], ids=["no option", "every option"])
def test_gradients_are_timms(options: dict[str, Any]) -> None:
    config = config_of({"image_size": 32, "grid": 4} | options)
    vit = timm_vit(config)
    stage = Cascade(config).stages[1]
    stage.load_state_dict({name.replace("patch_embed.", "tokenizer."): each for name, each in vit.state_dict().items()})
    images = torch.randn((2, 3, 32, 32), generator=torch.Generator().manual_seed(1))
    vit(images).square().sum().backward()
    stage(images, None).logits.square().sum().backward()
    ours = dict(stage.named_parameters())
    for name, parameter in vit.named_parameters():
        gradient = ours[name.replace("patch_embed.", "tokenizer.")].grad
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-4)
