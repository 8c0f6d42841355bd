"""What a stage makes of the one before it: a context from its features, attention logits from its relationships.

Source: Wang et al., NeurIPS 2021, equations 3 to 6.

Shapes: B batch, N_up and N tokens up- and downstream, P of them class token and registers, D width, H heads,
C context channels.
"""

import torch
from timm.layers.mlp import Mlp
from torch import Tensor, nn
from torch.nn import functional as F

from dvt.config import CascadeConfig
from dvt.models.resize import GridResize


class FeatureReuse(nn.Module):
    """The context that one block's MLP reads besides its tokens: an MLP of upstream features, resized."""

    def __init__(self, config: CascadeConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.embed_dim, eps=config.norm_eps)
        self.mlp = Mlp(config.embed_dim, config.feature_reuse_hidden_dim, config.feature_reuse_dim)

    def forward(self, features: Tensor, resize: GridResize) -> Tensor:
        """Context (B, N, C) from upstream features (B, N_up, D); the prefix tokens' context is zero."""
        patches = self.mlp(self.norm(features[:, resize.num_prefix :]))  # (B, N_up - P, C)
        return F.pad(resize.features(patches), (0, 0, resize.num_prefix, 0))


class RelationReuse(nn.Module):
    """Attention logits for several blocks at once, from those of the upstream stage.

    Two 1x1 convolutions mix the maps at the upstream grid, where they are cheaper; then they are resized.

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
        self.to(memory_format=torch.channels_last)  # as the maps are; else DDP copies every gradient to other strides

    def forward(self, relations: Tensor, resize: GridResize) -> tuple[Tensor, ...]:
        """One (B, H, N, N) a receiving block, from upstream relationships (B, in_maps, N_up, N_up)."""
        # Channels last makes a 1x1 convolution one matrix product, three times faster on a CPU.
        maps = relations.contiguous(memory_format=torch.channels_last)
        maps = self.fc2(F.gelu(self.fc1(maps))).contiguous()
        return torch.split(resize.relations(maps), self.num_heads, dim=1)
