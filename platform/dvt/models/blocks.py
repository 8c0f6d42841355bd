"""The transformer block of every stage, with room for what an upstream stage hands on.

Source: Wang et al., NeurIPS 2021, equations 3 to 6; without reuse it is timm's ViT block.
LayerScale: Touvron et al., ICCV 2021; normalised queries and keys: Henry et al., EMNLP Findings 2020.

Shapes: B batch, N tokens with the class token and registers, D width, H heads, C channels of the reused context.
"""

from collections.abc import Callable
from functools import partial

import torch
from timm.layers.drop import DropPath
from timm.layers.layer_scale import LayerScale
from timm.layers.mlp import Mlp
from torch import Tensor, nn
from torch.nn import functional as F

from dvt.config import CascadeConfig
from dvt.models.parts import by_parts

Resize = Callable[[Tensor], Tensor]


class Attention(nn.Module):
    """Multi-head self-attention that can add reused attention logits and hand on its own."""

    def __init__(self, config: CascadeConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.scale = (config.embed_dim // config.num_heads) ** -0.5
        self.qkv = nn.Linear(config.embed_dim, 3 * config.embed_dim, bias=config.qkv_bias)
        head_dim = config.embed_dim // config.num_heads
        self.q_norm = nn.LayerNorm(head_dim, eps=config.norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(head_dim, eps=config.norm_eps) if config.qk_norm else nn.Identity()
        self.proj = nn.Linear(config.embed_dim, config.embed_dim)

    def forward(
        self, tokens: Tensor, reused: Tensor | None, hands_on: bool, resize: Resize | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Attend.

        Args:
            tokens: Normalised tokens, (B, N, D).
            reused: Attention logits of the upstream stage for this block, (B, H, N_up, N_up), or None.
            hands_on: Whether a later stage asks for this block's attention logits.
            resize: Brings `reused` to (B, H, N, N); None where it has that shape.

        Returns:
            Tokens (B, N, D), and the attention logits before softmax (B, H, N, N) with what was reused in them, or
            None if nobody asks for them.
        """
        qkv = self.qkv(tokens).unflatten(2, (3, self.num_heads, -1)).unbind(2)
        # Moved after they are parted: so the gradients come together in the layout that the product wants.
        query, key, value = (part.transpose(1, 2) for part in qkv)  # (B, H, N, D/H)
        # Autocast on CUDA normalises in float32; attention takes one type.
        query, key = self.q_norm(query).to(value.dtype), self.k_norm(key).to(value.dtype)
        given = [query, key, value] if reused is None else [query, key, value, reused]
        attend = partial(self._attend, hands_on=hands_on, resize=resize)
        # By parts, so that what is reused, the logits and their probabilities are in the cache when they are read.
        attended, *logits = by_parts(attend, given, 2 * self.num_heads * tokens.shape[1] ** 2)
        projected: Tensor = self.proj(attended.flatten(2))
        return projected, logits[0] if hands_on else None

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        reused: Tensor | None = None,
        *,
        hands_on: bool,
        resize: Resize | None,
    ) -> tuple[Tensor, ...]:
        """What each head attends to, (B, N, H, D/H), and the attention logits if they are handed on."""
        if reused is not None and resize is not None:
            reused = resize(reused)
        # On a CPU, torch 2.15 has no fused attention that passes a gradient to its mask.
        wants_gradient = reused is not None and reused.requires_grad and reused.device.type == "cpu"
        if hands_on or wants_gradient:
            logits = self._logits(query, key, reused)
            attended = (logits.softmax(dim=-1).to(value.dtype) @ value).transpose(1, 2)
            return (attended, logits) if hands_on else (attended,)
        mask = None if reused is None else reused.to(query.dtype)
        return (F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2),)

    def _logits(self, query: Tensor, key: Tensor, reused: Tensor | None) -> Tensor:
        """Scaled products of queries and keys (B, H, N, D/H), plus what is reused, (B, H, N, N)."""
        logits: Tensor = (query * self.scale) @ key.transpose(-2, -1)
        if reused is not None:
            logits += reused.to(logits.dtype)
        return logits


class Block(nn.Module):
    """Attention and MLP, each on a normalised residual; the MLP also reads a reused context where there is one.

    Args:
        config: The cascade's configuration.
        context_dim: Channels of the reused context that is concatenated to the MLP's input; 0 is none.
        drop_path: Probability of skipping each residual branch in training.
    """

    def __init__(self, config: CascadeConfig, context_dim: int, drop_path: float) -> None:
        super().__init__()
        dim = config.embed_dim
        self.norm1 = nn.LayerNorm(dim, eps=config.norm_eps)
        self.attn = Attention(config)
        self.ls1 = _branch_scale(config)
        self.norm2 = nn.LayerNorm(dim + context_dim, eps=config.norm_eps)
        self.mlp = Mlp(dim + context_dim, int(dim * config.mlp_ratio), dim)
        self.ls2 = _branch_scale(config)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(
        self,
        tokens: Tensor,
        context: Tensor | None = None,
        reused: Tensor | None = None,
        hands_on: bool = False,
        resize: Resize | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Run the block.

        Args:
            tokens: Tokens, (B, N, D).
            context: Context made from upstream features, (B, N, C), or None.
            reused: Upstream attention logits for this block, (B, H, N_up, N_up), or None.
            hands_on: Whether to return this block's attention logits.
            resize: Brings `reused` to (B, H, N, N); None where it has that shape.

        Returns:
            Tokens (B, N, D) and the attention logits (B, H, N, N) or None.
        """
        attended, logits = self.attn(self.norm1(tokens), reused, hands_on, resize)
        tokens = tokens + self.drop_path(self.ls1(attended))
        wide = tokens if context is None else torch.cat((tokens, context), dim=-1)  # (B, N, D+C)
        return tokens + self.drop_path(self.ls2(self.mlp(self.norm2(wide)))), logits


def _branch_scale(config: CascadeConfig) -> nn.Module:
    return nn.Identity() if config.layer_scale is None else LayerScale(config.embed_dim, config.layer_scale)
