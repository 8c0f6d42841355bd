"""timm's `VisionTransformer` of a cascade's configuration, and images for it."""

import math
from functools import partial
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from dvt.config import CascadeConfig


def vit_options(config: CascadeConfig) -> dict[str, Any]:
    """timm's arguments for a stage that reuses nothing, but for its image and patch size."""
    return {
        "in_chans": config.in_chans,
        "num_classes": config.num_classes,
        "embed_dim": config.embed_dim,
        "depth": config.depth,
        "num_heads": config.num_heads,
        "mlp_ratio": config.mlp_ratio,
        "qkv_bias": config.qkv_bias,
        "qk_norm": config.qk_norm,
        "init_values": config.layer_scale,
        "reg_tokens": config.num_registers,
        "global_pool": config.global_pool,
        "no_embed_class": not config.class_pos_embed,
        "norm_layer": partial(nn.LayerNorm, eps=config.norm_eps),
    }


def noisy_vit(config: CascadeConfig, img_size: int, patch_size: int) -> VisionTransformer:
    """timm's, with weights that leave no path at zero."""
    vit = VisionTransformer(img_size=img_size, patch_size=patch_size, **vit_options(config)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in vit.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            is_scale = name.endswith(("weight", "gamma")) and parameter.ndim == 1
            spread = 0.1 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
            parameter.copy_(float(is_scale) + spread * values)
    return vit


def padded(images: Tensor, grid: int) -> Tensor:
    """Images of the whole number of patches that timm asks for; the odd pixel of padding at the end."""
    side = images.shape[-1]
    total = grid * math.ceil(side / grid) - side
    return F.pad(images, (total // 2, total - total // 2) * 2)
