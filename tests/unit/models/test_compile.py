"""Compiled stages: one graph each, for batches of any size, that gives the numbers and gradients of the code itself."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from dvt.models import Cascade
from tests.unit.models.tiny import build, images, stages, tiny

PARTIAL = {"feature_reuse_depth": 1, "relation_reuse_depth": 2, "relation_upstream_depth": 1}
OPTIONS: dict[str, Any] = {"num_registers": 2, "global_pool": "avg", "layer_scale": 0.5, "qk_norm": True}
CONFIGS = {
    "vit": tiny(depth=2, stages=stages(2, 3)),
    "t2t_vit": tiny(depth=2, stages=stages(2, 3), family="t2t_vit"),
    "partial": tiny(depth=2, stages=stages(2, 3, **PARTIAL)),
    "options": tiny(depth=2, stages=stages(2, 3), class_pos_embed=False, **OPTIONS),
}
# A first batch of as many images as there are channels, or patches in a stage, makes a graph for this number alone.
BATCHES = (6, 7, 11)


@pytest.fixture(autouse=True)
def _forget_graphs() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def pair(name: str, backend: str) -> tuple[Cascade, Cascade, CompileCounterWithBackend]:
    """A compiled cascade, the same one not compiled, and what counts the graphs."""
    counter = CompileCounterWithBackend(backend)
    compiled, plain = (build(CONFIGS[name], torch.float64) for _ in range(2))
    plain.load_state_dict(compiled.state_dict())  # projections of the tokenizer are random
    compiled.compile_stages(backend=counter)
    return compiled, plain, counter


def gradients(cascade: Cascade, logits: Tensor) -> tuple[Tensor, ...]:
    direction = torch.randn(logits.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return torch.autograd.grad((logits * direction).sum(), list(cascade.parameters()))


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_training_makes_no_graph_after_the_first_batch(name: str) -> None:
    compiled, plain, counter = pair(name, "aot_eager")
    counts = set()  # torch 2.15 may begin a graph anew, so there can be more than one a stage
    for count in BATCHES:
        results = []
        for cascade in (compiled.train(), plain.train()):
            torch.manual_seed(count)  # for the tokenizer's dropout
            logits = cascade(images(CONFIGS[name], count, torch.float64))
            results.append((logits, gradients(cascade, logits)))
        torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-10)
        counts.add(counter.frame_count)
    assert len(counts) == 1


@pytest.mark.parametrize("name", ["vit", "t2t_vit"])
def test_evaluation_takes_one_graph_a_stage(name: str) -> None:
    compiled, plain, counter = pair(name, "eager")
    with torch.no_grad():
        for count in BATCHES:
            batch = images(CONFIGS[name], count, torch.float64)
            torch.testing.assert_close(compiled(batch), plain(batch), rtol=0, atol=1e-10)
            assert counter.frame_count == 2
        upstream = compiled.stage(0, batch).select(torch.tensor([0, 2, 3, 5, 7]))
        early = compiled.stage(1, batch[[0, 2, 3, 5, 7]], upstream).logits
        torch.testing.assert_close(early, plain(batch)[1, [0, 2, 3, 5, 7]], rtol=0, atol=1e-10)
        assert counter.frame_count == 2


@torch._dynamo.config.patch(recompile_limit=1)
def test_stages_do_not_use_up_each_others_graphs() -> None:
    config = replace(CONFIGS["vit"], depth=1, stages=stages(2, 3, feature_reuse_depth=0, relation_reuse_depth=0))
    cascade = build(config)
    cascade.compile_stages(backend="eager")
    with torch.no_grad():
        assert cascade(images(config, 4)).shape == (2, 4, 5)


def test_names_stay() -> None:
    compiled, plain, _ = pair("vit", "eager")
    assert list(compiled.state_dict()) == list(plain.state_dict())
    assert [name for name, _ in compiled.named_modules()] == [name for name, _ in plain.named_modules()]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile's default backend needs a C++ compiler")
def test_generated_code_gives_the_same() -> None:
    config = CONFIGS["vit"]
    compiled, exact = build(config), build(config, torch.float64)
    exact.load_state_dict(compiled.state_dict())
    compiled.compile_stages()
    batch = images(config, 6)
    logits, expected = compiled(batch), exact(batch.double())
    torch.testing.assert_close(logits.double(), expected, rtol=0, atol=1e-4)
    got = gradients(compiled, logits.double())
    for one, other in zip(got, gradients(exact, expected), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-4 * max(1.0, other.abs().max().item()))
