"""The cascade gives the numbers of a plain implementation of the published algorithm, and its gradients."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor

from dvt.config import CascadeConfig
from dvt.models import VARIANTS, Cascade
from tests.naive_dvt import naive_logits
from tests.parity.named_weights import noise, published_cascade, weight
from tests.unit.models import tiny

# What a stage reuses of the one before: features and relationships, each or not.
REUSES = {f"features {f}, relations {r}": (f, r) for f, r in product(("all", 0), repeat=2)}


def small(config: CascadeConfig) -> Cascade:
    cascade = tiny.build(config, torch.float64)
    cascade.load_state_dict({name: weight(name, tuple(own.shape)) for name, own in cascade.state_dict().items()})
    return cascade


def reuse(config: CascadeConfig, depths: tuple[int | str, int | str]) -> CascadeConfig:
    features, relations = depths
    stages = tiny.stages(*config.token_grids, feature_reuse_depth=features, relation_reuse_depth=relations)
    return replace(config, stages=stages)


def naive(cascade: Cascade, images: Tensor) -> Tensor:
    return naive_logits(dict(cascade.state_dict()), cascade.config, images)


@pytest.mark.parametrize("in_chans", [1, 3])
@pytest.mark.parametrize("grids", [(3, 4), (2, 3, 5)])
@pytest.mark.parametrize("family", ["vit", "t2t_vit"])
@pytest.mark.parametrize("depths", REUSES.values(), ids=REUSES)
def test_logits_of_small_cascades(
    depths: tuple[int | str, int | str], family: str, grids: tuple[int, ...], in_chans: int
) -> None:
    config = reuse(tiny.tiny(family=family, stages=tiny.stages(*grids), in_chans=in_chans), depths)
    cascade, images = small(config), tiny.images(config, dtype=torch.float64)
    with torch.no_grad():
        logits, expected = cascade(images), naive(cascade, images)
    assert expected.std() > 0.1  # the numbers say something
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("family", ["vit", "t2t_vit"])
def test_gradients_of_small_cascades(family: str) -> None:
    config = tiny.tiny(family=family)
    cascade, images = small(config), tiny.images(config, dtype=torch.float64)
    images.requires_grad_()
    weights = dict(cascade.state_dict(keep_vars=True))
    inputs = [images, *cascade.parameters()]
    direction = noise("direction", (3, 2, 5)).double()
    got, expected = (
        torch.autograd.grad((logits * direction).sum(), inputs, allow_unused=True, materialize_grads=True)
        for logits in (cascade(images), naive_logits(weights, config, images))
    )
    for name, one, other in zip(("images", *dict(cascade.named_parameters())), got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}")
    assert sum(gradient.abs().max() > 1e-3 for gradient in expected) > 0.9 * len(expected)


PUBLISHED = {
    "dvt_t2t_vit_14, 1000 classes": VARIANTS["dvt_t2t_vit_14"],
    "dvt_t2t_vit_14, 10 classes": replace(VARIANTS["dvt_t2t_vit_14"], num_classes=10),
    **{
        f"dvt_t2t_vit_12, 10 classes, {name}": reuse(replace(VARIANTS["dvt_t2t_vit_12"], num_classes=10), depths)
        for name, depths in REUSES.items()
    },
}


@pytest.mark.parametrize("config", PUBLISHED.values(), ids=PUBLISHED)
def test_logits_of_published_cascades(config: CascadeConfig) -> None:
    cascade, images = published_cascade(config), noise("images", (1, 3, 224, 224))
    with torch.no_grad():
        logits, expected = cascade(images), naive(cascade, images)
    assert logits.shape == (3, 1, config.num_classes)
    assert [cascade.config.reuse(index) for index in range(3)] == [config.reuse(index) for index in range(3)]
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)
