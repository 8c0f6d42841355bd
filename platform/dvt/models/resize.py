"""Resizing a token grid by one fixed matrix, for features and for relationships.

Source: Wang et al., NeurIPS 2021, section 3.2. The published code up-samples to an intermediate grid by nearest
neighbour and pools down by adaptive averages. Both are linear, so together they are one matrix U:
features become `U z`, relationships `U A U^T`; class token and registers are carried over by ones on U's diagonal.

Shapes: B batch, C channels or maps, n and m tokens a side before and after, P prefix tokens, N = P + n*n tokens.
"""

import torch
from torch import Tensor, nn


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
    matrix = torch.zeros(target_grid, source_grid, dtype=torch.float64)
    for row in range(target_grid):
        start, end = row * length // target_grid, -(-(row + 1) * length // target_grid)
        for place in range(start, end):
            matrix[row, place // factor] += 1 / (end - start)
    return matrix


class GridResize(nn.Module):
    """Resizes what an upstream stage hands on to the token grid of the stage that reuses it.

    The matrices are buffers outside the state dict: the two grids determine them.

    Args:
        source_grid: Tokens a side of the upstream stage.
        target_grid: Tokens a side of the stage that reuses.
        num_prefix: Tokens before the grid's, which are carried over as they are.
    """

    grid_matrix: Tensor
    token_matrix: Tensor

    def __init__(self, source_grid: int, target_grid: int, num_prefix: int = 1) -> None:
        super().__init__()
        self.source_grid, self.target_grid, self.num_prefix = source_grid, target_grid, num_prefix
        side = axis_matrix(source_grid, target_grid)
        grid = torch.kron(side, side)
        dtype = torch.get_default_dtype()
        self.register_buffer("grid_matrix", grid.to(dtype), persistent=False)  # (m*m, n*n)
        token = torch.block_diag(torch.eye(num_prefix, dtype=grid.dtype), grid)
        self.register_buffer("token_matrix", token.to(dtype), persistent=False)  # (M, N)

    def features(self, patches: Tensor) -> Tensor:
        """Resize patch tokens (prefix tokens left out) of shape (B, n*n, C) to (B, m*m, C)."""
        return self.grid_matrix @ patches

    def relations(self, maps: Tensor) -> Tensor:
        """Resize relationship maps of shape (B, C, N, N) on the query and the key side, to (B, C, M, M)."""
        # One large product for the keys of all maps, then one small product a map: faster than four separable ones.
        return self.token_matrix @ (maps @ self.token_matrix.T)
