"""The weights that stages of different cascades share, and what each stage takes of them.

Source: patch and position embedding are resized as in Beyer et al., "FlexiViT: One Model for All Patch Sizes", CVPR
2023, section 3.4.

Shapes: D width, c image channels, p pixels a side of a patch.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache

import torch
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn
from torch.nn import functional as F

from dvt.config import CascadeConfig, StageConfig
from dvt.models.stage import Stage
from dvt.models.tokenizers import sinusoid_table


class SharedStage(nn.Module):
    """The weights of all stages that share theirs.

    Args:
        config: A cascade of the space, with the most blocks and the widest context of all.
        grids: The token grids of these stages, increasing.
        reuse: The largest reuse depths of these stages; None if each of them is the first of its cascade.
    """

    def __init__(self, config: CascadeConfig, grids: tuple[int, ...], reuse: StageConfig | None) -> None:
        super().__init__()
        self.num_prefix = config.num_prefix_tokens if config.class_pos_embed else 0
        own = replace(reuse or StageConfig(token_grid=1), token_grid=grids[-1])
        before = () if reuse is None else (StageConfig(token_grid=grids[-1] - 1),)
        self.stage = Stage(replace(config, stages=(*before, own)), len(before))
        # Positions are kept at the finest grid, patches at the coarsest: no grid asks for more than there is.
        # The first attention of a T2T-ViT reads whole patches: what it learns belongs to one patch size.
        kept = grids[:1] if config.family == "vit" else grids
        self.tokenizers = nn.ModuleDict({str(grid): _tokenizer(config, grid) for grid in kept})
        self.tokenizer_of = dict.fromkeys(grids, str(grids[0])) | {grid: str(grid) for grid in kept}
        del self.stage.tokenizer

    def derive(self, shapes: Mapping[str, torch.Size], grid: int) -> Iterator[tuple[str, Tensor]]:
        """Name and value of each tensor of a stage that takes these weights, for their shapes by name."""
        tokenizer = self.tokenizers[self.tokenizer_of[grid]].state_dict(keep_vars=True, prefix="tokenizer.")
        whole = {**self.stage.state_dict(keep_vars=True), **tokenizer}
        for name, shape in shapes.items():
            tensor = whole[name]
            if name == "pos_embed":
                yield name, self._positions(tensor, shape, grid)
            elif name == "tokenizer.proj.weight":
                yield name, resize_patches(tensor, shape[-1])
            elif name == "relation_reuse.fc1.weight":
                yield name, tensor[: shape[0], tensor.shape[1] - shape[1] :]
            else:
                yield name, tensor[tuple(map(slice, shape))]

    def _positions(self, whole: Tensor, shape: torch.Size, grid: int) -> Tensor:
        if not isinstance(whole, nn.Parameter):  # the fixed table of a T2T-ViT
            return sinusoid_table(shape[1], shape[2]).to(whole)
        resized: Tensor = resample_abs_pos_embed(whole, [grid, grid], num_prefix_tokens=self.num_prefix)
        return resized


def resize_patches(weight: Tensor, patch: int) -> Tensor:
    """A patch embedding for patches of another size, as FlexiViT resizes it; differentiable.

    Args:
        weight: (D, c, p, p).
        patch: Pixels a side of the patches that it will read.

    Returns:
        (D, c, patch, patch), which makes of a resized patch about what `weight` makes of the patch, and exactly that
        where patches become larger.
    """
    if weight.shape[-1] == patch:
        return weight
    matrix = _patch_matrix(weight.shape[-1], patch).to(weight)
    resized: Tensor = (weight.flatten(2) @ matrix).unflatten(2, (patch, patch))
    return resized


@lru_cache(maxsize=256)
def _patch_matrix(source: int, target: int) -> Tensor:
    """The pseudo-inverse of the matrix that resizes patches, (source * source, target * target)."""
    with torch.inference_mode(False):  # what is kept must serve a later gradient
        basis = torch.eye(source**2, dtype=torch.float64).unflatten(1, (1, source, source))
        resized = F.interpolate(basis, size=(target, target), mode="bicubic", antialias=True)
        inverse: Tensor = torch.linalg.pinv(resized.flatten(1).T)
    return inverse


def _tokenizer(config: CascadeConfig, grid: int) -> nn.Module:
    """A tokenizer with the first weights that a stage gives it."""
    tokenizer: nn.Module = Stage(replace(config, stages=(StageConfig(token_grid=grid),)), 0).tokenizer
    return tokenizer
