"""What a stage makes of the one before it: a context from its features, attention logits from its relationships.

Source: Wang et al., NeurIPS 2021, equations 3 to 6.

Shapes: B batch, N_up and N tokens up- and downstream, P of them class token and registers, D width, H heads,
C context channels.
"""

from collections.abc import Sequence
from functools import partial
from operator import attrgetter

import torch
from timm.layers.mlp import Mlp
from torch import Tensor, nn
from torch.nn import functional as F

from dvt.config import CascadeConfig
from dvt.models.parts import by_parts, recomputed
from dvt.models.resize import GridResize


class FeatureReuse(nn.ModuleList):
    """The contexts that blocks' MLPs read besides their tokens: for each block an MLP of upstream features, resized.

    Args:
        num_blocks: Receiving blocks, K, at least 1.
        config: The cascade's configuration.
    """

    def __init__(self, num_blocks: int, config: CascadeConfig) -> None:
        dim, hidden, context = config.embed_dim, config.feature_reuse_hidden_dim, config.feature_reuse_dim
        self.norm_eps = config.norm_eps
        super().__init__(
            nn.ModuleDict({"norm": nn.LayerNorm(dim, eps=config.norm_eps), "mlp": Mlp(dim, hidden, context)})
            for _ in range(num_blocks)
        )

    def forward(self, features: Tensor, resize: GridResize) -> Tensor:
        """Contexts (K, B, N, C) from upstream features (B, N_up, D); the prefix tokens' contexts are zero.

        All blocks read the same features, so they are normalised once, and one large product serves all.
        """
        normed = F.layer_norm(features, features.shape[-1:], eps=self.norm_eps)
        # Each norm's own scale and shift go into the layer behind it: W (scale x + shift) + b.
        weight, bias = self._stacked("mlp.fc1.weight"), self._stacked("mlp.fc1.bias")  # (K, hidden, D), (K, hidden)
        bias = bias + (weight * self._stacked("norm.bias")[:, None]).sum(dim=2)
        weight = weight * self._stacked("norm.weight")[:, None]
        hidden = F.gelu(F.linear(normed, weight.flatten(0, 1), bias.flatten()))  # (B, N_up, K * hidden)
        hidden = hidden.unflatten(2, bias.shape).permute(2, 0, 1, 3).flatten(1, 2)  # (K, B * N_up, hidden)
        weight, bias = self._stacked("mlp.fc2.weight"), self._stacked("mlp.fc2.bias")
        contexts = torch.baddbmm(bias[:, None], hidden, weight.transpose(1, 2))  # (K, B * N_up, C)
        return resize.features(contexts.unflatten(1, features.shape[:2]))

    def _stacked(self, name: str) -> Tensor:
        return torch.stack(list(map(attrgetter(name), self)))


class RelationReuse(nn.Module):
    """Attention logits for several blocks at once, from those of the upstream stage.

    Two 1x1 convolutions mix the maps at the upstream grid, where they are cheaper; a block resizes its own.

    Args:
        in_maps: Upstream blocks times heads.
        out_maps: Receiving blocks times heads.
        config: The cascade's configuration.
    """

    def __init__(self, in_maps: int, out_maps: int, config: CascadeConfig) -> None:
        super().__init__()
        hidden = int(config.relation_reuse_ratio * out_maps)
        self.num_heads = config.num_heads
        self.fc1 = nn.Conv2d(in_maps, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, out_maps, 1)

    def forward(self, relations: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Mix upstream relationships, (B, H, N_up, N_up) for each upstream block, into as many maps a receiving block.

        The hidden maps are three times what comes in: they are made for a few images at a time, and in training made
        again instead of kept.
        """
        numbers_an_image = self.fc1.out_channels * relations[0][0, 0].numel()
        return by_parts(partial(recomputed, self._mix), relations, numbers_an_image)

    def _mix(self, *relations: Tensor) -> tuple[Tensor, ...]:
        maps = torch.cat(relations, dim=1)  # (B, in_maps, N_up, N_up)
        hidden_numbers = maps.shape[0] * self.fc1.out_channels  # of a pair of tokens
        (mixed,) = by_parts(self._mlp, [maps.flatten(2)], hidden_numbers, dim=2)  # (B, out_maps, N_up * N_up)
        parts: tuple[Tensor, ...] = mixed.unflatten(2, maps.shape[2:]).split(self.num_heads, dim=1)
        return parts

    def _mlp(self, maps: Tensor) -> tuple[Tensor]:
        """From (B, in_maps, positions) to (B, out_maps, positions)."""
        return (_convolve(self.fc2, F.gelu(_convolve(self.fc1, maps))),)


def _convolve(layer: nn.Conv2d, maps: Tensor) -> Tensor:
    """A 1x1 convolution of maps (B, C, positions), as the matrix product that it is: much faster on a CPU."""
    assert layer.bias is not None
    weight = layer.weight.flatten(1).expand(maps.shape[0], -1, -1)
    return torch.baddbmm(layer.bias[:, None], weight, maps)
