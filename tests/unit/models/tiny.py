"""Cascades of a few thousand parameters, and images for them."""

from typing import Any

import torch
from torch import Tensor

from dvt.config import CascadeConfig, StageConfig
from dvt.models import Cascade


def stages(*grids: int, **reuse: Any) -> tuple[StageConfig, ...]:
    """Stages of these grids; all but the first with these reuse depths."""
    return tuple(StageConfig(token_grid=grid, **(reuse if index else {})) for index, grid in enumerate(grids))


def tiny(**changes: Any) -> CascadeConfig:
    """Three stages of three narrow blocks, on 32-pixel images."""
    values: dict[str, Any] = {
        "image_size": 32,
        "num_classes": 5,
        "embed_dim": 16,
        "depth": 3,
        "num_heads": 2,
        "mlp_ratio": 2.0,
        "feature_reuse_dim": 6,
        "feature_reuse_hidden_dim": 8,
        "stages": stages(2, 3, 5),
    }
    return CascadeConfig(**values | changes)


def build(config: CascadeConfig, dtype: torch.dtype = torch.float32) -> Cascade:
    """The cascade with weights that leave no path at zero, for evaluation."""
    generator = torch.Generator().manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # the resizing matrices take it
    try:
        cascade = Cascade(config).to(dtype).eval()
    finally:
        torch.set_default_dtype(default)
    with torch.no_grad():
        for parameter in cascade.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=dtype)
            parameter.copy_(1 + 0.1 * noise if parameter.ndim == 1 else 0.3 * noise)
    return cascade


def images(config: CascadeConfig, count: int = 2, dtype: torch.dtype = torch.float32) -> Tensor:
    """Noise of the cascade's size and channels."""
    shape = (count, config.in_chans, config.image_size, config.image_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
