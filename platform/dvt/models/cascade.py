"""The Dynamic Vision Transformer: a cascade of vision transformers with more and more tokens.

Source: Wang, Huang, Song, Huang, Huang, "Not All Images are Worth 16x16 Words", NeurIPS 2021.

Shapes: E exits, B batch, c image channels, S image side, C classes.
"""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from dvt.config import CascadeConfig
from dvt.models.stage import Stage, StageOutput


class Cascade(nn.Module):
    """Vision transformers with more and more tokens, each reusing what the one before computed.

    Args:
        config: Fully determines the model; kept as `config`.

    Example:
        >>> cascade = Cascade(CascadeConfig(image_size=32, embed_dim=32, depth=2, num_heads=2, num_classes=10,
        ...                                 stages=(StageConfig(token_grid=2), StageConfig(token_grid=4))))
        >>> cascade(torch.zeros(5, 3, 32, 32)).shape
        torch.Size([2, 5, 10])
    """

    def __init__(self, config: CascadeConfig) -> None:
        super().__init__()
        self.config = config
        self.num_classes = config.num_classes  # timm's name for it
        self.stages = nn.ModuleList(Stage(config, index) for index in range(config.num_exits))

    def forward(self, images: Tensor, is_joint: bool = True) -> Tensor:
        """Run all stages, for training and calibration.

        Args:
            images: Normalised images, (B, c, S, S).
            is_joint: Whether stages see what the one before computed. Without, each reads zeros in its place, so that
                it trains by itself; the weights that make something of them still take part.

        Returns:
            Logits of every exit, (E, B, C).
        """
        upstream, logits = None, []
        for stage_index in range(len(self.stages)):
            upstream = self.stage(stage_index, images, upstream)
            logits.append(upstream.logits)
            if not is_joint:
                upstream = upstream.blank()
        return torch.stack(logits)

    def stage(self, stage_index: int, images: Tensor, upstream: StageOutput | None = None) -> StageOutput:
        """Run one stage, for leaving early.

        Args:
            stage_index: Which stage, from 0.
            images: Normalised images, (B, c, S, S).
            upstream: What stage `stage_index - 1` gave for the same images; None for the first stage.

        Returns:
            The stage's prediction, (B, C), and what the next stage reuses; the same numbers as `forward`'s.
        """
        output: StageOutput = self.stages[stage_index](images, upstream)
        return output

    def compile_stages(self, **options: Any) -> None:
        """Let torch.compile fuse each stage from its next call on; names and state dict stay as they are.

        Every stage becomes one graph for training and one for evaluation. They serve all numbers of images, except
        that a first number that is also another size (of channels or patches, say), or 1, has a graph of its own.

        Args:
            options: More arguments of `torch.compile`, such as `backend` or `mode`.
        """
        # All stages run the same code; together they would soon have more graphs than torch allows for one. Before
        # 2.15 torch counts them together.
        if "isolate_recompiles" in inspect.signature(torch.compile).parameters:
            options = {"isolate_recompiles": True} | options
        for stage in self.stages:
            stage.compile(fullgraph=True, dynamic=True, **options)

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that timm's optimizer factory must not decay, besides norms and biases."""
        endings = ("cls_token", "reg_token", "pos_embed")
        return {name for name, _ in self.named_parameters() if name.endswith(endings)}
