"""The cascade: all stages at once and one by one give the same numbers, and what weight decay leaves alone."""

from typing import Any

import pytest
import torch

from dvt.config import CascadeConfig
from dvt.models import Cascade, StageOutput
from tests.unit.models.tiny import build, images, stages, tiny

CONFIGS: dict[str, CascadeConfig] = {
    "one stage": tiny(stages=stages(4)),
    "three stages": tiny(),
    "t2t": tiny(family="t2t_vit", qkv_bias=False, in_chans=1),
    "partial reuse": tiny(
        stages=stages(2, 3, 5, feature_reuse_depth=1, relation_reuse_depth=2, relation_upstream_depth=1)
    ),
    "no reuse": tiny(stages=stages(2, 3, 5, feature_reuse_depth=0, relation_reuse_depth=0)),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_stages_one_by_one_give_forwards_numbers_bit_for_bit(config: CascadeConfig) -> None:
    cascade, batch = build(config), images(config)
    with torch.no_grad():
        logits = cascade(batch)
        upstream: StageOutput | None = None
        for index in range(config.num_exits):
            upstream = cascade.stage(index, batch, upstream)
            assert torch.equal(upstream.logits, logits[index])
    assert logits.shape == (config.num_exits, 2, 5)


def test_images_do_not_see_each_other() -> None:
    config = tiny()
    cascade, batch = build(config, torch.float64), images(config, 3, torch.float64)
    with torch.no_grad():
        alone = torch.cat([cascade(batch[index : index + 1]) for index in range(3)], dim=1)
        torch.testing.assert_close(cascade(batch), alone, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "index", [torch.tensor([2, 0]), torch.tensor([True, False, True]), torch.tensor([], dtype=int)]
)
def test_some_images_go_on(index: torch.Tensor) -> None:
    config = tiny(stages=stages(2, 3))
    cascade, batch = build(config, torch.float64), images(config, 3, torch.float64)
    with torch.no_grad():
        everything = cascade.stage(0, batch)
        selected = everything.select(index)
        assert torch.equal(selected.logits, everything.logits[index])
        assert torch.equal(selected.features, everything.features[index])
        assert len(selected.relations) == len(everything.relations) == 3
        for kept, maps in zip(selected.relations, everything.relations, strict=True):
            assert torch.equal(kept, maps[index])
        if selected.logits.numel():
            went_on = cascade.stage(1, batch[index], selected).logits
            torch.testing.assert_close(went_on, cascade(batch)[1, index], rtol=0, atol=1e-10)


def test_selecting_where_nothing_is_handed_on() -> None:
    output = StageOutput(torch.zeros(2, 5), torch.zeros(2, 4, 16), ())
    assert output.select(torch.tensor([1])).relations == ()


def test_a_stage_that_reuses_needs_what_it_reuses() -> None:
    config = tiny(stages=stages(2, 3, feature_reuse_depth=0))
    with pytest.raises(
        ValueError, match=r"^upstream must be what the stage before gave for the same images, got None$"
    ):
        build(config).stage(1, images(config))


def test_a_stage_without_reuse_needs_nothing() -> None:
    config = tiny(stages=stages(2, 3, feature_reuse_depth=0, relation_reuse_depth=0))
    cascade, batch = build(config), images(config)
    with torch.no_grad():
        assert torch.equal(cascade.stage(1, batch).logits, cascade(batch)[1])


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_stages_that_are_not_joint_are_blind_to_the_one_before(config: CascadeConfig) -> None:
    cascade, batch = build(config), images(config)
    with torch.no_grad():
        alone, joint = cascade(batch, is_joint=False), cascade(batch)
        assert torch.equal(alone[0], joint[0])
        for weight in cascade.stages[0].parameters():
            weight.mul_(2)
        assert torch.equal(cascade(batch, is_joint=False)[1:], alone[1:])
        if len(alone) > 1 and cascade.stages[1].has_reuse:
            assert not torch.equal(alone[1], joint[1])


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_stages_that_are_not_joint_use_every_weight_and_pass_no_gradient_up(config: CascadeConfig) -> None:
    cascade = build(config).train()
    logits = cascade(images(config), is_joint=False)
    logits[-1].sum().backward(retain_graph=True)
    for stage in cascade.stages[:-1]:
        assert not any(weight.grad.any() for weight in stage.parameters())
    logits.sum().backward()
    for name, weight in cascade.named_parameters():  # as workers that exchange gradients need it
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name


@pytest.mark.parametrize(
    ("family", "names"), [("vit", ("cls_token", "pos_embed")), ("t2t_vit", ("cls_token",))]
)  # the sinusoid table of t2t_vit is no parameter
def test_class_tokens_and_positions_do_not_decay(family: Any, names: tuple[str, ...]) -> None:
    cascade = Cascade(tiny(family=family))
    assert cascade.no_weight_decay() == {f"stages.{index}.{name}" for index in range(3) for name in names}
    assert cascade.no_weight_decay() <= dict(cascade.named_parameters()).keys()


def test_registers_do_not_decay() -> None:
    cascade = Cascade(tiny(num_registers=2))
    assert {f"stages.{index}.reg_token" for index in range(3)} <= cascade.no_weight_decay()


@pytest.mark.parametrize("options", [{}, {"num_registers": 2, "global_pool": "avg", "class_pos_embed": False}])
def test_registers_and_pooling_keep_early_exits_the_same(options: dict[str, Any]) -> None:
    config = tiny(qk_norm=True, layer_scale=0.5, **options)
    cascade, batch = build(config), images(config)
    with torch.no_grad():
        logits, upstream = cascade(batch), None
        for index in range(3):
            upstream = cascade.stage(index, batch, upstream)
            assert torch.equal(upstream.logits, logits[index])


def test_stochastic_depth_grows_linearly() -> None:
    cascade = Cascade(tiny(depth=5, drop_path=0.2))
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for block in cascade.stages[1].blocks]
    assert rates == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])
    assert isinstance(cascade.stages[0].blocks[0].drop_path, torch.nn.Identity)
    single = Cascade(tiny(depth=1, drop_path=0.2))
    assert isinstance(single.stages[0].blocks[0].drop_path, torch.nn.Identity)


def test_the_same_seed_gives_the_same_weights() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(Cascade(tiny()).state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_weights_start_as_timms() -> None:
    torch.manual_seed(0)
    cascade = Cascade(tiny(embed_dim=64, num_heads=4))
    stage = cascade.stages[1]
    for weight in (stage.blocks[0].attn.qkv.weight, stage.feature_reuse[0].mlp.fc1.weight, stage.pos_embed):
        assert weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert torch.count_nonzero(stage.blocks[0].attn.qkv.bias) == 0
    assert torch.count_nonzero(stage.head.bias) == 0
