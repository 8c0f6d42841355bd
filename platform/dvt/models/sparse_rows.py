"""Products with fixed sparse matrices: resizing a token grid and cutting overlapping patches are both such.

A dense product would spend most of its multiply-adds on zeros. Here each row of the result is a weighted sum of the few
rows that its matrix row names, as `embedding_bag` computes it: in one pass over memory, on every device.

Shapes: N rows before, M rows after, W numbers a row, K entries of the matrix that are not zero.
"""

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class SparseRows(nn.Module):
    """Multiplies by a fixed matrix whose rows have few entries.

    The matrix and its transpose, for the gradient, are buffers outside the state dict.

    Args:
        entries: Row, column and value of each entry that is not zero.
        num_rows: M.
        num_columns: N.
    """

    def __init__(self, entries: Iterable[tuple[int, int, float]], num_rows: int, num_columns: int) -> None:
        super().__init__()
        entries = sorted(entries)
        self.num_rows = num_rows
        self.forth = _Entries(entries, num_rows, num_columns)
        self.back = _Entries(sorted((column, row, value) for row, column, value in entries), num_columns, num_rows)

    def forward(self, rows: Tensor) -> Tensor:
        """The product (..., M, W) of the matrix with `rows`, (..., N, W)."""
        *outer, _, width = rows.shape
        num_copies = math.prod(outer)  # one matrix for each of the outer indices
        product: Tensor = _Product.apply(rows.reshape(-1, width), *self.forth(num_copies), *self.back(num_copies))
        return product.reshape(*outer, self.num_rows, width)


class _Entries(nn.Module):
    """The entries of a matrix that are not zero, row by row."""

    columns: Tensor
    starts: Tensor
    values: Tensor

    def __init__(self, entries: Sequence[tuple[int, int, float]], num_rows: int, num_columns: int) -> None:
        super().__init__()
        self.num_columns = num_columns
        rows, columns, values = zip(*entries, strict=True)
        starts = [bisect_left(rows, row) for row in range(num_rows)]
        self.register_buffer("columns", torch.tensor(columns), persistent=False)  # (K,)
        self.register_buffer("starts", torch.tensor(starts), persistent=False)  # (M,), in `columns`
        self.register_buffer("values", torch.tensor(values), persistent=False)  # (K,)
        self._last: tuple[Any, tuple[Tensor, Tensor, Tensor]] | None = None

    def forward(self, num_copies: int) -> tuple[Tensor, Tensor, Tensor]:
        """Columns, starts and values of a block-diagonal matrix with so many copies of this one."""
        if torch.compiler.is_compiling():
            return self._repeated(num_copies)
        # All blocks of a stage ask for the same. What is kept must serve a later gradient, too.
        key, last = (num_copies, self.values.device, self.values.dtype), self._last
        if last is None or last[0] != key:
            with torch.inference_mode(False):
                self._last = last = key, self._repeated(num_copies)
        return last[1]

    def _repeated(self, num_copies: int) -> tuple[Tensor, Tensor, Tensor]:
        copies = torch.arange(num_copies, device=self.columns.device)[:, None]
        columns = (copies * self.num_columns + self.columns).flatten()
        starts = (copies * len(self.columns) + self.starts).flatten()
        return columns, starts, self.values.repeat(num_copies)


class _Product(torch.autograd.Function):
    """The gradient of a product with a matrix is the product with its transpose, which is as sparse."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, *entries: Tensor) -> Tensor:
        forth, back = entries[:3], entries[3:]
        ctx.save_for_backward(*back)
        return _weighted_sums(rows, *forth)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return _weighted_sums(gradient.contiguous(), *ctx.saved_tensors), *[None] * 6


def _weighted_sums(rows: Tensor, columns: Tensor, starts: Tensor, values: Tensor) -> Tensor:
    # Detached, as of a table that wants a gradient embedding_bag keeps more than it needs.
    return F.embedding_bag(columns, rows.detach(), starts, mode="sum", per_sample_weights=values.to(rows.dtype))
