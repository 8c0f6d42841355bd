"""What a stage makes of the one before it: against loops, and which blocks give and take."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dvt.config import CascadeConfig
from dvt.models import GridResize, StageOutput
from dvt.models.blocks import Attention
from dvt.models.reuse import FeatureReuse, RelationReuse
from tests.unit.models.tiny import build, images, stages, tiny


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fill(module: nn.Module) -> None:
    """Weights that leave no path at zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.5 + torch.randn(parameter.shape, generator=generator))


def test_feature_reuse_is_its_equation() -> None:
    torch.manual_seed(0)
    reuse, resize = FeatureReuse(2, tiny()).double(), GridResize(2, 4).double()  # 2 -> 4 repeats each token
    fill(reuse)
    features = noise(3, 5, 16)
    contexts = reuse(features, resize)
    assert contexts.shape == (2, 3, 17, 6)
    assert torch.count_nonzero(contexts[:, :, 0]) == 0  # the class token's
    for context, block in zip(contexts, reuse, strict=True):
        made = block["mlp"](block["norm"](features))  # with the class token, as the equation has it
        for row in range(4):
            for column in range(4):
                source = 1 + 2 * (row // 2) + column // 2
                torch.testing.assert_close(context[:, 1 + 4 * row + column], made[:, source], rtol=0, atol=1e-12)


def test_registers_have_no_context_and_make_none() -> None:
    torch.manual_seed(0)
    reuse, resize = FeatureReuse(1, tiny(num_registers=2)).double(), GridResize(2, 4, num_prefix=3).double()
    fill(reuse)
    features = noise(3, 7, 16)
    context = reuse(features, resize)[0]
    assert context.shape == (3, 19, 6)
    assert torch.count_nonzero(context[:, :3]) == 0
    without = reuse(features[:, 2:], GridResize(2, 4).double())[0]
    torch.testing.assert_close(context[:, 3:], without[:, 1:], rtol=0, atol=1e-12)


def test_relation_reuse_is_a_loop_over_pairs_of_tokens() -> None:
    torch.manual_seed(0)
    config = tiny(relation_reuse_ratio=1.5)
    reuse, resize = RelationReuse(6, 4, config).double(), GridResize(1, 2).double()
    assert reuse.fc1.out_channels == 6  # 1.5 times the 4 maps it gives
    relations = noise(2, 6, 2, 2)  # of three blocks with two heads
    weight1, weight2 = reuse.fc1.weight.flatten(1), reuse.fc2.weight.flatten(1)
    mixed = torch.zeros(2, 4, 2, 2, dtype=torch.float64)
    for query in range(2):
        for key in range(2):
            hidden = F.gelu(relations[:, :, query, key] @ weight1.T + reuse.fc1.bias)
            mixed[:, :, query, key] = hidden @ weight2.T + reuse.fc2.bias
    source = [0, 1, 1, 1, 1]  # the class token, and four repetitions of the one patch
    expected = mixed[:, :, source][:, :, :, source]
    given = reuse(relations.split(2, dim=1))
    assert [part.shape for part in given] == [(2, 2, 2, 2)] * 2  # H maps for each of two blocks
    resized = torch.cat([resize.relations(part) for part in given], dim=1)
    torch.testing.assert_close(resized, expected, rtol=0, atol=1e-12)


def cascade_of(feature: Any, relation: Any, upstream: Any, **changes: Any) -> CascadeConfig:
    depths = {
        "feature_reuse_depth": feature,
        "relation_reuse_depth": relation,
        "relation_upstream_depth": upstream,
    }
    return tiny(stages=stages(2, 3, **depths), **changes)


DEPTHS = [  # asked for, and resolved: feature, relation, upstream
    ((0, 0, 0), (0, 0, 0)),
    (("all", "all", "all"), (3, 3, 3)),
    ((1, 2, 1), (1, 2, 1)),
    ((2, 1, 3), (2, 1, 3)),
    ((0, "all", 2), (0, 3, 2)),
    (("all", 0, "all"), (3, 0, 0)),
    (("all", "all", 0), (3, 0, 0)),
]


@pytest.mark.parametrize(("asked", "depths"), DEPTHS)
def test_depths_decide_which_blocks_give_and_take(
    asked: tuple[Any, Any, Any], depths: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = cascade_of(*asked)
    cascade, batch = build(config), images(config)
    feature, relation, upstream = depths
    taken: list[Tensor | None] = []
    given: list[Tensor | None] = []
    attend = Attention.forward

    def watched(module: Attention, tokens: Tensor, reused: Tensor | None, *others: Any) -> Any:
        attended, logits = attend(module, tokens, reused, *others)
        taken.append(reused)
        given.append(logits)
        return attended, logits

    monkeypatch.setattr(Attention, "forward", watched)
    with torch.no_grad():
        output = cascade.stage(0, batch)
        cascade.stage(1, batch, output)

    coarse, fine = cascade.stages
    assert len(fine.feature_reuse) == feature
    assert [block.mlp.fc1.in_features for block in coarse.blocks] == [16] * 3
    assert [block.mlp.fc1.in_features for block in fine.blocks] == [22] * feature + [16] * (3 - feature)  # the first

    assert [maps is not None for maps in taken[:3]] == [False] * 3
    assert [maps is not None for maps in taken[3:]] == [True] * relation + [False] * (3 - relation)  # the first
    assert all(maps is None or maps.shape == (2, 2, 5, 5) for maps in taken)  # each block resizes its own

    assert [maps is not None for maps in given] == [False] * (3 - upstream) + [True] * upstream + [
        False
    ] * 3  # the last
    handed_on = [maps for maps in given if maps is not None]
    assert len(output.relations) == upstream
    if upstream == 0:
        assert fine.relation_reuse is None
    else:
        assert {maps.shape for maps in output.relations} == {(2, 2, 5, 5)}
        assert all(map(torch.equal, output.relations, handed_on))  # earlier blocks first
        assert fine.relation_reuse.fc1.in_channels == 2 * upstream
        assert fine.relation_reuse.fc1.out_channels == 3 * 2 * relation
        assert fine.relation_reuse.fc2.out_channels == 2 * relation
    assert hasattr(fine, "resize") == (feature + relation > 0)


def test_a_stage_reuses_what_the_one_before_it_reused() -> None:
    # The third stage's relations come from the second's, which hold the first's.
    config = tiny(stages=stages(2, 3, 4, feature_reuse_depth=0))
    cascade, batch = build(config), images(config)
    first = cascade.stage(0, batch)
    moved = StageOutput(first.logits, first.features, tuple(maps + 1 for maps in first.relations))
    kept, changed = (cascade.stage(1, batch, upstream) for upstream in (first, moved))
    assert not any(map(torch.allclose, kept.relations, changed.relations))


@pytest.mark.parametrize("family", ["vit", "t2t_vit"])
@pytest.mark.parametrize(("feature", "relation"), [("all", 0), (0, "all"), (2, 1)])
def test_gradients_of_both_reuses(family: str, feature: Any, relation: Any) -> None:
    config = cascade_of(
        feature, relation, "all", family=family, image_size=12, embed_dim=4, depth=2, num_heads=2, num_classes=2
    )
    cascade, batch = build(config, torch.float64), images(config, 1, torch.float64)
    with torch.no_grad():
        upstream = cascade.stage(0, batch)
    assert bool(upstream.relations) == (relation != 0)

    def second_exit(features: Tensor, *relations: Tensor) -> Tensor:
        return cascade.stage(1, batch, StageOutput(upstream.logits, features, relations)).logits

    handed_on = [part.detach().requires_grad_() for part in (upstream.features, *upstream.relations)]
    assert torch.autograd.gradcheck(second_exit, handed_on)
    grads = torch.autograd.grad(second_exit(*handed_on).sum(), handed_on, allow_unused=True, materialize_grads=True)
    assert [bool(grad.any()) for grad in grads] == [feature != 0] + [True] * (2 if relation else 0)


def test_gradients_of_the_reuse_weights() -> None:
    config = cascade_of(1, 1, 1, image_size=8, embed_dim=4, depth=1, num_heads=2, num_classes=2)
    cascade, batch = build(config, torch.float64), images(config, 1, torch.float64)
    fine = cascade.stages[1]
    names = [name for name, _ in fine.named_parameters() if "reuse" in name]
    assert len(names) == 6 + 4  # norm and two layers; two convolutions
    with torch.no_grad():
        upstream = cascade.stage(0, batch)

    def second_exit(*values: Tensor) -> Tensor:
        weights = dict(zip(names, values, strict=True))
        output: StageOutput = torch.func.functional_call(fine, weights, (batch, upstream))
        return output.logits

    weights = [fine.get_parameter(name).detach().requires_grad_() for name in names]
    assert torch.autograd.gradcheck(second_exit, weights)
