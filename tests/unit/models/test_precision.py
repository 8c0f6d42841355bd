"""Cascades in less than float64: how far logits may be off, and which way gradients point."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dvt.config import CascadeConfig
from dvt.models import Cascade
from tests.parity.named_weights import weight
from tests.unit.models.tiny import build, images, tiny

# Type of weights and images, what to compute under, and the largest error in deviations of the float64 logits: about
# three times what torch 2.15 has on a CPU (t2t_vit, which is the worse: 7e-6, 0.043 and 0.078).
PATHS: dict[str, tuple[torch.dtype, Callable[[], AbstractContextManager[object]], float]] = {
    "float32": (torch.float32, nullcontext, 1e-4),
    "autocast": (torch.float32, partial(torch.autocast, "cpu", torch.bfloat16), 0.13),
    "bfloat16": (torch.bfloat16, nullcontext, 0.24),
}


def trained_like(config: CascadeConfig, dtype: torch.dtype) -> Cascade:
    """Weights of a trained cascade's size; in float64 the resizing matrices are, too."""
    cascade = build(config, torch.float64)
    cascade.load_state_dict({name: weight(name, tuple(own.shape)) for name, own in cascade.state_dict().items()})
    return cascade.to(dtype)


def gradient(cascade: Cascade, logits: Tensor) -> Tensor:
    """The gradient of a fixed projection of the logits by all parameters, side by side."""
    direction = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    gradients = torch.autograd.grad((logits.double() * direction).sum(), list(cascade.parameters()))
    return torch.cat([gradient.double().flatten() for gradient in gradients])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("family", ["vit", "t2t_vit"])
def test_logits_and_gradients_are_near_those_of_float64(family: str, path: str) -> None:
    dtype, context, bound = PATHS[path]
    config = tiny(family=family)
    exact, cascade = trained_like(config, torch.float64), trained_like(config, dtype)
    batch = images(config, 8, torch.float64)
    expected = exact(batch)
    with context():
        logits = cascade(batch.to(dtype))  # the path of training, with gradients
        with torch.no_grad():
            evaluated = cascade(batch.to(dtype))
    spread = expected.detach().std()
    assert spread > 0.1
    for got in (logits, evaluated):
        torch.testing.assert_close(got.double(), expected, rtol=0, atol=bound * spread.item())
    got, wanted = gradient(cascade, logits), gradient(exact, expected)
    assert got.isfinite().all()
    assert F.cosine_similarity(got, wanted, dim=0) > 0.98
