"""Weights in the layout of the published implementation, in both directions.

Wang et al., "Not All Images are Worth 16x16 Words", NeurIPS 2021, published state dicts of cascades of three stages.
They name no variant: which one it is, its classes and its reuse follow from names and shapes.

Shapes: D width, C classes.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import TypeVar

import torch
from torch import Tensor

from dvt.config import CascadeConfig, StageConfig
from dvt.config.cascade import ReuseDepth
from dvt.models.cascade import Cascade
from dvt.models.variants import VARIANTS
from dvt.models.weights import WeightsError, require_layout

PUBLISHED_VARIANTS = ("dvt_t2t_vit_12", "dvt_t2t_vit_14", "dvt_deit_small")
PREFIXES = ("less_less_token", "less_token", "normal_token")  # of the stages, coarse to fine
TOKEN_GRIDS = (7, 10, 14)

# What the published code calls the parts of a stage, where it differs; its `resuse` is spelled so.
_TOKENIZERS = {"t2t_vit": "tokens_to_token", "vit": "patch_embed"}
_RENAMED = (
    (r"^feature_reuse\.(\d+)\.norm\.", r"blocks.\1.feature_resuse_mlp.0."),
    (r"^feature_reuse\.(\d+)\.mlp\.", r"blocks.\1.feature_resuse_mlp.1."),
    (r"^relation_reuse\.fc1\.", "relation_reuse_conv.0."),
    (r"^relation_reuse\.fc2\.", "relation_reuse_conv.2."),
)

# Every published variant has these in its own way; see `_variant_in`.
_WIDTH_KEY = re.compile(r"\w+\.blocks\.\d+\.norm1\.weight")
_HEAD_KEY = re.compile(r"\w+\.head\.(weight|bias)")

_Value = TypeVar("_Value")


def load_published(state_dict: Mapping[str, Tensor]) -> Cascade:
    """The cascade that a published state dict holds the weights of.

    Args:
        state_dict: Tensors by their published names, all of one floating type and on one device.

    Returns:
        The cascade in evaluation mode, with copies of the tensors, of their type and on their device.

    Raises:
        WeightsError: If the variant cannot be told, or listing every entry that is missing, unexpected or misshapen.
    """
    values: Mapping[str, object] = state_dict  # from a file, they may be anything
    wrong = [name for name, value in values.items() if not isinstance(value, Tensor)]
    if wrong:
        raise WeightsError(f"a published state dict must hold tensors alone, got others at {_listed(wrong)}")
    config = _config_in(state_dict)
    with torch.device("meta"):  # names and shapes, without memory
        layout = {
            name: (_published_name(name, config), own.shape) for name, own in Cascade(config).state_dict().items()
        }
    require_layout(state_dict, dict(layout.values()), "a published state dict")
    dtypes = {tensor.dtype for tensor in state_dict.values()}
    if len(dtypes) > 1 or not next(iter(dtypes)).is_floating_point:
        told = ", ".join(sorted(map(str, dtypes)))
        raise WeightsError(f"a published state dict must hold numbers of one floating type, got {told}; convert it")
    with next(iter(state_dict.values())).device:
        cascade = Cascade(config).to(dtypes.pop())
    cascade.load_state_dict({name: state_dict[published] for name, (published, _) in layout.items()})
    return cascade.eval()


def published_state_dict(cascade: Cascade) -> dict[str, Tensor]:
    """A cascade's weights under their published names; the tensors share memory with the cascade's.

    Raises:
        WeightsError: Listing everything about the cascade that the published layout cannot hold.
    """
    published_variant(cascade.config)
    return {_published_name(name, cascade.config): tensor for name, tensor in cascade.state_dict().items()}


def published_variant(config: CascadeConfig) -> str:
    """The name of the published variant that a cascade is, of any number of classes and with each reuse on or off.

    Raises:
        WeightsError: Listing everything that the published layout cannot hold.
    """
    differences = {name: _backbone_differences(config, VARIANTS[name]) for name in PUBLISHED_VARIANTS}
    nearest = min(differences, key=lambda name: len(differences[name]))
    problems = [*differences[nearest], *_stage_problems(config)]
    if problems:
        raise WeightsError(
            f"a cascade in the published layout must be {_one_of(PUBLISHED_VARIANTS)}, of any number of classes and "
            f"with each reuse on or off, got {', '.join(problems)}"
        )
    return nearest


def _config_in(state_dict: Mapping[str, Tensor]) -> CascadeConfig:
    """The cascade that names and shapes speak of; where single entries are amiss, the one that most speak of."""
    features: ReuseDepth = "all" if any(".feature_resuse_mlp." in name for name in state_dict) else 0
    relations: ReuseDepth = "all" if any(".relation_reuse_conv." in name for name in state_dict) else 0
    variant = VARIANTS[_variant_in(state_dict)]
    first, *later = TOKEN_GRIDS
    stages = (
        StageConfig(token_grid=first),
        *(StageConfig(token_grid=g, feature_reuse_depth=features, relation_reuse_depth=relations) for g in later),
    )
    classes = _most_common(_lengths(state_dict, _HEAD_KEY)) or variant.num_classes
    return replace(variant, num_classes=classes, stages=stages)


def _variant_in(state_dict: Mapping[str, Tensor]) -> str:
    """The variant of the width and the tokenizer that most entries speak of; these two tell the variants apart."""
    families = (
        family
        for name in state_dict
        for family, part in _TOKENIZERS.items()
        if name.startswith(tuple(f"{prefix}.{part}." for prefix in PREFIXES))
    )
    family, width = _most_common(families), _most_common(_lengths(state_dict, _WIDTH_KEY))
    variants = {name: VARIANTS[name] for name in PUBLISHED_VARIANTS}
    for name, variant in variants.items():
        if (variant.family, variant.embed_dim) == (family, width):
            return name
    choices = ", ".join(
        f"({variant.embed_dim},) and {_TOKENIZERS[variant.family]} for {name}" for name, variant in variants.items()
    )
    shape = "no such entry" if width is None else f"({width},)"
    tokenizer = "no tokenizer" if family is None else _TOKENIZERS[family]
    raise WeightsError(
        f"a published state dict must have {PREFIXES[0]}.blocks.0.norm1.weight and a tokenizer of a published variant, "
        f"got {shape} and {tokenizer}; choose from {choices}"
    )


def _lengths(state_dict: Mapping[str, Tensor], key: re.Pattern[str]) -> list[int]:
    return [len(tensor) for name, tensor in state_dict.items() if key.fullmatch(name) and tensor.ndim and len(tensor)]


def _most_common(values: Iterable[_Value]) -> _Value | None:
    counted = Counter(values).most_common(1)
    return counted[0][0] if counted else None


def _published_name(name: str, config: CascadeConfig) -> str:
    _, index, rest = name.split(".", 2)
    rest = re.sub(r"^tokenizer\.", f"{_TOKENIZERS[config.family]}.", rest)
    for own, published in _RENAMED:
        rest = re.sub(own, published, rest)
    return f"{PREFIXES[int(index)]}.{rest}"


def _backbone_differences(config: CascadeConfig, variant: CascadeConfig) -> list[str]:
    free = ("num_classes", "drop_path", "stages")  # drop_path leaves no trace in the weights; stages are told apart
    return [
        f"{name} {getattr(config, name)} instead of {getattr(variant, name)}"
        for name in (field.name for field in fields(config) if field.name not in free)
        if getattr(config, name) != getattr(variant, name)
    ]


def _stage_problems(config: CascadeConfig) -> list[str]:
    problems = []
    if config.token_grids != TOKEN_GRIDS:
        problems.append(f"token grids {_listed(config.token_grids)} instead of {_listed(TOKEN_GRIDS)}")
    reuses = [config.reuse(index) for index in range(1, config.num_exits)]
    for name in ("feature_depth", "relation_depth", "relation_upstream_depth"):
        depths = [getattr(reuse, name) for reuse in reuses]
        if set(depths) not in ({0}, {config.depth}, set()):
            problems.append(f"{name} {_listed(depths)} instead of 0 or {config.depth} for all")
    return problems


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))


def _one_of(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} or {last}"
