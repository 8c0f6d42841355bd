"""From pixels to tokens: the published geometry, the rule for every other grid, and the performer."""

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from dvt.config import CascadeConfig, StageConfig
from dvt.models.tokenizers import (
    LATER_SOFT_SPLIT,
    PUBLISHED_SOFT_SPLITS,
    ConvTokenizer,
    PerformerAttention,
    SoftSplit,
    TokensToToken,
    first_soft_split,
    sinusoid_table,
)
from tests.unit.models.tiny import images, tiny

sizes = st.integers(1, 512)


def one_stage(family: str, image_size: int, token_grid: int, in_chans: int = 3) -> CascadeConfig:
    return tiny(family=family, image_size=image_size, in_chans=in_chans, stages=(StageConfig(token_grid=token_grid),))


# Strided convolution.


@pytest.mark.parametrize(
    ("grid", "kernel", "padding"), [(7, 32, (0, 0, 0, 0)), (10, 23, (3, 3, 3, 3)), (14, 16, (0, 0, 0, 0))]
)
def test_convolutions_of_the_paper(grid: int, kernel: int, padding: tuple[int, ...]) -> None:
    tokenizer = ConvTokenizer(one_stage("vit", 224, grid), grid)
    assert tokenizer.proj.kernel_size == tokenizer.proj.stride == (kernel, kernel)
    assert tokenizer.padding == padding


@settings(deadline=None)
@given(image_size=sizes, data=st.data())
def test_patches_tile_the_padded_image_exactly(image_size: int, data: st.DataObject) -> None:
    grid = data.draw(st.integers(1, image_size))
    with torch.device("meta"):
        tokenizer = ConvTokenizer(one_stage("vit", image_size, grid), grid)
    left, right, top, bottom = tokenizer.padding
    patch = tokenizer.proj.kernel_size[0]
    assert patch == math.ceil(image_size / grid)  # the next whole patch
    assert image_size + left + right == image_size + top + bottom == grid * patch
    assert (left, right) == (top, bottom)
    assert 0 <= right - left <= 1  # even; the odd pixel at the end


@pytest.mark.parametrize("in_chans", [1, 3])
@pytest.mark.parametrize(("image_size", "grid"), [(8, 4), (9, 4), (10, 4), (11, 4), (10, 10), (7, 1)])
def test_patches_are_what_a_loop_over_pixels_makes(image_size: int, grid: int, in_chans: int) -> None:
    config = one_stage("vit", image_size, grid, in_chans)
    tokenizer = ConvTokenizer(config, grid).double()
    batch = images(config, dtype=torch.float64)
    patch = math.ceil(image_size / grid)
    before = (patch * grid - image_size) // 2
    expected = torch.zeros(2, grid * grid, config.embed_dim, dtype=torch.float64)
    for row in range(grid):
        for column in range(grid):
            seen = torch.zeros(2, in_chans, patch, patch, dtype=torch.float64)
            for y in range(patch):
                for x in range(patch):
                    at = (row * patch + y - before, column * patch + x - before)
                    if all(0 <= place < image_size for place in at):
                        seen[:, :, y, x] = batch[:, :, at[0], at[1]]
            weight = tokenizer.proj.weight.flatten(1)
            expected[:, row * grid + column] = seen.flatten(1) @ weight.T + tokenizer.proj.bias
    torch.testing.assert_close(tokenizer(batch), expected, rtol=0, atol=1e-12)


# Soft splits.


@pytest.mark.parametrize(
    ("grid", "kernel", "stride", "padding", "side"), [(7, 14, 8, 3, 28), (10, 11, 6, 5, 38), (14, 7, 4, 2, 56)]
)
def test_soft_splits_of_the_paper(grid: int, kernel: int, stride: int, padding: int, side: int) -> None:
    split = first_soft_split(224, grid)
    assert split == SoftSplit(kernel=kernel, stride=stride, padding=padding)
    assert split.side(224) == side
    assert SoftSplit(kernel=3, stride=2, padding=1) == LATER_SOFT_SPLIT


