"""Filling every stage of a cascade from one timm ViT, so that each starts as that ViT at the stage's grid.

timm converts what others publish (DeiT-III, DINOv2, ...) and resamples patch and position embedding to the grid
(Beyer et al., "FlexiViT", CVPR 2023). Reuse is added so that it changes nothing yet:

* Relationship reuse adds maps whose last layer is zero.
* Feature reuse makes a context whose last layer is zero, but the block's norm then runs over D + C channels. Every
  reader of the residual stream is a LayerNorm, which a shift of all channels does not change; so everything that
  writes to the stream is centred over channels. Then the joint mean is 0 and the joint variance r = D / (D + C) times
  the tokens' own, which the norm's weight takes back by sqrt(r).

Shapes: D width, C channels of the reused context, P prefix tokens, g tokens a side.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import torch
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from dvt.config import CascadeConfig
from dvt.models.cascade import Cascade
from dvt.models.stage import Stage
from dvt.models.weights import WeightsError, require_layout

_HEAD = ("head.weight", "head.bias")


def init_from_timm(cascade: Cascade, state_dict: Any, source: str = "the state dict") -> None:
    """Fill every stage with the weights of one timm ViT, resampled to the stage's grid.

    Each exit then gives the logits of timm's `VisionTransformer` at its grid. Where a stage reuses features, this holds
    up to the epsilon of the norms that read the context, which acts there as epsilon / r does in a norm over D
    channels: their output is smaller by a share of about epsilon * C / (2 * D * variance of the token), below 1e-6
    for 384 channels, 48 of context, an epsilon of 1e-6 and variances over 0.06. Weights that were never trained give
    tokens of variances under 1e-3, and logits that differ by up to 4e-4 of their deviation.

    Args:
        cascade: The cascade; its heads stay as they are where `state_dict` has none or tells other classes apart.
        state_dict: The ViT's, or what timm converts to it.
        source: What the state dict is, as the subject of messages.

    Raises:
        WeightsError: If the state dict is of another model; the cascade is left as it was.
    """
    config = cascade.config
    if config.family != "vit":
        raise WeightsError(f"cascade.family must be 'vit' to start from {source}, got {config.family!r}")
    plain = [_plain_weights(config, grid, state_dict, source) for grid in config.token_grids]
    for stage, weights in zip(cascade.stages, plain, strict=True):
        _fill(cast(Stage, stage), weights)


def _plain_weights(config: CascadeConfig, grid: int, state_dict: Any, source: str) -> dict[str, Tensor]:
    """The weights of one stage without reuse, by timm's names.

    Raises:
        WeightsError: Listing everything in which the state dict is of another model.
    """
    vit = _timm_vit(config, grid)
    expected = {name: tensor.shape for name, tensor in vit.state_dict().items()}
    vit.pos_embed = None  # timm 1.0.31 resamples it before anybody has looked at its length; see below
    found = _converted(state_dict, vit, source)
    position = found.get("pos_embed")
    if position is not None and position.ndim == 3:
        num_prefix = expected["pos_embed"][1] - grid * grid
        side = math.isqrt(max(position.shape[1] - num_prefix, 0))
        if side > 0 and side**2 == position.shape[1] - num_prefix:
            found["pos_embed"] = resample_abs_pos_embed(
                position, new_size=[grid, grid], old_size=[side, side], num_prefix_tokens=num_prefix
            )
    head = found.get("head.weight")
    if head is None or len(head) != config.num_classes:
        for name in _HEAD:
            found.pop(name, None)
            del expected[name]
    require_layout(found, expected, source)
    return found


def _timm_vit(config: CascadeConfig, grid: int) -> VisionTransformer:
    """timm's model of a stage that reuses nothing; shapes alone, no memory."""
    patch = math.ceil(config.image_size / grid)
    with torch.device("meta"):
        return VisionTransformer(
            img_size=grid * patch,
            patch_size=patch,
            in_chans=config.in_chans,
            num_classes=config.num_classes,
            global_pool=config.global_pool,
            embed_dim=config.embed_dim,
            depth=config.depth,
            num_heads=config.num_heads,
            mlp_ratio=config.mlp_ratio,
            qkv_bias=config.qkv_bias,
            qk_norm=config.qk_norm,
            init_values=config.layer_scale,
            no_embed_class=not config.class_pos_embed,
            reg_tokens=config.num_registers,
            norm_layer=partial(nn.LayerNorm, eps=config.norm_eps),
            weight_init="skip",
        )


