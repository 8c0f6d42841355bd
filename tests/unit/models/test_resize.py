"""Resizing token grids: worked by hand, and against the published up-sampling and pooling."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from dvt.models import GridResize, axis_matrix

HALF, THIRD = Fraction(1, 2), Fraction(1, 3)

# Each row: the sources that a target averages, with their weights. 7 -> 14 -> 10 and 10 -> 20 -> 14.
BY_HAND: dict[tuple[int, int], list[dict[int, Fraction | int]]] = {
    (7, 10): [
        {0: 1},
        {0: HALF, 1: HALF},
        {1: 2 * THIRD, 2: THIRD},
        {2: 1},
        {2: HALF, 3: HALF},
        {3: HALF, 4: HALF},
        {4: 1},
        {4: THIRD, 5: 2 * THIRD},
        {5: HALF, 6: HALF},
        {6: 1},
    ],
    (10, 14): [
        {0: 1},
        {0: HALF, 1: HALF},
        {1: 2 * THIRD, 2: THIRD},
        {2: 1},
        {2: THIRD, 3: 2 * THIRD},
        {3: HALF, 4: HALF},
        {4: 1},
        {5: 1},
        {5: HALF, 6: HALF},
        {6: 2 * THIRD, 7: THIRD},
        {7: 1},
        {7: THIRD, 8: 2 * THIRD},
        {8: HALF, 9: HALF},
        {9: 1},
    ],
    (2, 4): [{0: 1}, {0: 1}, {1: 1}, {1: 1}],
    (1, 3): [{0: 1}, {0: 1}, {0: 1}],
    (3, 3): [{0: 1}, {1: 1}, {2: 1}],
}

PUBLISHED = [(7, 14, 10), (10, 20, 14)]

grids = st.integers(1, 9).flatmap(lambda source: st.tuples(st.just(source), st.integers(source, 16)))


@pytest.mark.parametrize("grids", BY_HAND)
def test_axis_matrices_worked_by_hand(grids: tuple[int, int]) -> None:
    source, target = grids
    expected = torch.zeros(target, source, dtype=torch.float64)
    for row, weights in enumerate(BY_HAND[grids]):
        for place, weight in weights.items():
            expected[row, place] = float(weight)
    torch.testing.assert_close(axis_matrix(source, target), expected, rtol=0, atol=1e-15)


@given(grids=grids)
def test_axis_matrices_are_averages(grids: tuple[int, int]) -> None:
    matrix = axis_matrix(*grids)
    assert matrix.shape == (grids[1], grids[0])
    assert matrix.dtype == torch.float64
    assert bool((matrix >= 0).all())
    torch.testing.assert_close(matrix.sum(dim=1), torch.ones(grids[1], dtype=torch.float64), rtol=0, atol=1e-12)


def exact_resize(source: int, target: int, num_prefix: int = 1) -> GridResize:
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        return GridResize(source, target, num_prefix)
    finally:
        torch.set_default_dtype(default)


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def resize_patches(patches: Tensor, between: int, target: int) -> Tensor:
    """What the published code does: (B, n*n, C) by nearest up-sampling and adaptive average pooling."""
    side = math.isqrt(patches.shape[1])
    grid = patches.transpose(1, 2).unflatten(2, (side, side))
    pooled = F.adaptive_avg_pool2d(F.interpolate(grid, size=(between, between), mode="nearest"), (target, target))
    return pooled.flatten(2).transpose(1, 2)


@pytest.mark.parametrize(("source", "between", "target"), PUBLISHED)
def test_features_are_resized_as_published(source: int, between: int, target: int) -> None:
    tokens = noise(3, 1 + source * source, 5)
    resized = exact_resize(source, target).features(tokens)
    assert torch.count_nonzero(resized[:, 0]) == 0  # the class token is no part of the grid
    torch.testing.assert_close(resized[:, 1:], resize_patches(tokens[:, 1:], between, target), rtol=0, atol=1e-12)


def resize_maps(maps: Tensor, between: int, target: int) -> Tensor:
    """What the published code does: resize the keys of every query, then the queries of every key.

    The class token's row and column are put aside before each resizing and put back after it.
    """
    batch, channels, tokens, _ = maps.shape
    keys = maps.reshape(batch * channels * tokens, tokens, 1)
    keys = torch.cat((keys[:, :1], resize_patches(keys[:, 1:], between, target)), dim=1)
    queries = keys.reshape(batch * channels, tokens, -1)
    resized = torch.cat((queries[:, :1], resize_patches(queries[:, 1:], between, target)), dim=1)
    return resized.unflatten(0, (batch, channels))


@pytest.mark.parametrize(("source", "between", "target"), PUBLISHED)
def test_relations_are_resized_as_published(source: int, between: int, target: int) -> None:
    maps = noise(2, 3, 1 + source**2, 1 + source**2)
    resized = exact_resize(source, target).relations(maps)
    torch.testing.assert_close(resized, resize_maps(maps, between, target), rtol=0, atol=1e-12)
    # The class token to itself is carried over; to the patches it is resized on the patches' side alone.
    torch.testing.assert_close(resized[..., 0, 0], maps[..., 0, 0], rtol=0, atol=0)
    row = resize_patches(maps[:, :, 0, 1:].transpose(1, 2), between, target).transpose(1, 2)
    torch.testing.assert_close(resized[:, :, 0, 1:], row, rtol=0, atol=1e-12)
    column = resize_patches(maps[:, :, 1:, 0].transpose(1, 2), between, target).transpose(1, 2)
    torch.testing.assert_close(resized[:, :, 1:, 0], column, rtol=0, atol=1e-12)


@pytest.mark.parametrize("num_prefix", [2, 5])
def test_registers_are_carried_over_as_the_class_token_is(num_prefix: int) -> None:
    source, target = 2, 3
    maps = noise(2, 3, num_prefix + source**2, num_prefix + source**2)
    resize = exact_resize(source, target, num_prefix)
    resized = resize.relations(maps)
    assert resized.shape == (2, 3, num_prefix + target**2, num_prefix + target**2)
    torch.testing.assert_close(
        resized[..., :num_prefix, :num_prefix], maps[..., :num_prefix, :num_prefix], rtol=0, atol=0
    )
    alone = exact_resize(source, target)
    for token in range(num_prefix):  # with the patches, each is what the only one of another map would be
        places = [token, *range(num_prefix, num_prefix + source**2)]
        after = [token, *range(num_prefix, num_prefix + target**2)]
        expected = alone.relations(maps[..., places, :][..., places])
        torch.testing.assert_close(resized[..., after, :][..., after], expected, rtol=0, atol=1e-12)
    tokens = noise(3, num_prefix + source**2, 5)
    features = resize.features(tokens)
    assert torch.count_nonzero(features[:, :num_prefix]) == 0
    assert torch.equal(features[:, num_prefix:], alone.features(tokens[:, num_prefix - 1 :])[:, 1:])


def loop_resize(patches: list[list[float]], target: int) -> list[list[float]]:
    """The same rule for one channel of any grid, spelt out: repeat each token, then average overlapping windows."""
    source = len(patches)
    factor = math.ceil(target / source)
    length = source * factor
    fine = [[patches[y // factor][x // factor] for x in range(length)] for y in range(length)]
    windows = [(index * length // target, math.ceil((index + 1) * length / target)) for index in range(target)]
    return [
        [
            sum(fine[y][x] for y in range(*rows) for x in range(*columns))
            / ((rows[1] - rows[0]) * (columns[1] - columns[0]))
            for columns in windows
        ]
        for rows in windows
    ]


@settings(deadline=None, max_examples=40)
@given(grids=grids)
@example(grids=(7, 10))
@example(grids=(10, 14))
def test_any_grid_is_resized_by_the_same_rule(grids: tuple[int, int]) -> None:
    source, target = grids
    patches = noise(source, source)
    expected = torch.tensor(loop_resize(patches.tolist(), target), dtype=torch.float64)
    resized = (
        exact_resize(source, target)
        .features(F.pad(patches.reshape(1, -1, 1), (0, 0, 1, 0)))[:, 1:]
        .reshape(target, target)
    )
    torch.testing.assert_close(resized, expected, rtol=0, atol=1e-12)


@settings(deadline=None, max_examples=20)
@given(grids=st.tuples(st.integers(1, 4), st.integers(0, 4)).map(lambda pair: (pair[0], sum(pair))))
def test_any_relations_are_resized_on_both_sides(grids: tuple[int, int]) -> None:
    source, target = grids
    maps = noise(1, 2, 1 + source**2, 1 + source**2)
    expected = resize_maps(maps, source * math.ceil(target / source), target)
    torch.testing.assert_close(exact_resize(source, target).relations(maps), expected, rtol=0, atol=1e-12)


def test_matrices_follow_from_the_grids_and_are_not_stored() -> None:
    resize = GridResize(2, 3)
    assert resize.state_dict() == {}
    assert resize.features(torch.zeros(1, 5, 7)).shape == (1, 10, 7)
    assert {buffer.dtype for buffer in resize.buffers()} == {torch.int64, torch.float32}


def test_matrices_are_there_for_a_model_without_memory() -> None:
    with torch.device("meta"):
        resize = GridResize(2, 3)
    assert {buffer.device.type for buffer in resize.buffers()} == {"meta"}
