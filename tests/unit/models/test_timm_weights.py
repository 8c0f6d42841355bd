"""Which state dicts fill a cascade, what they leave as it is, what is told of others, and that reuse can be learnt."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from dvt.config import CascadeConfig
from dvt.models import Cascade, WeightsError
from dvt.models.timm_weights import init_from_timm
from tests.unit.models.tiny import build, images, stages, tiny

State = dict[str, Tensor]


def vit_state(**changes: Any) -> State:
    """The state dict of timm's ViT with tiny's backbone, 4x4 patches of 8 pixels, and noise for weights."""
    values: dict[str, Any] = {
        "img_size": 32,
        "patch_size": 8,
        "num_classes": 5,
        "embed_dim": 16,
        "depth": 3,
        "num_heads": 2,
        "mlp_ratio": 2.0,
    }
    state = VisionTransformer(**values | changes).state_dict()
    generator = torch.Generator().manual_seed(0)
    return {name: 0.3 * torch.randn(tensor.shape, generator=generator) for name, tensor in state.items()}


def filled(state: Any, **changes: Any) -> Cascade:
    torch.manual_seed(0)
    cascade = Cascade(tiny(**changes)).eval()
    init_from_timm(cascade, state)
    return cascade


def logits_of(cascade: Cascade) -> Tensor:
    with torch.no_grad():
        logits: Tensor = cascade(images(cascade.config))
    return logits


def fails(action: Callable[[], object]) -> str:
    with pytest.raises(WeightsError) as caught:
        action()
    return str(caught.value)


# Layouts.


@pytest.mark.parametrize(
    "wrap",
    [lambda state: {"model": state}, lambda state: {"state_dict": state, "epoch": 3}],
    ids=["model", "state_dict"],
)
def test_a_state_dict_may_be_wrapped(wrap: Callable[[State], Any]) -> None:
    assert torch.equal(logits_of(filled(wrap(vit_state()))), logits_of(filled(vit_state())))


def test_what_is_read_is_left_as_it_is() -> None:
    state = vit_state(init_values=0.1) | {"mask_token": torch.zeros(1, 16)}
    before = {name: tensor.clone() for name, tensor in state.items()}
    filled(state, layer_scale=0.1)
    assert state.keys() == before.keys()
    assert all(torch.equal(state[name], before[name]) for name in state)


def test_half_precision_is_read() -> None:
    state = {name: tensor.half() for name, tensor in vit_state().items()}
    cascade = filled(state)
    assert {parameter.dtype for parameter in cascade.parameters()} == {torch.float32}
    whole = filled({name: tensor.float() for name, tensor in state.items()})
    torch.testing.assert_close(logits_of(cascade), logits_of(whole), rtol=0, atol=0.01)


def test_the_published_layout_of_deit_iii() -> None:
    state = vit_state(init_values=0.1, no_embed_class=True)
    published = {name.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): state[name] for name in state}
    assert published.keys() != state.keys()
    options = {"layer_scale": 0.1, "class_pos_embed": False}
    assert torch.equal(logits_of(filled({"model": published}, **options)), logits_of(filled(state, **options)))


def test_the_published_layout_of_dinov2_with_registers() -> None:
    state = vit_state(init_values=0.1, no_embed_class=True, reg_tokens=4)
    published = {name: tensor for name, tensor in state.items() if not name.startswith("head.")}
    published["register_tokens"] = published.pop("reg_token")
    # The class token has a position there; timm adds the two.
    position = torch.full((1, 1, 16), 0.25)
    published["cls_token"] = state["cls_token"] - position
    published["pos_embed"] = torch.cat((position, state["pos_embed"]), dim=1)
    published["mask_token"] = torch.zeros(1, 16)
    options = {"layer_scale": 0.1, "class_pos_embed": False, "num_registers": 4}
    found, expected = filled(published, **options), filled(state, **options)
    for index in range(3):  # the heads, which the file has none of
        found.stages[index].head.load_state_dict(expected.stages[index].head.state_dict())
    torch.testing.assert_close(logits_of(found), logits_of(expected), rtol=0, atol=1e-5)


def test_the_published_layout_of_dinov2() -> None:
    state = vit_state(init_values=0.1)
    published = {name: tensor for name, tensor in state.items() if not name.startswith("head.")}
    torch.manual_seed(0)
    expected = Cascade(tiny(layer_scale=0.1)).stages[0].head.weight
    cascade = filled(published | {"mask_token": torch.zeros(1, 16)}, layer_scale=0.1)
    assert torch.equal(cascade.stages[0].head.weight, expected)  # as it was
    assert torch.equal(cascade.stages[0].blocks[1].ls2.gamma, state["blocks.1.ls2.gamma"])


# Heads.


@pytest.mark.parametrize("source", [{"num_classes": 9}, {"num_classes": 0}])
def test_heads_stay_where_classes_differ(source: dict[str, Any]) -> None:
    torch.manual_seed(0)
    before = [stage.head.weight.clone() for stage in Cascade(tiny()).stages]
    state = vit_state(**source)
    cascade = filled(state)
    for stage, weight in zip(cascade.stages, before, strict=True):
        assert torch.equal(stage.head.weight, weight)
        assert torch.equal(stage.norm.weight, state["norm.weight"])


def test_every_exit_has_the_head() -> None:
    state = vit_state()
    for stage in filled(state).stages:
        assert torch.equal(stage.head.weight, state["head.weight"])
        assert torch.equal(stage.head.bias, state["head.bias"])


# Reuse.


def unread(cascade: Cascade) -> tuple[str, ...]:
    """The context of the last stage's last block, of which only the class token is read, and that has none."""
    return (f"stages.{len(cascade.stages) - 1}.feature_reuse.{cascade.config.depth - 1}.",)


