"""The published algorithm as plainly as it can be written: nothing fused, nothing precomputed, everything kept.

Written for comparing with `dvt.models`: the same weights by the same names, in whatever precision they come. Reused
relationships are resized map by map, by nearest up-sampling and adaptive average pooling; attention is explicit in all
blocks; every block's relationships are handed on.

Source: Wang et al., NeurIPS 2021, equations 3 to 6. No stochastic depth and no dropout.

Shapes: E exits, B batch, N tokens with the class token, D width, H heads, L blocks, C classes, n and m tokens a side.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from dvt.config import CascadeConfig
from dvt.models.tokenizers import first_soft_split

Weights = Mapping[str, Tensor]


def naive_logits(weights: Weights, config: CascadeConfig, images: Tensor) -> Tensor:
    """Logits of every exit, (E, B, C), for a cascade that reuses from all blocks in all blocks, or not at all."""
    logits: list[Tensor] = []
    features, relations = torch.empty(0), list[Tensor]()  # nothing is upstream of the first
    for index in range(config.num_exits):
        stage = below(weights, f"stages.{index}")
        prediction, features, relations = naive_stage(stage, config, index, images, (features, relations))
        logits.append(prediction)
    return torch.stack(logits)


def naive_stage(
    weights: Weights, config: CascadeConfig, index: int, images: Tensor, upstream: tuple[Tensor, list[Tensor]]
) -> tuple[Tensor, Tensor, list[Tensor]]:
    grid, reuse = config.token_grids[index], config.reuse(index)
    features, relations = upstream
    tokens = naive_tokens(weights, config, grid, images)
    reused: list[Tensor] | list[None] = [None] * config.depth
    if reuse.relation_depth:
        mixed = naive_relation_mlp(weights, torch.cat(relations, dim=1))
        reused = list(naive_resize_relations(mixed, grid).chunk(config.depth, dim=1))
    given = []
    for number in range(config.depth):
        block = below(weights, f"blocks.{number}")
        normed = naive_norm(block, "norm1", tokens, config.norm_eps)
        attended, logits = naive_attention(below(block, "attn"), config, normed, reused[number])
        tokens = tokens + attended
        given.append(logits)
        wide = tokens
        if reuse.feature_depth:
            context = naive_context(below(weights, f"feature_reuse.{number}"), config, features, grid)
            wide = torch.cat((tokens, context), dim=2)
        tokens = tokens + naive_mlp(below(block, "mlp"), naive_norm(block, "norm2", wide, config.norm_eps))
    normed = naive_norm(weights, "norm", tokens, config.norm_eps)
    return F.linear(normed[:, 0], weights["head.weight"], weights["head.bias"]), tokens, given


def naive_attention(
    weights: Weights, config: CascadeConfig, tokens: Tensor, reused: Tensor | None
) -> tuple[Tensor, Tensor]:
    batch, count, dim = tokens.shape
    heads = config.num_heads
    projected = F.linear(tokens, weights["qkv.weight"], weights.get("qkv.bias"))
    query, key, value = projected.reshape(batch, count, 3, heads, dim // heads).permute(2, 0, 3, 1, 4)
    logits = (query @ key.transpose(-2, -1)) * (dim // heads) ** -0.5
    if reused is not None:
        logits = logits + reused
    attended = (logits.softmax(dim=-1) @ value).transpose(1, 2).reshape(batch, count, dim)
    return F.linear(attended, weights["proj.weight"], weights["proj.bias"]), logits


def naive_context(weights: Weights, config: CascadeConfig, features: Tensor, grid: int) -> Tensor:
    made = naive_mlp(below(weights, "mlp"), naive_norm(weights, "norm", features, config.norm_eps))
    patches = made[:, 1:].transpose(1, 2)
    side = math.isqrt(patches.shape[2])
    pooled = naive_resize(patches.reshape(*patches.shape[:2], side, side), grid)
    resized = pooled.reshape(*patches.shape[:2], grid * grid).transpose(1, 2)
    return torch.cat((torch.zeros_like(resized[:, :1]), resized), dim=1)


def naive_relation_mlp(weights: Weights, maps: Tensor) -> Tensor:
    hidden = F.gelu(F.conv2d(maps, weights["relation_reuse.fc1.weight"], weights["relation_reuse.fc1.bias"]))
    return F.conv2d(hidden, weights["relation_reuse.fc2.weight"], weights["relation_reuse.fc2.bias"])


def naive_resize_relations(maps: Tensor, grid: int) -> Tensor:
    """Keys of each query first, then queries of each key; the class token's column and row are put aside meanwhile."""
    batch, channels = maps.shape[:2]
    for _ in range(2):
        rows, count = maps.shape[2:]
        side = math.isqrt(count - 1)
        patches = maps[..., 1:].reshape(batch * channels, rows, side, side)
        resized = naive_resize(patches, grid).reshape(batch, channels, rows, grid * grid)
        maps = torch.cat((maps[..., :1], resized), dim=3).transpose(2, 3)
    return maps


