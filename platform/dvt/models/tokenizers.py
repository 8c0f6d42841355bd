"""From pixels to a grid of tokens: the strided convolution of ViT and the tokens-to-token module of T2T-ViT.

Sources: Dosovitskiy et al., ICLR 2021; Yuan et al., "Tokens-to-Token ViT", ICCV 2021 (its performer attention:
Choromanski et al., ICLR 2021). Geometry of the grids: Wang et al., NeurIPS 2021.

Shapes: B batch, c image channels, S image side, g tokens a side, N = g*g tokens, D width, m random features.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dvt.config import CascadeConfig
from dvt.models.parts import by_parts, recomputed
from dvt.models.sparse_rows import SparseRows

TOKEN_DIM = 64  # width inside the tokens-to-token module
RANDOM_FEATURES = 32
PERFORMER_DROPOUT = 0.1
PERFORMER_EPS = 1e-8

# Kernel, stride and padding of the published first soft splits, by image side and token grid.
# The paper's 4x4 has a cost, 0.21 G, and no published geometry: of the stride and number of tokens that the rule below
# gives, this is the one kernel that costs as much.
PUBLISHED_SOFT_SPLITS = {(224, 4): (24, 14, 5), (224, 7): (14, 8, 3), (224, 10): (11, 6, 5), (224, 14): (7, 4, 2)}


@dataclass(frozen=True)
class SoftSplit:
    """Overlapping patches, unfolded into tokens: kernel, stride and padding in pixels or tokens."""

    kernel: int
    stride: int
    padding: int

    def side(self, size: int) -> int:
        """Tokens a side that are left of `size` pixels or tokens a side."""
        return (size + 2 * self.padding - self.kernel) // self.stride + 1

    def unfold(self, images: Tensor) -> Tensor:
        """Patches of images (B, c, size, size) as tokens of shape (B, side*side, c*kernel*kernel)."""
        padded = F.pad(images, [self.padding] * 4)
        patches = padded.unfold(2, self.kernel, self.stride).unfold(3, self.kernel, self.stride)
        return patches.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)  # one copy, where F.unfold needs two

    def gather(self, size: int) -> SparseRows:
        """Puts size*size tokens (B, N, D) at the places of all patches, (B, side*side*kernel*kernel, D).

        Places in the padding are zero. Patch by patch, and place by place in each.
        """
        side, kernel = self.side(size), self.kernel
        entries = []
        places = itertools.product(range(side), range(side), range(kernel), range(kernel))
        for index, (patch_y, patch_x, y, x) in enumerate(places):
            row, column = (patch * self.stride + place - self.padding for patch, place in ((patch_y, y), (patch_x, x)))
            if 0 <= row < size and 0 <= column < size:
                entries.append((index, row * size + column, 1.0))
        return SparseRows(entries, (side * kernel) ** 2, size**2)


LATER_SOFT_SPLIT = SoftSplit(3, 2, 1)
NUM_PLACES = LATER_SOFT_SPLIT.kernel**2


def first_soft_split(image_size: int, token_grid: int) -> SoftSplit:
    """The soft split after which two more of stride 2 leave `token_grid` tokens a side.

    The published grids are a table. Others take the stride S / (4 g) rounded up, as the convolution's is, a kernel of
    twice the stride less one, and the padding that fits: every pixel is seen. Two of the published rows follow too.

    Args:
        image_size: Pixels a side.
        token_grid: Tokens a side in the end, at most image_size / 4.
    """
    published = PUBLISHED_SOFT_SPLITS.get((image_size, token_grid))
    if published is not None:
        return SoftSplit(*published)
    stride = math.ceil(image_size / (4 * token_grid))
    kernel = max(3, 2 * stride - 1)  # at least 3, so that a token of a grey image is more than one number
    # Two halvings, each rounded up, leave the grid from 4 g - 3 to 4 g tokens a side.
    side = max(math.ceil(image_size / stride), 4 * token_grid - 3)
    return SoftSplit(kernel, stride, padding=math.ceil(((side - 1) * stride + kernel - image_size) / 2))


class ConvTokenizer(nn.Module):
    """Non-overlapping patches by one strided convolution; an image that does not divide is padded evenly with zeros."""

    def __init__(self, config: CascadeConfig, token_grid: int) -> None:
        super().__init__()
        patch = math.ceil(config.image_size / token_grid)
        total = patch * token_grid - config.image_size
        before = total // 2
        self.padding = (before, total - before) * 2
        self.proj = nn.Conv2d(config.in_chans, config.embed_dim, patch, patch)

    def forward(self, images: Tensor) -> Tensor:
        """Tokens (B, N, D) of images (B, c, S, S)."""
        if any(self.padding):
            images = F.pad(images, self.padding)
        tokens: Tensor = self.proj(images)  # (B, D, g, g)
        return tokens.flatten(2).transpose(1, 2)  # (B, N, D)


class PerformerAttention(nn.Module):
    """One-head linear attention by positive random features, then an MLP; `v` is the skip path, as published.

    Args:
        in_dim: Numbers of an incoming token.
        num_places: Tokens that each incoming one was put together from, place by place. The published weights expect
            their channels one by one, each at all places, and stay in that order.
    """

    w: Tensor

    def __init__(self, in_dim: int, num_places: int = 1) -> None:
        super().__init__()
        self.num_places = num_places
        self.kqv = nn.Linear(in_dim, 3 * TOKEN_DIM)
        self.proj = nn.Linear(TOKEN_DIM, TOKEN_DIM)
        self.dropout = nn.Dropout(PERFORMER_DROPOUT)
        self.norm1 = nn.LayerNorm(in_dim)
        self.norm2 = nn.LayerNorm(TOKEN_DIM)
        self.mlp = nn.Sequential(
            nn.Linear(TOKEN_DIM, TOKEN_DIM), nn.GELU(), nn.Linear(TOKEN_DIM, TOKEN_DIM), nn.Dropout(PERFORMER_DROPOUT)
        )
        features = torch.empty(RANDOM_FEATURES, TOKEN_DIM)
        # Fixed and in the state dict: other projections would be another model.
        self.register_buffer("w", nn.init.orthogonal_(features) * math.sqrt(RANDOM_FEATURES))

    def forward(self, source: Tensor, split: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Tokens (B, N, 64) of the tokens (B, N, in_dim) that `split` makes of `source`; None takes it as it is."""

        def normed_tokens(source: Tensor) -> Tensor:
            tokens = source if split is None else split(source)
            scale, shift = (place_first(part, self.num_places) for part in (self.norm1.weight, self.norm1.bias))
            return F.layer_norm(tokens, self.norm1.normalized_shape, scale, shift, self.norm1.eps)

        # Overlapping patches are many times what they are cut from, and cut again in no time.
        normed = recomputed(normed_tokens, source)
        kqv = F.linear(normed, place_first(self.kqv.weight, self.num_places), self.kqv.bias)
        key, query, value = kqv.chunk(3, dim=-1)
        attended = self._attend(key, query, value)
        tokens = value + self.dropout(self.proj(attended.to(value.dtype)))
        mixed: Tensor = tokens + self.mlp(self.norm2(tokens))
        return mixed

    def _attend(self, key: Tensor, query: Tensor, value: Tensor) -> Tensor:
        """Linear attention, (B, N, 64), in at least float32: exponentials and their sums are too wide for less."""
        with torch.autocast(value.device.type, enabled=False):
            dtype = torch.promote_types(value.dtype, torch.float32)
            key, query = self._random_features(key.to(dtype)), self._random_features(query.to(dtype))  # (B, N, m)
            summary = value.to(dtype).transpose(1, 2) @ key  # (B, 64, m)
            normaliser = query @ key.sum(dim=1).unsqueeze(2)  # (B, N, 1)
            return query @ summary.transpose(1, 2) / (normaliser + PERFORMER_EPS)

    def _random_features(self, tokens: Tensor) -> Tensor:
        """Positive random features of the softmax kernel, exp(w x - |x|^2 / 2) / sqrt(m)."""
        half_norm = tokens.square().sum(dim=-1, keepdim=True) / 2
        return torch.exp(tokens @ self.w.T.to(tokens.dtype) - half_norm) / math.sqrt(RANDOM_FEATURES)