def _converted(state_dict: Any, vit: VisionTransformer, source: str) -> dict[str, Tensor]:
    """The state dict by timm's names, its patch embedding resampled to the patches of `vit`."""
    for wrapper in ("model", "state_dict"):
        if isinstance(state_dict, Mapping):
            state_dict = state_dict.get(wrapper, state_dict)
    if not isinstance(state_dict, Mapping) or not all(isinstance(name, str) for name in state_dict):
        raise WeightsError(f"{source} must be a state dict, got {type(state_dict).__name__}; save its state dict alone")
    try:
        # A copy, as timm 1.0.31 takes entries out of what it converts. DeiT-III writes gamma_1 for ls1.gamma.
        found: dict[str, Any] = checkpoint_filter_fn(dict(state_dict), vit, adapt_layer_scale=True)
    except (AttributeError, KeyError, IndexError, RuntimeError, ValueError) as error:
        raise WeightsError(f"{source} must be a ViT that timm can convert, got one that it cannot: {error}") from error
    others = [name for name, value in found.items() if not isinstance(value, Tensor)]
    if others:
        raise WeightsError(
            f"{source} must be a state dict, got something else than tensors at {', '.join(others)}; "
            f"save its state dict alone"
        )
    return found


def _fill(stage: Stage, plain: Mapping[str, Tensor]) -> None:
    """Load weights of timm's names, and let what the stage reuses change nothing."""
    weights = {name: tensor.double() for name, tensor in plain.items()}
    if len(stage.feature_reuse) > 0:
        _centre(weights, len(stage.blocks))
    own = stage.state_dict()
    for index in range(len(stage.feature_reuse)):
        _widen(weights, own, f"blocks.{index}.")
    tokenizer = {name.replace("patch_embed.", "tokenizer."): tensor for name, tensor in weights.items()}
    stage.load_state_dict(own | tokenizer)
    for reuse in stage.feature_reuse:
        _zero(reuse.get_submodule("mlp.fc2"))
    if stage.relation_reuse is not None:
        _zero(stage.relation_reuse.fc2)


def _centre(weights: dict[str, Tensor], num_blocks: int) -> None:
    """Take the mean over channels from everything that writes to the residual stream; LayerScale is folded in first."""
    for index in range(num_blocks):
        for layer, scale in (("attn.proj", "ls1.gamma"), ("mlp.fc2", "ls2.gamma")):
            layer, scale = f"blocks.{index}.{layer}", f"blocks.{index}.{scale}"
            weight, bias = weights[f"{layer}.weight"], weights[f"{layer}.bias"]  # (D, inputs), (D,)
            if scale in weights:
                weight, bias = weight * weights[scale][:, None], bias * weights[scale]
                weights[scale] = torch.ones_like(weights[scale])
            weights[f"{layer}.weight"], weights[f"{layer}.bias"] = weight - weight.mean(dim=0), bias - bias.mean()
    for name in ("patch_embed.proj.weight", "patch_embed.proj.bias"):
        weights[name] = weights[name] - weights[name].mean(dim=0)
    for name in ("cls_token", "reg_token", "pos_embed"):
        if name in weights:
            weights[name] = weights[name] - weights[name].mean(dim=-1, keepdim=True)


def _widen(weights: dict[str, Tensor], own: Mapping[str, Tensor], block: str) -> None:
    """Let a block's MLP read C more channels: zeros make no difference, and its weights for them stay as they are."""
    scale, shift, wide = f"{block}norm2.weight", f"{block}norm2.bias", own[f"{block}mlp.fc1.weight"].double()
    dim, joint = len(weights[scale]), wide.shape[1]
    context = wide[:, dim:]  # (hidden, C)
    weights[scale] = torch.cat((math.sqrt(dim / joint) * weights[scale], context.new_ones(joint - dim)))
    weights[shift] = torch.cat((weights[shift], context.new_zeros(joint - dim)))
    weights[f"{block}mlp.fc1.weight"] = torch.cat((weights[f"{block}mlp.fc1.weight"], context), dim=1)


def _zero(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