def naive_resize(planes: Tensor, grid: int) -> Tensor:
    side = planes.shape[-1]
    between = side * math.ceil(grid / side)
    return F.adaptive_avg_pool2d(F.interpolate(planes, size=(between, between), mode="nearest"), (grid, grid))


def naive_tokens(weights: Weights, config: CascadeConfig, grid: int, images: Tensor) -> Tensor:
    tokenizer = below(weights, "tokenizer")
    if config.family == "vit":
        patch = math.ceil(config.image_size / grid)
        total = patch * grid - config.image_size
        padded = F.pad(images, (total // 2, total - total // 2) * 2)
        tokens = F.conv2d(padded, tokenizer["proj.weight"], tokenizer["proj.bias"], stride=patch)
        tokens = tokens.flatten(2).transpose(1, 2)
    else:
        split = first_soft_split(config.image_size, grid)
        tokens = F.unfold(images, split.kernel, stride=split.stride, padding=split.padding).transpose(1, 2)
        for number in (1, 2):
            tokens = naive_performer(below(tokenizer, f"attention{number}"), tokens)
            side = math.isqrt(tokens.shape[1])
            plane = tokens.transpose(1, 2).reshape(len(tokens), -1, side, side)
            tokens = F.unfold(plane, 3, stride=2, padding=1).transpose(1, 2)
        tokens = F.linear(tokens, tokenizer["project.weight"], tokenizer["project.bias"])
    tokens = torch.cat((weights["cls_token"].expand(len(images), -1, -1), tokens), dim=1)
    return tokens + weights["pos_embed"]


def naive_performer(weights: Weights, tokens: Tensor) -> Tensor:
    projected = F.linear(naive_norm(weights, "norm1", tokens, 1e-5), weights["kqv.weight"], weights["kqv.bias"])
    key, query, value = projected.chunk(3, dim=-1)
    key, query = (naive_random_features(part, weights["w"]) for part in (key, query))
    normaliser = torch.einsum("bni,bi->bn", query, key.sum(dim=1)).unsqueeze(2)
    summary = torch.einsum("bnd,bnm->bdm", value, key)
    attended = torch.einsum("bnm,bdm->bnd", query, summary) / (normaliser + 1e-8)
    tokens = value + F.linear(attended, weights["proj.weight"], weights["proj.bias"])
    normed = naive_norm(weights, "norm2", tokens, 1e-5)
    hidden = F.gelu(F.linear(normed, weights["mlp.0.weight"], weights["mlp.0.bias"]))
    return tokens + F.linear(hidden, weights["mlp.2.weight"], weights["mlp.2.bias"])


def naive_random_features(tokens: Tensor, projection: Tensor) -> Tensor:
    half = (tokens * tokens).sum(dim=-1, keepdim=True) / 2
    return torch.exp(torch.einsum("bnd,md->bnm", tokens, projection) - half) / math.sqrt(len(projection))


def naive_mlp(weights: Weights, tokens: Tensor) -> Tensor:
    hidden = F.gelu(F.linear(tokens, weights["fc1.weight"], weights["fc1.bias"]))
    return F.linear(hidden, weights["fc2.weight"], weights["fc2.bias"])


def naive_norm(weights: Weights, name: str, tokens: Tensor, eps: float) -> Tensor:
    return F.layer_norm(tokens, tokens.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], eps)


def below(weights: Weights, prefix: str) -> dict[str, Tensor]:
    """The entries under a prefix, without it."""
    return {name[len(prefix) + 1 :]: tensor for name, tensor in weights.items() if name.startswith(f"{prefix}.")}