class TokensToToken(nn.Module):
    """Three soft splits with two performer layers between them, then a projection to the stage's width."""

    def __init__(self, config: CascadeConfig, token_grid: int) -> None:
        super().__init__()
        self.split1 = first_soft_split(config.image_size, token_grid)
        side1 = self.split1.side(config.image_size)
        side2 = LATER_SOFT_SPLIT.side(side1)
        self.split2, self.split3 = (LATER_SOFT_SPLIT.gather(side) for side in (side1, side2))
        self.numbers_an_image = side1**2 * max(config.in_chans * self.split1.kernel**2, 3 * TOKEN_DIM)
        self.attention1 = PerformerAttention(config.in_chans * self.split1.kernel**2)
        self.attention2 = PerformerAttention(TOKEN_DIM * NUM_PLACES, NUM_PLACES)
        self.project = nn.Linear(TOKEN_DIM * NUM_PLACES, config.embed_dim)

    def forward(self, images: Tensor) -> Tensor:
        """Tokens (B, N, D) of images (B, c, S, S)."""
        return by_parts(self._tokens, [images], self.numbers_an_image)[0]

    def _tokens(self, images: Tensor) -> tuple[Tensor]:
        tokens = self.attention1(images, self.split1.unfold)  # (B, side1 * side1, 64)
        tokens = self.attention2(tokens, partial(_patches, self.split2))  # (B, side2 * side2, 64)
        tokens = _patches(self.split3, tokens)  # (B, N, 9 * 64)
        return (F.linear(tokens, place_first(self.project.weight, NUM_PLACES), self.project.bias),)


def _patches(gather: SparseRows, tokens: Tensor) -> Tensor:
    """Tokens put together from the tokens at the places of each patch, (B, patches, places * 64)."""
    placed: Tensor = gather(tokens).unflatten(1, (-1, NUM_PLACES))
    return placed.flatten(2)


def place_first(weight: Tensor, num_places: int) -> Tensor:
    """Columns (..., channels * places) of a weight as (..., places * channels)."""
    placed: Tensor = weight.unflatten(-1, (-1, num_places))  # (..., channels, places)
    return placed.transpose(-1, -2).flatten(-2)


def sinusoid_table(num_tokens: int, dim: int) -> Tensor:
    """The fixed position embedding of T2T-ViT, shape (1, num_tokens, dim): sines on even channels, cosines on odd."""
    position = torch.arange(num_tokens, dtype=torch.float64)[:, None]
    rate = 10_000.0 ** (-2 * (torch.arange(dim) // 2).to(torch.float64) / dim)
    angle = position * rate  # (num_tokens, dim)
    table = torch.where(torch.arange(dim) % 2 == 0, angle.sin(), angle.cos())
    return table[None].float()
