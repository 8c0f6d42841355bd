"""Checkpoints: exact, whole or not there, and read with suspicion."""

import errno
import os
import pickle
import re
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import dvt.train.checkpoint
from dvt.config import Recipe
from dvt.models import Cascade
from dvt.train.checkpoint import (
    CONFIG,
    EMA,
    MODEL,
    STATE,
    load_checkpoint,
    load_model,
    restore,
    save_checkpoint,
)
from dvt.train.errors import CheckpointError
from dvt.train.init_from import init_from
from dvt.train.state import TrainingState
from dvt.train.step import StepSums
from tests.unit.train.tiny import CASCADE, CPU, RECIPE, change, is_equal, make_batch, make_stepper, snapshot

FILES = (MODEL, EMA, CONFIG, STATE)
NO_EMA = change(RECIPE, train={"ema_decay": None})


def trained(recipe: Recipe = RECIPE, steps: int = 2) -> TrainingState:
    stepper = make_stepper(recipe)
    for seed in range(steps):
        stepper.step([make_batch(4, seed)], StepSums.zeros(len(recipe.cascade.stages), CPU))
    return stepper.state


@pytest.fixture(scope="module")
def state() -> TrainingState:
    return trained()


@pytest.fixture(scope="module")
def saved(state: TrainingState, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("saved") / "checkpoint"
    save_checkpoint(folder, state, RECIPE)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A checkpoint to spoil."""
    shutil.copytree(saved, tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fails(action: Callable[[], object]) -> str:
    with pytest.raises(CheckpointError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_checkpoint_is_these_files(saved: Path) -> None:
    assert sorted(content(saved)) == sorted(FILES)
    assert list(saved.parent.iterdir()) == [saved]


def test_everything_comes_back_bit_for_bit(state: TrainingState, saved: Path) -> None:
    checkpoint = load_checkpoint(saved)
    assert checkpoint.recipe == RECIPE
    assert checkpoint.step == 2
    assert checkpoint.weights == saved / EMA
    other = TrainingState.create(change(RECIPE, train={"seed": 5}), 4, CPU)
    assert not is_equal(snapshot(other)["model"], snapshot(state)["model"])
    restore(other, checkpoint, RECIPE)
    assert is_equal(snapshot(other), snapshot(state))
    moments = [moment for moments in other.optimizer.state.values() for moment in moments.values()]
    assert any(moment.any() for moment in moments)


def test_the_training_state_loads_without_unpickling_code(saved: Path) -> None:
    kept = torch.load(saved / STATE, weights_only=True)
    assert sorted(kept) == ["format", "optimizer", "sha256", "skipped_steps", "step"]


def test_no_averaged_weights_where_the_recipe_averages_none(tmp_path: Path) -> None:
    state = trained(NO_EMA)
    save_checkpoint(tmp_path / "c", state, NO_EMA)
    assert sorted(content(tmp_path / "c")) == sorted({*FILES} - {EMA})
    assert load_checkpoint(tmp_path / "c").weights == tmp_path / "c" / MODEL
    assert is_equal(load_model(tmp_path / "c").state_dict(), state.model.state_dict())
    told = fails(lambda: restore(trained(), load_checkpoint(tmp_path / "c"), RECIPE))
    assert told == f"{tmp_path / 'c' / EMA} must be there, got no such file; use a complete checkpoint folder"


def test_the_model_to_evaluate_is_the_averaged_one(state: TrainingState, saved: Path) -> None:
    model = load_model(saved)
    assert state.ema is not None
    assert is_equal(model.state_dict(), state.ema.module.state_dict())
    assert not is_equal(model.state_dict(), state.model.state_dict())
    assert not any(module.training for module in model.modules())
    assert model.config == CASCADE


class Crash(BaseException):
    """What ends a process, and what no `except` may take for an error of its own."""


@pytest.mark.parametrize(
    ("owner", "name", "survived_calls"),
    [
        (dvt.train.checkpoint, "save_file", 0),
        (dvt.train.checkpoint, "save_file", 1),
        (dvt.train.checkpoint, "recipe_to_yaml", 0),
        (dvt.train.checkpoint, "_sha256", 1),
        (torch, "save", 0),
        (dvt.train.checkpoint, "_flush", 3),
        (Path, "rename", 0),
    ],
)
@pytest.mark.parametrize("is_cleaned", [True, False], ids=["interrupted", "killed"])
def test_a_crash_between_files_leaves_no_checkpoint(
    state: TrainingState,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    survived_calls: int,
    is_cleaned: bool,
) -> None:
    save_checkpoint(tmp_path / "earlier", state, RECIPE)
    earlier = content(tmp_path)
    real, calls = getattr(owner, name), []

    def crash(*args: Any, **kwargs: Any) -> Any:
        if len(calls) == survived_calls:
            raise Crash
        calls.append(1)
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, crash)
        if not is_cleaned:  # a killed process tidies nothing
            patch.setattr(shutil, "rmtree", lambda *args, **kwargs: None)
        with pytest.raises(Crash):
            save_checkpoint(tmp_path / "later", state, RECIPE)
    assert not (tmp_path / "later").exists()
    left = [path.name for path in tmp_path.iterdir() if path.name != "earlier"]
    assert left == [] if is_cleaned else all(name.startswith(".later.") for name in left)
    assert {name: text for name, text in content(tmp_path).items() if name.startswith("earlier")} == earlier
    save_checkpoint(tmp_path / "later", state, RECIPE)  # what is left is in nobody's way
    assert load_checkpoint(tmp_path / "later").step == 2


@contextmanager
def small_disk(place: Path, size_kib: int) -> Iterator[None]:
    """A disk of its own at `place`, in memory."""
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_kib}k", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small disk needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


# Of about 54 KiB each for model and average, 2 for the configuration and 154 for the training state.
@pytest.mark.parametrize("left_kib", [0, 40, 80, 112, 116, 200, 264])
def test_a_full_disk(state: TrainingState, tmp_path: Path, left_kib: int) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, size_kib=272 + left_kib):
        save_checkpoint(disk / "earlier", state, RECIPE)
        earlier = content(disk)
        told = fails(lambda: save_checkpoint(disk / "later", state, RECIPE))
        assert told == (
            f"no space is left to write checkpoint {disk / 'later'}; free some and run the same command again"
        )
        assert list(disk.iterdir()) == [disk / "earlier"]
        assert content(disk) == earlier
        restore(trained(), load_checkpoint(disk / "earlier"), RECIPE)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("function", ["save_file", "recipe_to_yaml", "_flush"])
def test_a_full_disk_as_the_system_tells_it(
    state: TrainingState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, code: int
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(dvt.train.checkpoint, function, full)
    told = fails(lambda: save_checkpoint(tmp_path / "c", state, RECIPE))
    assert told == f"no space is left to write checkpoint {tmp_path / 'c'}; free some and run the same command again"
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written(state: TrainingState, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    told = fails(lambda: save_checkpoint(tmp_path / "file" / "c", state, RECIPE))
    assert re.fullmatch(
        rf"checkpoint {tmp_path}/file/c cannot be written \(\[Errno 20\] Not a directory: '{tmp_path}/file/\.c\.\w+"
        r"\.partial'\); mend it and run the same command again",
        told,
    )


def test_a_checkpoint_is_never_written_over(state: TrainingState, folder: Path) -> None:
    before = content(folder)
    told = fails(lambda: save_checkpoint(folder, state, RECIPE))
    assert told.startswith(f"checkpoint {folder} cannot be written ([Errno 39] Directory not empty: ")
    assert content(folder) == before
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_missing(folder: Path, name: str) -> None:
    (folder / name).unlink()
    expected = f"{folder / name} must be there, got no such file; use a complete checkpoint folder"
    assert fails(lambda: load_checkpoint(folder)) == expected
    assert fails(lambda: load_model(folder)) == expected
    assert fails(lambda: init_from(Cascade(CASCADE), str(folder))) == expected


def test_a_folder_that_is_missing(tmp_path: Path) -> None:
    told = fails(lambda: load_checkpoint(tmp_path / "no"))
    assert told == f"{tmp_path / 'no' / STATE} must be there, got no such file; use a complete checkpoint folder"


def unreadable(path: Path) -> str:
    return f"{path} must be a whole file of a checkpoint, got one that cannot be read; use another checkpoint"


def changed(path: Path) -> str:
    return f"{path} must be as it was written, got other bytes; use another checkpoint"


def spoiled(path: Path) -> str:
    return unreadable(path) if path.name == STATE else changed(path)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_ends_too_early(folder: Path, name: str, share: float) -> None:
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: int(share * len(whole))])
    assert fails(lambda: load_checkpoint(folder)) == spoiled(folder / name)


@pytest.mark.parametrize("name", FILES)
def test_a_file_with_one_other_bit(folder: Path, name: str) -> None:
    path = folder / name
    position = path.stat().st_size // 2
    if name == STATE:
        with zipfile.ZipFile(path) as archive:  # amid the largest moments; between entries a bit means nothing
            largest = archive.read(max(archive.infolist(), key=lambda entry: entry.file_size))
        position = path.read_bytes().index(largest) + len(largest) // 2
    flip(path, position, 4)
    assert fails(lambda: load_checkpoint(folder)) == spoiled(path)


def flip(path: Path, position: int, bit: int) -> None:
    spoilt = bytearray(path.read_bytes())
    spoilt[position] ^= 1 << bit
    path.write_bytes(spoilt)


def test_no_single_bit_changes_what_the_training_state_says(folder: Path) -> None:
    path = folder / STATE
    whole, before = path.read_bytes(), load_checkpoint(folder)
    directory = whole.index(b"PK\x01\x02")  # the archive's own table, where one bit may mean anything
    positions = [*range(0, directory, directory // 20), *range(directory, len(whole), 241)]
    refused = 0
    for count, position in enumerate(positions):
        flip(path, position, count % 8)
        try:
            after = load_checkpoint(folder)
        except CheckpointError as error:
            assert str(error) == unreadable(path)  # noqa: PT017  some bits mean nothing, and then there is no error
            refused += 1
        else:
            assert is_equal([after.step, after.optimizer], [before.step, before.optimizer])
        path.write_bytes(whole)
    assert refused > len(positions) / 2


def test_an_entry_marked_as_a_folder_is_not_read_as_nothing(folder: Path) -> None:
    whole = (folder / STATE).read_bytes()
    entry = whole.index(b"PK\x01\x02", whole.index(b"PK\x01\x02") + 4)
    flip(folder / STATE, entry + 38, 4)  # MS-DOS's folder bit in the external attributes (APPNOTE 4.4.15)
    assert fails(lambda: load_checkpoint(folder)) == unreadable(folder / STATE)


@pytest.mark.parametrize("other", [2, 0, None, "1"])
def test_another_format(folder: Path, other: object) -> None:
    torch.save(torch.load(folder / STATE, weights_only=True) | {"format": other}, folder / STATE)
    assert fails(lambda: load_checkpoint(folder)) == (
        f"{folder / STATE} must have format 1, got {other}; read it with the version of dvt that wrote it"
    )


@pytest.mark.parametrize("other", [torch.zeros(3), [1, 2], {}], ids=["tensor", "list", "empty"])
def test_a_state_of_something_else(folder: Path, other: object) -> None:
    torch.save(other, folder / STATE)
    assert fails(lambda: load_checkpoint(folder)) == (
        f"{folder / STATE} must have format 1, got None; read it with the version of dvt that wrote it"
    )


class Malice:
    """Runs code when it is unpickled."""

    def __init__(self, touched: Path) -> None:
        self.touched = touched

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.touched,)


@pytest.mark.parametrize("is_zipped", [True, False], ids=["torch.save", "pickle"])
def test_code_in_a_checkpoint_is_refused_and_not_run(folder: Path, tmp_path: Path, is_zipped: bool) -> None:
    malice = {"format": 1, "step": 1, "sha256": {}, "optimizer": Malice(tmp_path / "touched")}
    if is_zipped:
        torch.save(malice, folder / STATE)
        torch.load(folder / STATE, weights_only=False)  # that it would run
    else:
        (folder / STATE).write_bytes(pickle.dumps(malice))
        pickle.loads((folder / STATE).read_bytes())  # noqa: S301
    (tmp_path / "touched").unlink()
    assert fails(lambda: load_checkpoint(folder)) == unreadable(folder / STATE)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("names", [["../secret"], ["/etc/passwd"], [".."], [3], None])
def test_a_state_that_names_files_elsewhere_is_refused(folder: Path, names: list[object] | None) -> None:
    kept = torch.load(folder / STATE, weights_only=True)
    torch.save(kept | {"sha256": names and dict.fromkeys(names, "0")}, folder / STATE)
    assert fails(lambda: load_checkpoint(folder)) == (
        f"{folder / STATE} must name the files beside it, got other names; use another checkpoint"
    )


def resigned(folder: Path) -> None:
    """Note the files as they are now, as a program that writes checkpoints would."""
    kept = torch.load(folder / STATE, weights_only=True)
    kept["sha256"] = {name: dvt.train.checkpoint._sha256(folder / name) for name in (MODEL, EMA, CONFIG)}
    torch.save(kept, folder / STATE)


def test_a_recipe_of_another_version(folder: Path) -> None:
    text = (folder / CONFIG).read_text().replace("grad_accum_steps: 1", "grad_accum_step: 1")
    (folder / CONFIG).write_text(text.replace("log_every_steps: 2", "log_every_steps: 0"))
    resigned(folder)
    assert fails(lambda: load_checkpoint(folder)) == (
        f"{folder / CONFIG} must be a recipe, but train.grad_accum_step must be a known field, got 'grad_accum_step'; "
        "did you mean grad_accum_steps?; train.log_every_steps must be at least 1, got 0; use another checkpoint"
    )


@pytest.mark.parametrize("text", [b"a: [", b"\xff\xfe"], ids=["no YAML", "no text"])
def test_a_recipe_that_is_none(folder: Path, text: bytes) -> None:
    (folder / CONFIG).write_bytes(text)
    resigned(folder)
    assert fails(lambda: load_checkpoint(folder)) == unreadable(folder / CONFIG)


def test_weights_that_do_not_fit_their_own_recipe(tmp_path: Path, state: TrainingState) -> None:
    save_checkpoint(tmp_path / "c", state, change(RECIPE, cascade={"embed_dim": 32}))
    assert fails(lambda: load_model(tmp_path / "c")) == (
        f"{tmp_path / 'c' / EMA} must hold the weights of its config.yaml, got others; "
        "read it with the version of dvt that wrote it"
    )


def test_going_on_with_another_model(folder: Path) -> None:
    recipe = change(RECIPE, cascade={"embed_dim": 32, "drop_path": 0.1})
    told = fails(lambda: restore(trained(recipe), load_checkpoint(folder), recipe))
    assert told == (
        f"checkpoint {folder} must have the recipe's cascade, got embed_dim 16 instead of 32, "
        "drop_path 0.0 instead of 0.1; choose the recipe it was trained with"
    )


def test_going_on_with_another_optimizer(folder: Path) -> None:
    recipe = change(RECIPE, optimizer={"name": "sgd"})
    state = trained(recipe)
    before = snapshot(state)
    told = fails(lambda: restore(state, load_checkpoint(folder), recipe))
    assert told == (
        f"checkpoint {folder} must have the recipe's optimizer, got name 'adamw' instead of 'sgd'; "
        "choose the recipe it was trained with"
    )
    assert is_equal(snapshot(state), before)