def test_the_rule_gives_two_published_rows_and_nearly_the_third(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dvt.models.tokenizers.PUBLISHED_SOFT_SPLITS", {})
    assert first_soft_split(224, 10) == SoftSplit(*PUBLISHED_SOFT_SPLITS[224, 10])
    assert first_soft_split(224, 14) == SoftSplit(*PUBLISHED_SOFT_SPLITS[224, 14])
    assert first_soft_split(224, 7) == SoftSplit(kernel=15, stride=8, padding=4)
    assert first_soft_split(224, 7).side(224) == 28


@settings(deadline=None, max_examples=300)
@given(image_size=st.integers(4, 1024), data=st.data())
def test_three_soft_splits_leave_the_grid_that_was_asked_for(image_size: int, data: st.DataObject) -> None:
    grid = data.draw(st.integers(1, image_size // 4))
    split = first_soft_split(image_size, grid)
    side = split.side(image_size)
    assert math.ceil(math.ceil(side / 2) / 2) == grid
    assert LATER_SOFT_SPLIT.side(LATER_SOFT_SPLIT.side(side)) == grid
    assert split.stride == math.ceil(image_size / (4 * grid))
    assert max(3, 2 * split.stride - 2) <= split.kernel <= max(3, 2 * split.stride - 1)
    assert split.kernel >= split.stride  # no pixel between two patches is missed,
    assert (side - 1) * split.stride + split.kernel - split.padding >= image_size  # nor behind the last


def loop_unfold(grid: Tensor, split: SoftSplit) -> Tensor:
    padded = F.pad(grid, (split.padding,) * 4)
    side = split.side(grid.shape[-1])
    patches = [
        padded[
            :,
            :,
            row * split.stride : row * split.stride + split.kernel,
            column * split.stride : column * split.stride + split.kernel,
        ].flatten(1)
        for row in range(side)
        for column in range(side)
    ]
    return torch.stack(patches, dim=1)


@pytest.mark.parametrize("split", [SoftSplit(3, 2, 1), SoftSplit(5, 3, 2), SoftSplit(3, 1, 4)])
def test_a_soft_split_is_a_row_of_overlapping_patches(split: SoftSplit) -> None:
    grid = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(split.unfold(grid), loop_unfold(grid, split), rtol=0, atol=0)


@settings(deadline=None, max_examples=40)
@given(image_size=st.integers(4, 48), in_chans=st.sampled_from([1, 3]), data=st.data())
def test_tokens_to_token_gives_the_grid(image_size: int, in_chans: int, data: st.DataObject) -> None:
    grid = data.draw(st.integers(1, image_size // 4))
    assume(grid <= 8)
    config = one_stage("t2t_vit", image_size, grid, in_chans)
    tokens = TokensToToken(config, grid).eval()(images(config))
    assert tokens.shape == (2, grid * grid, config.embed_dim)
    assert bool(tokens.isfinite().all())


def test_tokens_to_token_is_its_steps_in_order() -> None:
    config = one_stage("t2t_vit", 30, 3)
    module = TokensToToken(config, 3).double().eval()
    batch = images(config, dtype=torch.float64)
    tokens = module.attention1(loop_unfold(batch, module.split1))
    side = module.split1.side(30)
    module.attention2.num_places = 1  # here channels come one by one, as the weights have them
    tokens = module.attention2(loop_unfold(tokens.transpose(1, 2).reshape(2, 64, side, side), SoftSplit(3, 2, 1)))
    side = math.ceil(side / 2)
    tokens = loop_unfold(tokens.transpose(1, 2).reshape(2, 64, side, side), SoftSplit(3, 2, 1))
    expected = module.project(tokens)
    module.attention2.num_places = 9
    torch.testing.assert_close(module(batch), expected, rtol=0, atol=1e-12)


# Performer.


def loop_performer(module: PerformerAttention, tokens: Tensor) -> Tensor:
    """One image's tokens, (N, C) to (N, 64): token by token and quadratic, without the trick."""
    normed = F.layer_norm(tokens, tokens.shape[1:], module.norm1.weight, module.norm1.bias)
    key, query, value = (normed @ module.kqv.weight.T + module.kqv.bias).split(64, dim=1)

    def features(vector: Tensor) -> Tensor:
        return torch.exp(module.w @ vector - vector @ vector / 2) / math.sqrt(32)

    rows = []
    for reader in query:
        similarities = [features(reader) @ features(other) for other in key]
        weighed = sum(
            (similarity * each for similarity, each in zip(similarities, value, strict=True)), torch.zeros(64)
        )
        rows.append(weighed / (sum(similarities) + 1e-8))
    mixed = value + torch.stack(rows) @ module.proj.weight.T + module.proj.bias
    hidden = F.layer_norm(mixed, (64,), module.norm2.weight, module.norm2.bias)
    return mixed + module.mlp[2](F.gelu(module.mlp[0](hidden)))


def test_the_performer_is_a_loop_over_pairs_of_tokens() -> None:
    torch.manual_seed(0)
    module = PerformerAttention(12).double().eval()
    tokens = torch.randn(2, 7, 12, dtype=torch.float64)
    expected = torch.stack([loop_performer(module, image) for image in tokens])
    torch.testing.assert_close(module(tokens), expected, rtol=0, atol=1e-12)


def test_the_performers_projection_is_orthogonal_and_stored() -> None:
    torch.manual_seed(0)
    module = PerformerAttention(12)
    assert "w" in module.state_dict()
    assert "w" not in dict(module.named_parameters())
    torch.testing.assert_close(module.w @ module.w.T, 32 * torch.eye(32), rtol=0, atol=1e-4)


def test_the_performer_attends_in_float32_under_autocast() -> None:
    torch.manual_seed(0)
    module = PerformerAttention(12).eval()
    tokens = torch.randn(1, 500, 12)
    with torch.autocast("cpu", torch.bfloat16):
        key, query, value = module.kqv(module.norm1(tokens)).chunk(3, dim=-1)
        attended = module._attend(key, query, value)
        assert module(tokens).isfinite().all()
    assert value.dtype == torch.bfloat16
    assert attended.dtype == torch.float32
    torch.testing.assert_close(attended, module._attend(key.float(), query.float(), value.float()), rtol=0, atol=0)


def test_the_performer_drops_out_in_training_only() -> None:
    torch.manual_seed(0)
    module = PerformerAttention(12)
    tokens = torch.randn(1, 5, 12)
    assert not torch.equal(module(tokens), module(tokens))
    module.eval()
    assert torch.equal(module(tokens), module(tokens))


# Position table.


def test_the_sinusoid_table_is_its_formula() -> None:
    table = sinusoid_table(5, 6)
    assert table.shape == (1, 5, 6)
    assert table.dtype == torch.float32
    for position in range(5):
        for channel in range(6):
            angle = position / 10_000 ** (2 * (channel // 2) / 6)
            expected = math.cos(angle) if channel % 2 else math.sin(angle)
            assert table[0, position, channel].item() == pytest.approx(expected, abs=1e-7)
