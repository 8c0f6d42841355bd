"""Attention that hands on its logits equals attention that does not; the MLP reads the context beside the tokens."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dvt.models.blocks import Attention, Block
from tests.unit.models.tiny import tiny


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def attention(qkv_bias: bool = True) -> Attention:
    torch.manual_seed(0)
    return Attention(tiny(qkv_bias=qkv_bias)).double()


def loop_attention(module: Attention, tokens: Tensor, reused: Tensor | None) -> tuple[Tensor, Tensor]:
    """One image's tokens, (N, D), head by head and token by token."""
    count, dim = tokens.shape
    width = dim // module.num_heads
    projected = tokens @ module.qkv.weight.T
    if module.qkv.bias is not None:
        projected = projected + module.qkv.bias
    query, key, value = projected.split(dim, dim=1)
    logits = torch.zeros(module.num_heads, count, count, dtype=tokens.dtype)
    attended = torch.zeros(count, dim, dtype=tokens.dtype)
    for head in range(module.num_heads):
        part = slice(head * width, (head + 1) * width)
        for reader in range(count):
            for other in range(count):
                logits[head, reader, other] = query[reader, part] @ key[other, part] / math.sqrt(width)
                if reused is not None:
                    logits[head, reader, other] += reused[head, reader, other]
            attended[reader, part] = logits[head, reader].softmax(dim=0) @ value[:, part]
    return attended @ module.proj.weight.T + module.proj.bias, logits


@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize("reuses", [True, False])
def test_attention_is_a_loop_over_heads_and_tokens(reuses: bool, qkv_bias: bool) -> None:
    module, tokens = attention(qkv_bias), noise(2, 5, 16)
    reused = noise(2, 2, 5, 5, seed=1) if reuses else None
    with torch.no_grad():
        got, logits = module(tokens, reused, hands_on=True)
        for image in range(2):
            expected = loop_attention(module, tokens[image], None if reused is None else reused[image])
            torch.testing.assert_close(got[image], expected[0], rtol=0, atol=1e-12)
            torch.testing.assert_close(logits[image], expected[1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("hands_on", [True, False])
def test_normalised_queries_and_keys_under_autocast(hands_on: bool) -> None:
    torch.manual_seed(0)
    module, tokens = Attention(tiny(qk_norm=True)), noise(2, 5, 16).float()
    reused = noise(2, 2, 5, 5, seed=1).float()
    with torch.no_grad():
        exact, _ = module(tokens, reused, hands_on)
        with torch.autocast("cpu", torch.bfloat16):
            coarse, _ = module(tokens, reused, hands_on)
    assert coarse.dtype == torch.bfloat16
    torch.testing.assert_close(coarse.float(), exact, rtol=0, atol=0.02)


@pytest.mark.parametrize("reuses", [True, False])
def test_handing_on_changes_nothing(reuses: bool) -> None:
    module, tokens = attention(), noise(2, 5, 16)
    reused = noise(2, 2, 5, 5, seed=1) if reuses else None
    kept, logits = module(tokens, reused, hands_on=True)
    fused, none = module(tokens, reused, hands_on=False)
    assert logits is not None
    assert none is None
    torch.testing.assert_close(fused, kept, rtol=0, atol=1e-12)


def test_a_fused_path_passes_gradients_to_what_it_reused() -> None:
    module, tokens = attention(), noise(1, 4, 16)
    grads = []
    for hands_on in (True, False):
        reused = noise(1, 2, 4, 4, seed=1).requires_grad_()
        module(tokens, reused, hands_on)[0].square().sum().backward()
        assert reused.grad is not None
        grads.append(reused.grad)
    torch.testing.assert_close(grads[0], grads[1], rtol=0, atol=1e-12)


def test_a_block_is_its_equations() -> None:
    torch.manual_seed(0)
    config = tiny(norm_eps=1e-3)
    block = Block(config, context_dim=6, drop_path=0.0).double()
    tokens, context = noise(2, 5, 16), noise(2, 5, 6, seed=1)
    norm1 = F.layer_norm(tokens, (16,), block.norm1.weight, block.norm1.bias, 1e-3)
    middle = tokens + block.attn(norm1, None, False)[0]
    wide = torch.cat((middle, context), dim=-1)
    hidden = F.gelu(block.mlp.fc1(F.layer_norm(wide, (22,), block.norm2.weight, block.norm2.bias, 1e-3)))
    expected = middle + block.mlp.fc2(hidden)  # the residual is around the tokens alone
    got, logits = block(tokens, context)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    assert logits is None


def test_widths_follow_from_ratio_and_context() -> None:
    block = Block(tiny(mlp_ratio=2.5), context_dim=6, drop_path=0.0)
    assert (block.mlp.fc1.in_features, block.mlp.fc1.out_features, block.mlp.fc2.out_features) == (22, 40, 16)
    assert block.norm2.normalized_shape == (22,)


def test_blocks_are_skipped_in_training_only() -> None:
    torch.manual_seed(0)
    block = Block(tiny(), context_dim=0, drop_path=0.9).double()
    tokens = noise(64, 5, 16)
    unchanged = (block(tokens)[0] == tokens).flatten(1).all(dim=1)
    assert 0.5 < unchanged.double().mean().item() < 1  # both branches skipped: 0.81 of the images
    block.eval()
    assert not (block(tokens)[0] == tokens).flatten(1).all(dim=1).any()
