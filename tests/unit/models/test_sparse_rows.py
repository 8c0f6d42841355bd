"""Products with sparse matrices: against dense ones, forwards and backwards, in every mode and precision."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dvt.models.sparse_rows import SparseRows

MATRIX = [[0.0, 2.0, 0.0], [0.5, 0.0, -1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 4.0]]  # a row without entries, too


def sparse(matrix: Any) -> tuple[SparseRows, Tensor]:
    dense = torch.tensor(matrix, dtype=torch.float64)
    entries = [(int(row), int(column), dense[row, column].item()) for row, column in dense.nonzero()]
    return SparseRows(reversed(entries), *dense.shape).double(), dense  # in whatever order


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(3, 1), (3, 7), (2, 3, 5), (2, 4, 3, 5), (0, 3, 5)])
def test_the_product_is_the_dense_one(shape: tuple[int, ...]) -> None:
    module, dense = sparse(MATRIX)
    rows = noise(*shape)
    torch.testing.assert_close(module(rows), dense @ rows, rtol=0, atol=1e-12)


@settings(deadline=None, max_examples=30)
@given(data=st.data(), num_rows=st.integers(1, 6), num_columns=st.integers(1, 6))
def test_any_matrix(data: st.DataObject, num_rows: int, num_columns: int) -> None:
    row = st.lists(st.sampled_from([0.0, 0.0, 1.0, -0.25]), min_size=num_columns, max_size=num_columns)
    matrix = data.draw(st.lists(row, min_size=num_rows, max_size=num_rows).filter(lambda rows: any(map(any, rows))))
    module, dense = sparse(matrix)
    rows = noise(2, num_columns, 3)
    torch.testing.assert_close(module(rows), dense @ rows, rtol=0, atol=1e-12)


def test_rows_need_not_lie_side_by_side() -> None:
    module, dense = sparse(MATRIX)
    rows = noise(5, 3).T[:, ::2]
    torch.testing.assert_close(module(rows.contiguous().mT.mT), dense @ rows, rtol=0, atol=1e-12)
    torch.testing.assert_close(module(noise(2, 5, 3).mT), dense @ noise(2, 5, 3).mT, rtol=0, atol=1e-12)


def test_gradients() -> None:
    module, _ = sparse(MATRIX)
    assert torch.autograd.gradcheck(module, noise(2, 3, 2).requires_grad_())


def test_another_batch_between_forward_and_backward() -> None:
    module, dense = sparse(MATRIX)
    rows = noise(2, 3, 2).requires_grad_()
    product = module(rows)
    module(noise(5, 3, 2))
    product.sum().backward()
    torch.testing.assert_close(rows.grad, dense.sum(dim=0)[:, None].expand(2, 3, 2), rtol=0, atol=1e-12)


def test_a_gradient_after_inference_of_as_many() -> None:
    module, _ = sparse(MATRIX)
    with torch.inference_mode():
        expected = module(noise(2, 3, 2))
    rows = noise(2, 3, 2).requires_grad_()
    product = module(rows)
    product.sum().backward()
    assert torch.equal(product, expected)
    assert rows.grad is not None


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-6), (torch.bfloat16, 0.05)])
def test_precisions(dtype: torch.dtype, atol: float) -> None:
    module, dense = sparse(MATRIX)
    rows = noise(2, 3, 5)
    product = module.float()(rows.to(dtype))
    assert product.dtype == dtype
    torch.testing.assert_close(product.double(), dense @ rows, rtol=0, atol=atol)


def test_nothing_is_stored() -> None:
    module, _ = sparse(MATRIX)
    assert module.state_dict() == {}
