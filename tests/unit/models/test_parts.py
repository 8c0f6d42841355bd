"""Working in parts gives what the whole gives, gradients too; what is recomputed is not kept."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dvt.models import parts
from dvt.models.parts import by_parts, recomputed
from tests.unit.models.tiny import build, images, tiny


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Work:
    """Two results of two arguments; notes how much it was given at a time."""

    def __init__(self, dim: int = 0) -> None:
        self.dim, self.sizes = dim, list[int]()

    def __call__(self, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        self.sizes.append(one.shape[self.dim])
        return one * other, (one - other).exp()


def gradients(work: Callable[..., tuple[Tensor, ...]], given: list[Tensor]) -> list[Tensor]:
    leaves = [tensor.clone().requires_grad_() for tensor in given]
    total = sum((result * noise(*result.shape, seed=7)).sum() for result in work(*leaves))
    return list(torch.autograd.grad(total, leaves))


@pytest.mark.parametrize("dim", [0, 2])
@pytest.mark.parametrize(
    ("count", "numbers_each", "sizes"),
    [
        (3, 12, [1, 1, 1]),
        (3, 7, [1, 1, 1]),  # one and a half would fit
        (4, 6, [2, 2]),
        (5, 6, [2, 2, 1]),
        (3, 100, [1, 1, 1]),  # one is more than fits
        (3, 4, [3]),
        (2, 4, [2]),
        (0, 12, [0]),
    ],
)
def test_parts_are_the_whole(
    monkeypatch: pytest.MonkeyPatch, count: int, numbers_each: int, sizes: list[int], dim: int
) -> None:
    monkeypatch.setattr(parts, "CACHED_NUMBERS", 12)
    shape = [2, 3, 4]
    shape[dim] = count
    given, work = [noise(*shape), noise(*shape, seed=1)], Work(dim)
    got, expected = by_parts(work, given, numbers_each, dim), Work(dim)(*given)
    assert work.sizes == sizes
    assert len(got) == 2
    assert all(map(torch.equal, got, expected))
    got, expected = (
        gradients(made, given) for made in (lambda *leaves: by_parts(work, leaves, numbers_each, dim), work)
    )
    assert all(map(torch.equal, got, expected))


def test_recomputed_is_the_work_itself() -> None:
    given = [noise(2, 3), noise(2, 3, seed=1)]
    assert all(map(torch.equal, recomputed(Work(), *given), Work()(*given)))
    got, expected = gradients(lambda *leaves: recomputed(Work(), *leaves), given), gradients(Work(), given)
    assert all(map(torch.equal, got, expected))


def test_it_is_done_again_for_a_gradient_only() -> None:
    work, given = Work(), [noise(2, 3).requires_grad_(), noise(2, 3, seed=1)]
    with torch.no_grad():
        recomputed(work, *given)
    assert len(work.sizes) == 1
    results = recomputed(work, *given)
    assert len(work.sizes) == 2
    sum(result.sum() for result in results).backward()
    assert len(work.sizes) == 3


def kept_numbers(work: Callable[[Tensor], Tensor], given: Tensor) -> int:
    """How many numbers are kept until the gradient, each place in memory once."""
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        made = work(given)
    assert made.requires_grad
    return sum(tensor.untyped_storage().nbytes() // tensor.element_size() for tensor in kept.values())


def test_nothing_is_kept_but_what_it_is_given() -> None:
    def work(given: Tensor) -> Tensor:
        return given.repeat(1, 50).exp().sin().sum(dim=1)

    given = noise(4, 3).requires_grad_()
    assert kept_numbers(work, given) >= 4 * 3 * 50
    assert kept_numbers(lambda given: recomputed(work, given), given) <= given.numel()


@pytest.mark.parametrize("family", ["vit", "t2t_vit"])
def test_a_cascade_does_not_depend_on_the_size_of_parts(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny(family=family)
    cascade = build(config, torch.float64)
    results = []
    for cached_numbers in (parts.CACHED_NUMBERS, 1):
        monkeypatch.setattr(parts, "CACHED_NUMBERS", cached_numbers)
        cascade.zero_grad()
        logits = cascade(images(config, 3, torch.float64))
        (logits * noise(*logits.shape)).sum().backward()
        grads = [parameter.grad for parameter in cascade.parameters()]
        with torch.no_grad():
            results.append((logits, cascade(images(config, 3, torch.float64)), grads))
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=1e-10)