@pytest.mark.parametrize("options", [{}, {"layer_scale": 1e-5, "num_registers": 2, "class_pos_embed": False}])
def test_every_reuse_learns_from_the_first_steps_on(options: dict[str, Any]) -> None:
    changes = {"init_values": options.get("layer_scale"), "reg_tokens": options.get("num_registers", 0)}
    cascade = filled(vit_state(no_embed_class=bool(options), **changes), **options).train()
    reuse = {name: each for name, each in cascade.named_parameters() if "_reuse." in name}
    reuse = {name: each for name, each in reuse.items() if not name.startswith(unread(cascade))}
    assert len(reuse) == 5 * 6 + 2 * 4  # three blocks in two stages but the unread one; two stages
    optimizer = torch.optim.SGD(cascade.parameters(), lr=0.1)
    reached: list[set[str]] = []
    for _ in range(3):
        optimizer.zero_grad()
        logits = cascade(images(cascade.config))
        (logits * torch.randn(logits.shape, generator=torch.Generator().manual_seed(2))).sum().backward()
        reached.append({name for name, each in reuse.items() if each.grad is not None and bool(each.grad.any())})
        optimizer.step()
    first, second, third = reached
    # What is zero learns first, then what is before it. Patches of the last block are read by the next stage alone,
    # so that their context waits for that stage's.
    waiting = "stages.1.feature_reuse.2."
    last_layers = {name for name in reuse if ".fc2." in name}
    assert first == {name for name in last_layers if not name.startswith(waiting)}
    assert second == {name for name in reuse if not name.startswith(waiting)} | {
        f"{waiting}mlp.fc2.weight",
        f"{waiting}mlp.fc2.bias",
    }
    assert third == reuse.keys()


def test_reuse_that_had_learnt_something_starts_anew() -> None:
    cascade = build(tiny())
    before = cascade.stages[1].blocks[0].mlp.fc1.weight[:, 16:].clone()
    init_from_timm(cascade, vit_state())
    assert torch.equal(cascade.stages[1].blocks[0].mlp.fc1.weight[:, 16:], before)  # the way to learn the context
    fresh = logits_of(filled(vit_state()))
    torch.testing.assert_close(logits_of(cascade), fresh, rtol=0, atol=1e-4)


