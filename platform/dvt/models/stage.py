"""One stage of the cascade: a vision transformer that may start from what the stage before it computed.

Source: Wang et al., NeurIPS 2021; without upstream reuse it computes what timm's `VisionTransformer` does.
Registers: Darcet et al., "Vision Transformers Need Registers", ICLR 2024.

Shapes: B batch, c image channels, S image side, N tokens with class token and registers, D width, H heads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from timm.layers.weight_init import trunc_normal_
from torch import Tensor, nn

from dvt.config import CascadeConfig
from dvt.models.blocks import Block
from dvt.models.resize import GridResize
from dvt.models.reuse import FeatureReuse, RelationReuse
from dvt.models.tokenizers import ConvTokenizer, TokensToToken, sinusoid_table


@dataclass(frozen=True)
class StageOutput:
    """What a stage gives: its prediction, and what the next stage reuses.

    Attributes:
        logits: Unnormalised predictions, (B, classes).
        features: Tokens after the last block, before the final norm, (B, N, D).
        relations: Attention logits of each block that the next stage asks for, earlier blocks first, (B, H, N, N).
    """

    logits: Tensor
    features: Tensor
    relations: tuple[Tensor, ...]

    def select(self, index: Tensor) -> "StageOutput":
        """The same for the images at `index` (positions or a boolean mask) only."""
        return StageOutput(self.logits[index], self.features[index], tuple(maps[index] for maps in self.relations))

    def blank(self) -> "StageOutput":
        """The same prediction with nothing to reuse: zeros, through which no gradient goes."""
        return StageOutput(self.logits, torch.zeros_like(self.features), tuple(map(torch.zeros_like, self.relations)))


class Stage(nn.Module):
    """One vision transformer of the cascade.

    Args:
        config: The cascade's configuration.
        stage_index: Which stage this is, from 0.
    """

    def __init__(self, config: CascadeConfig, stage_index: int) -> None:
        super().__init__()
        grid, dim = config.token_grids[stage_index], config.embed_dim
        reuse = config.reuse(stage_index)
        is_last = stage_index + 1 == config.num_exits
        self.num_handed_on = 0 if is_last else config.reuse(stage_index + 1).relation_upstream_depth

        is_t2t = config.family == "t2t_vit"
        self.tokenizer = TokensToToken(config, grid) if is_t2t else ConvTokenizer(config, grid)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.num_prefix, self.has_class_pos_embed = config.num_prefix_tokens, config.class_pos_embed
        self.reg_token = nn.Parameter(torch.zeros(1, config.num_registers, dim)) if config.num_registers else None
        num_embedded = grid * grid + (self.num_prefix if config.class_pos_embed else 0)
        if is_t2t:
            self.register_buffer("pos_embed", sinusoid_table(num_embedded, dim))
        else:
            self.pos_embed = nn.Parameter(torch.zeros(1, num_embedded, dim))

        self.has_reuse = bool(reuse.feature_depth or reuse.relation_depth)
        if self.has_reuse:
            self.resize = GridResize(config.token_grids[stage_index - 1], grid, self.num_prefix)
        self.feature_reuse = FeatureReuse(reuse.feature_depth, config)
        self.relation_reuse = (
            RelationReuse(
                reuse.relation_upstream_depth * config.num_heads, reuse.relation_depth * config.num_heads, config
            )
            if reuse.relation_depth
            else None
        )
        self.blocks = nn.ModuleList(
            Block(
                config,
                context_dim=config.feature_reuse_dim if index < reuse.feature_depth else 0,
                drop_path=config.drop_path * index / max(config.depth - 1, 1),
            )
            for index in range(config.depth)
        )
        # One norm, before pooling or behind it; timm names it by its place.
        self.is_averaged = config.global_pool == "avg"
        self.norm = nn.Identity() if self.is_averaged else nn.LayerNorm(dim, eps=config.norm_eps)
        self.fc_norm = nn.LayerNorm(dim, eps=config.norm_eps) if self.is_averaged else nn.Identity()
        self.head = nn.Linear(dim, config.num_classes)
        self._init_weights()

    def forward(self, images: Tensor, upstream: StageOutput | None) -> StageOutput:
        """Run the stage.

        Args:
            images: Normalised images, (B, c, S, S).
            upstream: What the stage before gave for the same images; None for the first stage.

        Returns:
            The stage's prediction and what the next one reuses.

        Raises:
            ValueError: If the stage reuses something and there is no upstream.
        """
        if self.has_reuse and upstream is None:
            raise ValueError("upstream must be what the stage before gave for the same images, got None")
        tokens = self._tokens(images)
        contexts: Tensor | tuple[()] = ()  # of the first blocks
        mixed: Sequence[Tensor] = ()
        if upstream is not None and len(self.feature_reuse) > 0:
            contexts = self.feature_reuse(upstream.features, self.resize)
        if upstream is not None and self.relation_reuse is not None:
            mixed = self.relation_reuse(upstream.relations)
        relations: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            context = contexts[index] if index < len(contexts) else None
            hands_on = index >= len(self.blocks) - self.num_handed_on
            reused = mixed[index] if index < len(mixed) else None
            tokens, logits = block(tokens, context, reused, hands_on, self.resize.relations if mixed else None)
            if logits is not None:
                relations.append(logits)
        # The norm is per token: others than the class token need none.
        pooled = tokens[:, self.num_prefix :].mean(dim=1) if self.is_averaged else self.norm(tokens[:, 0])
        prediction = self.head(self.fc_norm(pooled))
        return StageOutput(prediction, tokens, tuple(relations))

    def _tokens(self, images: Tensor) -> Tensor:
        tokens = self.tokenizer(images)
        if not self.has_class_pos_embed:
            tokens = tokens + self.pos_embed
        prefix = [
            token.expand(images.shape[0], -1, -1) for token in (self.cls_token, self.reg_token) if token is not None
        ]
        tokens = torch.cat((*prefix, tokens), dim=1)  # (B, N, D)
        return tokens + self.pos_embed if self.has_class_pos_embed else tokens

    def _init_weights(self) -> None:
        """timm's initialisation of a ViT: truncated normals of deviation 0.02, zero biases."""
        modules = chain(self.tokenizer.modules(), self.blocks.modules(), self.feature_reuse.modules(), [self.head])
        for module in modules:
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        trunc_normal_(self.cls_token, std=0.02)
        if self.reg_token is not None:
            trunc_normal_(self.reg_token, std=0.02)
        if isinstance(self.pos_embed, nn.Parameter):
            trunc_normal_(self.pos_embed, std=0.02)
