"""`CascadeConfig`: everything that determines a Dynamic Vision Transformer, stored with every checkpoint.

Source of the defaults: Wang et al., "Not All Images are Worth 16x16 Words", NeurIPS 2021.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from dvt.config.problems import Rules
from dvt.config.yaml_text import spell

ReuseDepth = int | Literal["all"]

# Options of later vision transformers than T2T-ViT, which keeps the default of each.
VIT_OPTIONS = ("layer_scale", "num_registers", "qk_norm", "global_pool", "class_pos_embed")


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """One transformer of the cascade: how finely it looks, and how much of the stage before it reuses."""

    token_grid: int  # tokens a side; the stage sees token_grid x token_grid tokens and a class token
    feature_reuse_depth: ReuseDepth = "all"  # first blocks that read upstream features; 0 is none, `all` is the paper's
    relation_reuse_depth: ReuseDepth = "all"  # first blocks that add upstream attention logits; 0 is none
    relation_upstream_depth: ReuseDepth = "all"  # last blocks of the stage before that hand on attention logits

    def __post_init__(self) -> None:
        rules = Rules()
        rules.at_least("token_grid", self.token_grid, 1)
        for name in ("feature_reuse_depth", "relation_reuse_depth", "relation_upstream_depth"):
            depth = getattr(self, name)
            if depth != "all":
                rules.at_least(name, depth, 0)
        rules.enforce()


@dataclass(frozen=True, kw_only=True)
class StageReuse:
    """The reuse depths of one stage as numbers of blocks; all 0 for the first stage."""

    feature_depth: int = 0
    relation_depth: int = 0
    relation_upstream_depth: int = 0


@dataclass(frozen=True, kw_only=True)
class CascadeConfig:
    """A cascade of vision transformers with more and more tokens; fully determines a model."""

    image_size: int = 224  # pixels a side of the square input
    in_chans: Literal[1, 3] = 3  # channels of the input: 1 grey, 3 colour
    num_classes: int = 1000  # classes that every exit tells apart
    family: Literal["vit", "t2t_vit"] = "vit"  # tokenizer: strided convolution (DeiT) or tokens-to-token (T2T-ViT)
    embed_dim: int = 384  # channels of a token
    depth: int = 12  # transformer blocks of each stage
    num_heads: int = 6  # attention heads of each block; divides embed_dim
    mlp_ratio: float = 4.0  # hidden channels of a block's MLP, as a multiple of embed_dim
    qkv_bias: bool = True  # whether queries, keys and values have a bias
    norm_eps: float = 1e-6  # epsilon of every LayerNorm of a block
    layer_scale: float | None = None  # initial scale of each residual branch (LayerScale); null is none; vit only
    num_registers: int = 0  # register tokens behind the class token, which no patch belongs to; vit only
    qk_norm: bool = False  # whether queries and keys are normalised over the channels of a head; vit only
    global_pool: Literal["token", "avg"] = "token"  # what an exit reads: class token, or mean of patches; vit only
    class_pos_embed: bool = True  # whether class token and registers have position embeddings too; vit only
    drop_path: float = 0.0  # probability of skipping the last block in training; grows linearly over the blocks
    feature_reuse_dim: int = 48  # channels of the context that upstream features add to a block's MLP
    feature_reuse_hidden_dim: int = 128  # hidden channels of the MLP that makes this context
    relation_reuse_ratio: float = 3.0  # hidden maps of the relationship MLP, as a multiple of its output maps
    stages: tuple[StageConfig, ...] = (  # coarse to fine
        StageConfig(token_grid=7),
        StageConfig(token_grid=10),
        StageConfig(token_grid=14),
    )

    def __post_init__(self) -> None:
        rules = Rules()
        self._check_backbone(rules)
        self._check_stages(rules)
        rules.enforce()

    @property
    def num_exits(self) -> int:
        """Number of stages, each with one exit."""
        return len(self.stages)

    @property
    def token_grids(self) -> tuple[int, ...]:
        """Tokens a side of each stage."""
        return tuple(stage.token_grid for stage in self.stages)

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before the patches: the class token, then the registers."""
        return 1 + self.num_registers

    def reuse(self, stage_index: int) -> StageReuse:
        """The resolved reuse depths of a stage, in blocks."""
        if stage_index == 0:
            return StageReuse()
        stage = self.stages[stage_index]
        relation, upstream = self._blocks(stage.relation_reuse_depth), self._blocks(stage.relation_upstream_depth)
        if 0 in (relation, upstream):  # one without the other reuses nothing
            relation = upstream = 0
        return StageReuse(
            feature_depth=self._blocks(stage.feature_reuse_depth),
            relation_depth=relation,
            relation_upstream_depth=upstream,
        )

    def _blocks(self, depth: ReuseDepth) -> int:
        return self.depth if depth == "all" else depth

    def _check_backbone(self, rules: Rules) -> None:
        for name in ("image_size", "num_classes", "embed_dim", "depth", "num_heads"):
            rules.at_least(name, getattr(self, name), 1)
        for name in ("feature_reuse_dim", "feature_reuse_hidden_dim"):
            rules.at_least(name, getattr(self, name), 1)
        rules.at_least("num_registers", self.num_registers, 0)
        if self.layer_scale is not None:
            rules.above("layer_scale", self.layer_scale, 0)
        for name in ("mlp_ratio", "norm_eps", "relation_reuse_ratio"):
            rules.above(name, getattr(self, name), 0)
        rules.between("drop_path", self.drop_path, 0, 0.99)
        if self.num_heads >= 1:
            rules.require(
                self.embed_dim % self.num_heads == 0,
                "num_heads",
                f"must divide embed_dim {self.embed_dim}, got {self.num_heads}",
            )
        if self.family == "t2t_vit":  # its sinusoid position table pairs channels
            rules.require(
                self.embed_dim % 2 == 0, "embed_dim", f"must be even for family t2t_vit, got {self.embed_dim}"
            )
            for name in VIT_OPTIONS:
                default, got = getattr(type(self), name), getattr(self, name)
                rules.require(got == default, name, f"must be {spell(default)} for family t2t_vit, got {spell(got)}")

    def _check_stages(self, rules: Rules) -> None:
        grids = self.token_grids
        rules.require(len(grids) > 0, "stages", "must hold at least one stage, got none")
        rules.require(
            all(coarse < fine for coarse, fine in pairwise(grids)),
            "stages",
            f"must have strictly increasing token_grid, got {', '.join(map(str, grids))}",
        )
        finest = self._finest_grid()
        for index, stage in enumerate(self.stages):
            path = f"stages.{index}"
            rules.require(
                stage.token_grid <= finest,
                f"{path}.token_grid",
                f"must be at most {finest} for family {self.family} and image_size {self.image_size}, "
                f"got {stage.token_grid}",
            )
            for name in ("feature_reuse_depth", "relation_reuse_depth", "relation_upstream_depth"):
                depth = getattr(stage, name)
                if depth == "all":
                    continue
                most = 0 if index == 0 else self.depth
                reason = "the first stage, which has nothing to reuse" if index == 0 else f"depth {self.depth}"
                rules.require(depth <= most, f"{path}.{name}", f"must be at most {most} for {reason}, got {depth}")

    def _finest_grid(self) -> int:
        """The finest grid that the image has pixels to give for."""
        # Three soft splits, the last two of stride 2, need four pixels a token.
        return self.image_size // 4 if self.family == "t2t_vit" else self.image_size
