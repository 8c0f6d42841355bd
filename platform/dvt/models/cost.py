"""What an image costs, in multiply-adds, from shapes alone.

Counted as the paper counts: matrix products and convolutions. Norms, activations, softmax and sums are left out, and
resizing a grid is one of these: each token becomes a weighted sum of at most four.

Shapes: N tokens with class token and registers, D width, H heads, L blocks.
"""

from dataclasses import dataclass, fields

from dvt.config import CascadeConfig
from dvt.models.tokenizers import LATER_SOFT_SPLIT, RANDOM_FEATURES, TOKEN_DIM, first_soft_split


@dataclass(frozen=True, kw_only=True)
class StageMacs:
    """Multiply-adds that one image spends in one stage, by part."""

    tokenizer: int
    blocks: int
    feature_reuse: int
    relation_reuse: int
    head: int

    @property
    def total(self) -> int:
        """Multiply-adds of the whole stage."""
        return sum(getattr(self, part.name) for part in fields(self))


@dataclass(frozen=True, kw_only=True)
class RelationNumbers:
    """How many numbers the relationship maps of one image are, where one stage reuses those of the one before."""

    handed_on: int  # attention logits of the upstream blocks, kept until they are mixed
    hidden: int  # between the two convolutions, made for a few images at a time on a CPU
    mixed: int  # for all receiving blocks, at the upstream grid
    resized: int  # for one receiving block at a time


def macs_per_exit(config: CascadeConfig) -> tuple[int, ...]:
    """Cumulative multiply-adds: what an image that leaves at each exit has cost."""
    costs, total = [], 0
    for stage_index in range(config.num_exits):
        total += stage_macs(config, stage_index).total
        costs.append(total)
    return tuple(costs)


def stage_macs(config: CascadeConfig, stage_index: int) -> StageMacs:
    """Multiply-adds that one image spends in one stage."""
    dim, reuse = config.embed_dim, config.reuse(stage_index)
    grid = config.token_grids[stage_index]
    tokens = grid * grid + config.num_prefix_tokens
    attention = 4 * tokens * dim**2 + 2 * tokens**2 * dim  # qkv and proj; logits and weighted sum
    mlp = 2 * tokens * dim * int(dim * config.mlp_ratio)
    context = tokens * config.feature_reuse_dim * int(dim * config.mlp_ratio)  # the wider input of the MLP
    return StageMacs(
        tokenizer=_tokenizer_macs(config, grid),
        blocks=config.depth * (attention + mlp) + reuse.feature_depth * context,
        feature_reuse=reuse.feature_depth * _feature_macs(config, stage_index) if reuse.feature_depth else 0,
        relation_reuse=_relation_macs(config, stage_index) if reuse.relation_depth else 0,
        head=dim * config.num_classes,
    )


def relation_numbers(config: CascadeConfig, stage_index: int) -> RelationNumbers:
    """Size of the relationship maps of one image in one stage; all 0 where it reuses none."""
    reuse, prefix = config.reuse(stage_index), config.num_prefix_tokens
    if not reuse.relation_depth:
        return RelationNumbers(handed_on=0, hidden=0, mixed=0, resized=0)
    upstream, own = ((prefix + grid**2) ** 2 for grid in config.token_grids[stage_index - 1 : stage_index + 1])
    out_maps = reuse.relation_depth * config.num_heads
    return RelationNumbers(
        handed_on=reuse.relation_upstream_depth * config.num_heads * upstream,
        hidden=int(config.relation_reuse_ratio * out_maps) * upstream,
        mixed=out_maps * upstream,
        resized=config.num_heads * own,
    )


def _tokenizer_macs(config: CascadeConfig, grid: int) -> int:
    patches = grid * grid
    if config.family == "vit":
        patch = -(-config.image_size // grid)
        return patches * config.in_chans * patch**2 * config.embed_dim
    split = first_soft_split(config.image_size, grid)
    wide = TOKEN_DIM * LATER_SOFT_SPLIT.kernel**2
    first_side = split.side(config.image_size)
    second_side = LATER_SOFT_SPLIT.side(first_side)
    return (
        _performer_macs(first_side**2, config.in_chans * split.kernel**2)
        + _performer_macs(second_side**2, wide)
        + patches * wide * config.embed_dim
    )


def _performer_macs(tokens: int, in_dim: int) -> int:
    linear = 3 * in_dim * TOKEN_DIM + 3 * TOKEN_DIM**2  # kqv; proj and the MLP's two layers
    # Random features of key and query, the summary of keys and values, its reading, and the normaliser.
    kernel = 4 * RANDOM_FEATURES * TOKEN_DIM + RANDOM_FEATURES
    return tokens * (linear + kernel)


def _feature_macs(config: CascadeConfig, stage_index: int) -> int:
    upstream = config.token_grids[stage_index - 1]
    mlp = config.feature_reuse_hidden_dim * (config.embed_dim + config.feature_reuse_dim)
    return (config.num_prefix_tokens + upstream**2) * mlp


def _relation_macs(config: CascadeConfig, stage_index: int) -> int:
    reuse = config.reuse(stage_index)
    in_maps, out_maps = reuse.relation_upstream_depth * config.num_heads, reuse.relation_depth * config.num_heads
    hidden = int(config.relation_reuse_ratio * out_maps)
    upstream_tokens = config.num_prefix_tokens + config.token_grids[stage_index - 1] ** 2
    return upstream_tokens**2 * hidden * (in_maps + out_maps)
