"""Resizing a token grid by one fixed matrix, for features and for relationships.

Source: Wang et al., NeurIPS 2021, section 3.2. The published code up-samples to an intermediate grid by nearest
neighbour and pools down by adaptive averages. Both are linear, so together they are one matrix U:
features become `U z`, relationships `U A U^T`; class token and registers are carried over by ones on U's diagonal.

Shapes: B batch, C channels or maps, n and m tokens a side before and after, P prefix tokens, N = P + n*n tokens.
"""

from itertools import product

import torch
from torch import Tensor, nn

from dvt.models.sparse_rows import SparseRows


def axis_matrix(source_grid: int, target_grid: int) -> Tensor:
    """The matrix that resizes one side of a token grid.

    The intermediate grid is the smallest multiple of `source_grid` that is at least `target_grid`, which is the
    published 14 for 7 -> 10 and 20 for 10 -> 14.

    Args:
        source_grid: Tokens a side of the upstream stage, at least 1.
        target_grid: Tokens a side of the stage that reuses.

    Returns:
        Matrix of shape (target_grid, source_grid), float64; its rows sum to 1.
    """
    factor = -(-target_grid // source_grid)
    length = factor * source_grid
    matrix = torch.zeros(target_grid, source_grid, dtype=torch.float64, device="cpu")  # also where models are on meta
    for row in range(target_grid):
        start, end = row * length // target_grid, -(-(row + 1) * length // target_grid)
        for place in range(start, end):
            matrix[row, place // factor] += 1 / (end - start)
    return matrix


class GridResize(nn.Module):
    """Resizes what an upstream stage hands on to the token grid of the stage that reuses it.

    Args:
        source_grid: Tokens a side of the upstream stage.
        target_grid: Tokens a side of the stage that reuses.
        num_prefix: Tokens before the grid's, which are carried over as they are.
    """

    def __init__(self, source_grid: int, target_grid: int, num_prefix: int = 1) -> None:
        super().__init__()
        side = axis_matrix(source_grid, target_grid).tolist()
        taps = [(row, column, weight) for row, weights in enumerate(side) for column, weight in enumerate(weights)]
        patches = [
            (num_prefix + y * target_grid + x, num_prefix + from_y * source_grid + from_x, weight_y * weight_x)
            for (y, from_y, weight_y), (x, from_x, weight_x) in product(taps, taps)
            if weight_y * weight_x > 0
        ]
        prefix = [(index, index, 1.0) for index in range(num_prefix)]
        size = num_prefix + target_grid**2, num_prefix + source_grid**2  # M, N
        self.feature_rows = SparseRows(patches, *size)
        self.relation_rows = SparseRows(prefix + patches, *size)

    def features(self, tokens: Tensor) -> Tensor:
        """Resize tokens of shape (..., N, C) to (..., M, C); the prefix tokens' become zero."""
        resized: Tensor = self.feature_rows(tokens)
        return resized

    def relations(self, maps: Tensor) -> Tensor:
        """Resize relationship maps of shape (B, C, N, N) on the query and the key side, to (B, C, M, M)."""
        keys = self.relation_rows(maps.transpose(2, 3))  # (B, C, M, N), keys first: there are fewer queries yet
        resized: Tensor = self.relation_rows(keys.transpose(2, 3))
        return resized
