"""What a run may start from: another run's checkpoint, a file of a ViT's weights, a published model of timm."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import _registry
from timm.models._builder import build_model_with_cfg
from timm.models.vision_transformer import VisionTransformer

from dvt.config import StageConfig
from dvt.models import Cascade
from dvt.models.timm_weights import init_from_timm
from dvt.train.checkpoint import EMA, save_checkpoint
from dvt.train.errors import CheckpointError
from dvt.train.init_from import init_from
from dvt.train.state import TrainingState
from tests.unit.train.tiny import CASCADE, CPU, RECIPE, change, is_equal

VIT: dict[str, Any] = {
    "img_size": 16,
    "patch_size": 4,
    "in_chans": 1,
    "num_classes": 10,
    "embed_dim": 16,
    "depth": 2,
    "num_heads": 2,
    "mlp_ratio": 2,
}


def fails(action: Callable[[], object]) -> str:
    with pytest.raises(CheckpointError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def started(source: str) -> Cascade:
    torch.manual_seed(0)
    model = Cascade(CASCADE)
    init_from(model, source)
    return model


# A checkpoint folder.


@pytest.fixture(scope="module")
def state() -> TrainingState:
    state = TrainingState.create(RECIPE, 4, CPU)
    assert state.ema is not None
    with torch.no_grad():
        for parameter in state.ema.module.parameters():
            parameter.mul_(0.5)  # something else than the model's
    return state


@pytest.fixture(scope="module")
def saved(state: TrainingState, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("saved") / "checkpoint"
    save_checkpoint(folder, state, RECIPE)
    return folder


def test_starting_from_another_runs_weights(state: TrainingState, saved: Path) -> None:
    model = Cascade(CASCADE)
    init_from(model, str(saved))
    assert state.ema is not None
    assert is_equal(model.state_dict(), state.ema.module.state_dict())


def test_starting_from_weights_in_a_bucket(state: TrainingState, saved: Path) -> None:
    fsspec.filesystem("memory").put(str(saved), "/runs/start", recursive=True)
    assert is_equal(started("memory://runs/start").state_dict(), started(str(saved)).state_dict())
    told = fails(lambda: started("memory://runs/nothing"))
    assert told.startswith("train.init_from must be readable, got memory://runs/nothing (")


def test_starting_with_other_classes_keeps_the_heads(state: TrainingState, saved: Path) -> None:
    model = Cascade(change(RECIPE, cascade={"num_classes": 7}, data={"source": "folder", "root": "/"}).cascade)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    init_from(model, str(saved))
    assert state.ema is not None
    averaged, after = state.ema.module.state_dict(), model.state_dict()
    heads = {name for name in after if ".head." in name}
    assert heads == {f"stages.{index}.head.{kind}" for index in (0, 1) for kind in ("weight", "bias")}
    for name, tensor in after.items():
        assert torch.equal(tensor, before[name] if name in heads else averaged[name]), name


def test_starting_from_weights_of_another_structure(saved: Path) -> None:
    recipe = change(RECIPE, cascade={"embed_dim": 32})
    model = Cascade(recipe.cascade)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert fails(lambda: init_from(model, str(saved))) == (
        f"checkpoint {saved} must have the recipe's cascade, got embed_dim 16 instead of 32; "
        "choose the recipe it was trained with"
    )
    assert is_equal(model.state_dict(), before)


@pytest.mark.parametrize("grids", [(2,), (2, 3), (2, 4, 8)])
def test_starting_from_weights_of_other_stages(saved: Path, grids: tuple[int, ...]) -> None:
    recipe = change(RECIPE, cascade={"stages": tuple(StageConfig(token_grid=grid) for grid in grids)})
    told = fails(lambda: init_from(Cascade(recipe.cascade), str(saved)))
    assert told.startswith(f"checkpoint {saved} must have the recipe's cascade, got stages (StageConfig(token_grid=2, ")


def test_starting_from_weights_that_were_changed(state: TrainingState, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint.pt"  # a folder all the same
    save_checkpoint(folder, state, RECIPE)
    content = bytearray((folder / EMA).read_bytes())
    content[20_000] ^= 1
    (folder / EMA).write_bytes(content)
    assert fails(lambda: started(str(folder))) == (
        f"{folder / EMA} must be as it was written, got other bytes; use another checkpoint"
    )


def test_a_folder_that_is_missing(tmp_path: Path) -> None:
    assert fails(lambda: started(f"{tmp_path}/no")) == (
        f"{tmp_path}/no/training_state.pt must be there, got no such file; use a complete checkpoint folder"
    )


# A file of a ViT's weights.


@pytest.fixture(scope="module")
def vit() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    state: dict[str, torch.Tensor] = VisionTransformer(**VIT).state_dict()
    return state


@pytest.fixture(scope="module")
def expected(vit: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = Cascade(CASCADE)
    init_from_timm(model, vit)
    state: dict[str, torch.Tensor] = model.state_dict()
    return state


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w.pt", "w.bin"])
def test_starting_from_a_file_of_a_vit(
    name: str, vit: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = tmp_path / name
    if path.suffix == ".safetensors":
        save_file(vit, path)
    else:
        torch.save({"model": vit}, path)
    assert is_equal(started(str(path)).state_dict(), expected)


def test_a_file_that_is_missing(tmp_path: Path) -> None:
    assert fails(lambda: started(f"{tmp_path}/no.pth")) == (
        f"{tmp_path}/no.pth must be a file of weights, got no such file; check the path"
    )


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "weights.npz"
    path.write_bytes(b"")
    assert fails(lambda: started(str(path))) == (
        f"train.init_from must be a checkpoint folder, a file of weights or timm:NAME, got {path}; "
        "choose a file that ends in .safetensors, .pth, .pt, .bin"
    )


def test_a_file_of_another_model(vit: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({name: tensor for name, tensor in vit.items() if name != "cls_token"} | {"a": torch.zeros(1)}, path)
    assert fails(lambda: started(str(path))) == (
        f"{path} must have the entries of the model, got 2 differences: missing cls_token, unexpected a"
    )


# A model of timm.


@pytest.fixture
def published(vit: dict[str, torch.Tensor], tmp_path: Path) -> Iterator[str]:
    """A model that timm knows while the test lasts, whose published weights lie in a file."""
    path = tmp_path / "published.safetensors"
    save_file(vit, path)

    def tiny_vit_of_a_test(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
        cfg = {"file": str(path), "num_classes": 10, "input_size": (1, 16, 16), "classifier": "head"}
        model: VisionTransformer = build_model_with_cfg(
            VisionTransformer, "tiny_vit_of_a_test", pretrained, pretrained_cfg=cfg, **VIT
        )
        return model

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(_registry._model_entrypoints, "tiny_vit_of_a_test", tiny_vit_of_a_test)
        yield "timm:tiny_vit_of_a_test"


def test_starting_from_a_model_of_timm(published: str, expected: dict[str, torch.Tensor]) -> None:
    assert is_equal(started(published).state_dict(), expected)


NOT_TO_BE_HAD = {
    "timm:deit_smal_patch16_224": (
        f"train.init_from must name a model of timm {timm.__version__}, got timm:deit_smal_patch16_224; "
        "did you mean timm:deit_small_patch16_224?"
    ),
    "timm:0": (
        f"train.init_from must name a model of timm {timm.__version__}, got timm:0; "
        "choose one of timm.list_models(pretrained=True)"
    ),
    "timm:deit_small_patch16_224.nobody": (
        "timm:deit_small_patch16_224.nobody must be a model whose weights can be had, got none (Invalid pretrained "
        "tag (nobody) for deit_small_patch16_224); download them elsewhere and set train.init_from to the file"
    ),
    "timm:dvt_deit_small": (
        "timm:dvt_deit_small must be a model whose weights can be had, got none (pretrained must be False for "
        "dvt_deit_small, got True; load weights from a checkpoint folder); download them elsewhere and set "
        "train.init_from to the file"
    ),
}


@pytest.mark.parametrize("source", NOT_TO_BE_HAD)
def test_a_model_that_cannot_be_had(source: str) -> None:
    assert fails(lambda: started(source)) == NOT_TO_BE_HAD[source]
