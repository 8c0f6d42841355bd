"""Weights that follow from a name and a shape alone, so that two implementations can be given the same."""

import math
import zlib

import numpy as np
import torch
from torch import Tensor

from dvt.config import CascadeConfig
from dvt.models import Cascade, load_published, published_state_dict


def noise(seed: str, shape: tuple[int, ...]) -> Tensor:
    generator = np.random.default_rng(zlib.crc32(seed.encode()))
    return torch.from_numpy(generator.standard_normal(shape, dtype=np.float32))


def weight(name: str, shape: tuple[int, ...]) -> Tensor:
    """The reference value of an entry of a state dict: as large as a trained one's."""
    values = noise(name, shape)
    if len(shape) == 1:
        return 1 + 0.1 * values if name.endswith("weight") else 0.1 * values
    if name.endswith(("pos_embed", "cls_token")):
        return 0.02 * values
    if name.endswith((".attention1.w", ".attention2.w")):
        return values
    return values / math.sqrt(math.prod(shape[1:]))


def published_shapes(config: CascadeConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        state = published_state_dict(Cascade(config))
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def published_cascade(config: CascadeConfig) -> Cascade:
    """A cascade that has the weights of its published names, read from a published state dict."""
    return load_published({name: weight(name, shape) for name, shape in published_shapes(config).items()})
