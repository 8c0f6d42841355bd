"""How many numbers a cascade keeps, and how large its relationship maps are, from shapes alone.

Parameters are counted as the paper's tables have them: fixed tables (sinusoids, random features) are among them.

Shapes: N tokens with class token and registers, D width, C channels of the reused context.
"""

from dvt.config import CascadeConfig
from dvt.models.cost import relation_numbers
from dvt.models.tokenizers import LATER_SOFT_SPLIT, RANDOM_FEATURES, TOKEN_DIM, first_soft_split

BYTES_A_NUMBER = 4  # float32


def count_parameters(config: CascadeConfig) -> int:
    """Numbers in the state dict of a cascade."""
    return sum(stage_parameters(config, stage_index) for stage_index in range(config.num_exits))


def stage_parameters(config: CascadeConfig, stage_index: int) -> int:
    """Numbers in the state dict of one stage."""
    dim, grid, reuse = config.embed_dim, config.token_grids[stage_index], config.reuse(stage_index)
    hidden, context = config.feature_reuse_hidden_dim, config.feature_reuse_dim
    prefix = config.num_prefix_tokens
    embedded = grid * grid + (prefix if config.class_pos_embed else 0)
    feature_mlp = 2 * dim + _linear(dim, hidden) + _linear(hidden, context)
    # The block's second norm and the first layer of its MLP read the context too.
    wider = 2 * context + context * int(dim * config.mlp_ratio)
    return (
        _tokenizer_parameters(config, grid)
        + prefix * dim
        + embedded * dim
        + config.depth * _block_parameters(config)
        + reuse.feature_depth * (feature_mlp + wider)
        + _relation_parameters(config, stage_index)
        + 2 * dim  # the norm before the head
        + _linear(dim, config.num_classes)
    )


def stage_map_bytes(config: CascadeConfig, stage_index: int) -> int:
    """Memory of all relationship maps that one image has in one stage, in bytes of float32."""
    numbers = relation_numbers(config, stage_index)
    return BYTES_A_NUMBER * (numbers.handed_on + numbers.hidden + numbers.mixed + numbers.resized)


def largest_map_bytes(config: CascadeConfig) -> int:
    """Memory of the relationship maps of one image in the stage that has most of them, in bytes of float32.

    They are of one stage at a time: what the stage before handed on is let go once it is mixed.
    """
    return max(stage_map_bytes(config, stage_index) for stage_index in range(config.num_exits))


def _block_parameters(config: CascadeConfig) -> int:
    dim, hidden = config.embed_dim, int(config.embed_dim * config.mlp_ratio)
    qkv = 3 * dim * dim + (3 * dim if config.qkv_bias else 0)
    head_norms = 4 * (dim // config.num_heads) if config.qk_norm else 0
    scales = 0 if config.layer_scale is None else 2 * dim
    return 4 * dim + qkv + head_norms + _linear(dim, dim) + scales + _linear(dim, hidden) + _linear(hidden, dim)


def _relation_parameters(config: CascadeConfig, stage_index: int) -> int:
    reuse = config.reuse(stage_index)
    if not reuse.relation_depth:
        return 0
    in_maps, out_maps = reuse.relation_upstream_depth * config.num_heads, reuse.relation_depth * config.num_heads
    hidden = int(config.relation_reuse_ratio * out_maps)
    return _linear(in_maps, hidden) + _linear(hidden, out_maps)


def _tokenizer_parameters(config: CascadeConfig, grid: int) -> int:
    if config.family == "vit":
        patch = -(-config.image_size // grid)
        return _linear(config.in_chans * patch**2, config.embed_dim)
    kernel = first_soft_split(config.image_size, grid).kernel
    wide = TOKEN_DIM * LATER_SOFT_SPLIT.kernel**2
    return (
        _performer_parameters(config.in_chans * kernel**2)
        + _performer_parameters(wide)
        + _linear(wide, config.embed_dim)
    )


def _performer_parameters(in_dim: int) -> int:
    layers = _linear(in_dim, 3 * TOKEN_DIM) + 3 * _linear(TOKEN_DIM, TOKEN_DIM)  # kqv; proj and the MLP's two
    return 2 * in_dim + layers + 2 * TOKEN_DIM + RANDOM_FEATURES * TOKEN_DIM  # two norms, random features


def _linear(in_dim: int, out_dim: int) -> int:
    return in_dim * out_dim + out_dim