# What is told.


def test_every_difference_is_told_at_once() -> None:
    state = vit_state(qkv_bias=False) | {"fc_norm.weight": torch.zeros(16)}
    del state["norm.bias"]
    state["blocks.0.norm1.weight"] = torch.zeros(8)
    assert fails(lambda: filled(state)) == (
        "the state dict must have the entries of the model, got 6 differences: missing blocks.0.attn.qkv.bias, "
        "missing blocks.1.attn.qkv.bias, missing blocks.2.attn.qkv.bias, missing norm.bias, unexpected fc_norm.weight, "
        "blocks.0.norm1.weight of shape (8,) instead of (16,)"
    )


@pytest.mark.parametrize(
    ("source", "options", "differences"),
    [
        ({"reg_tokens": 3}, {}, ["unexpected reg_token", "pos_embed of shape (1, 20, 16) instead of (1, 5, 16)"]),
        ({}, {"num_registers": 3}, ["missing reg_token", "pos_embed of shape (1, 17, 16) instead of (1, 8, 16)"]),
        ({}, {"class_pos_embed": False}, ["pos_embed of shape (1, 17, 16) instead of (1, 4, 16)"]),
        ({"pos_embed": "none"}, {}, ["missing pos_embed"]),
        ({"global_pool": "avg"}, {}, [*(f"missing norm.{kind}" for kind in ("weight", "bias")), *(
            f"unexpected fc_norm.{kind}" for kind in ("weight", "bias"))]),
        ({"in_chans": 1}, {}, ["patch_embed.proj.weight of shape (16, 1, 16, 16) instead of (16, 3, 16, 16)"]),
    ],
)  # fmt: skip
def test_options_that_the_weights_do_not_have(
    source: dict[str, Any], options: dict[str, Any], differences: list[str]
) -> None:
    count = "1 difference" if len(differences) == 1 else f"{len(differences)} differences"
    assert fails(lambda: filled(vit_state(**source), **options)) == (
        f"the state dict must have the entries of the model, got {count}: {', '.join(differences)}"
    )


def test_a_cascade_is_filled_entirely_or_not_at_all() -> None:
    cascade = build(tiny())
    before = {name: tensor.clone() for name, tensor in cascade.state_dict().items()}
    state = vit_state()
    del state["norm.bias"]
    fails(lambda: init_from_timm(cascade, state))
    assert all(torch.equal(tensor, before[name]) for name, tensor in cascade.state_dict().items())


NO_STATE: list[tuple[Any, str]] = [
    ([1], "w.pth must be a state dict, got list; save its state dict alone"),
    ({"model": 3}, "w.pth must be a state dict, got int; save its state dict alone"),
    ({3: torch.zeros(1)}, "w.pth must be a state dict, got dict; save its state dict alone"),
    (
        {"epoch": 3, "net": {}, "scale": torch.zeros(1)},
        "w.pth must be a state dict, got something else than tensors at epoch, net; save its state dict alone",
    ),
    (
        {"patch_embed.proj.weight": torch.zeros(16, 7)},
        (
            "w.pth must be a ViT that timm can convert, got one that it cannot: "
            "shape '[16, -1, 16, 16]' is invalid for input of size 112"
        ),
    ),
]


@pytest.mark.parametrize(("content", "sentence"), NO_STATE, ids=[row[1][:60] for row in NO_STATE])
def test_what_is_no_state_dict_is_told(content: Any, sentence: str) -> None:
    assert fails(lambda: init_from_timm(Cascade(tiny()), content, "w.pth")) == sentence


def test_tokens_to_token_cannot_start_from_a_vit() -> None:
    config: CascadeConfig = tiny(family="t2t_vit", stages=stages(2, 3))
    assert fails(lambda: init_from_timm(Cascade(config), vit_state(), "timm:deit_small_patch16_224")) == (
        "cascade.family must be 'vit' to start from timm:deit_small_patch16_224, got 't2t_vit'"
    )
