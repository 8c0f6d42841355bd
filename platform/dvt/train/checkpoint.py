"""Checkpoints: a folder of four files that is complete or is not there.

`model.safetensors` and `ema.safetensors` hold weights (the latter only where the recipe averages), `config.yaml` the
recipe, `training_state.pt` the optimizer, the step, the position among the images and the checksums of the others.
Nothing here unpickles code.
"""

import errno
import hashlib
import os
import shutil
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dvt.config import CascadeConfig, ConfigError, OptimizerConfig, Recipe, recipe_from_dict, recipe_to_yaml, yaml_text
from dvt.models import Cascade
from dvt.models.weights import UNREADABLE
from dvt.train.errors import CheckpointError
from dvt.train.position import Position
from dvt.train.state import ModelState

MODEL, EMA, CONFIG, STATE = "model.safetensors", "ema.safetensors", "config.yaml", "training_state.pt"
FORMAT = 1  # raised when the files' meaning changes


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder whose files were all found whole.

    Attributes:
        folder: Where it lies.
        recipe: The recipe it was trained with.
        step: Optimizer steps taken.
        optimizer: The optimizer's state dict.
        position: Where the run stands among its images; None where it follows from `step`, as in older checkpoints.
        skipped_steps: How many steps changed nothing, and how many of them were the last ones.
    """

    folder: Path
    recipe: Recipe
    step: int
    optimizer: Mapping[str, Any]
    position: Position | None = None
    skipped_steps: tuple[int, int] = (0, 0)

    @property
    def weights(self) -> Path:
        """The file of the weights to evaluate: averaged where there are any."""
        averaged = self.folder / EMA
        return averaged if averaged.exists() else self.folder / MODEL


def save_checkpoint(
    folder: Path, state: ModelState, recipe: Recipe, texts: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Write a checkpoint; `folder` appears with all files in it, or not at all.

    Args:
        folder: Where to; must not be there.
        state: What is kept.
        recipe: What it is trained by.
        texts: More files by name, for models that a recipe does not determine.

    Raises:
        CheckpointError: If the disk is full or the folder cannot be written.
    """
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        partial.mkdir(parents=True)
        save_file(_tensors(state.model), partial / MODEL)
        if state.ema is not None:
            save_file(_tensors(state.ema.module), partial / EMA)
        (partial / CONFIG).write_text(recipe_to_yaml(recipe), encoding="utf-8")
        for name, text in texts.items():
            (partial / name).write_text(text, encoding="utf-8")
        content = {
            "format": FORMAT,
            "step": state.step,
            "optimizer": state.optimizer.state_dict(),
            "skipped_steps": [state.skipped_steps, state.skipped_in_a_row],
            "sha256": {path.name: _sha256(path) for path in sorted(partial.iterdir())},
        }
        if state.position is not None:
            content["position"] = state.position.to_plain()
        with (partial / STATE).open("wb") as file:  # given a path, torch 2.15 does not say that the disk is full
            torch.save(content, file)
        for path in partial.iterdir():
            _flush(path)
        partial.rename(folder)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors wrap what the system says
        if _is_disk_full(error):
            message = f"no space is left to write checkpoint {folder}; free some and run the same command again"
        else:
            message = f"checkpoint {folder} cannot be written ({error}); mend it and run the same command again"
        raise CheckpointError(message) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read and check a checkpoint folder; weights stay in their files until `load_weights`.

    Raises:
        CheckpointError: Naming the file that is missing, changed or cannot be read.
    """
    with _readable(folder, STATE):
        content = _load_state(folder / STATE)
    found_format = content.get("format") if isinstance(content, dict) else None
    if found_format != FORMAT:
        raise CheckpointError(
            f"{folder / STATE} must have format {FORMAT}, got {found_format}; "
            f"read it with the version of dvt that wrote it"
        )
    for name, digest in _checksums(content, folder / STATE).items():
        with _readable(folder, name):
            found = _sha256(folder / name)
        if found != digest:
            raise CheckpointError(f"{folder / name} must be as it was written, got other bytes; use another checkpoint")
    with _readable(folder, CONFIG):
        recipe = recipe_from_dict(yaml_text.parse((folder / CONFIG).read_text(encoding="utf-8")))
    position = Position.from_plain(content["position"]) if "position" in content else None
    skipped = tuple(content.get("skipped_steps", (0, 0)))  # older ones have none
    return Checkpoint(folder, recipe, content["step"], content["optimizer"], position, skipped)


def _checksums(content: dict[str, Any], path: Path) -> dict[str, str]:
    """SHA-256 by name of the files beside; a name that led elsewhere would have any file of the machine read."""
    found = content.get("sha256")
    names = found if isinstance(found, dict) else [None]
    if any(not isinstance(name, str) or Path(name).name != name or name in ("", "..") for name in names):
        raise CheckpointError(f"{path} must name the files beside it, got other names; use another checkpoint")
    return dict(found or {})


def restore(state: ModelState, checkpoint: Checkpoint, recipe: Recipe) -> None:
    """Continue `state` from a checkpoint of the same run.

    Raises:
        CheckpointError: If the checkpoint belongs to another model or optimizer, or a file of it cannot be read.
    """
    for part in ("cascade", "optimizer"):
        found, asked = getattr(checkpoint.recipe, part), getattr(recipe, part)
        if found != asked:
            raise CheckpointError(tell_difference(checkpoint.folder, part, found, asked))
    load_weights(state.model, checkpoint.folder / MODEL)
    if state.ema is not None:
        load_weights(state.ema.module, checkpoint.folder / EMA)
    state.restore(checkpoint.step, checkpoint.optimizer)
    state.position = checkpoint.position
    state.skipped_steps, state.skipped_in_a_row = checkpoint.skipped_steps


def load_model(folder: Path) -> Cascade:
    """The model of a checkpoint folder, averaged weights where there are any, in evaluation mode on the CPU.

    Raises:
        CheckpointError: If a file is missing, changed or cannot be read.
    """
    checkpoint = load_checkpoint(folder)
    model = Cascade(checkpoint.recipe.cascade)
    load_weights(model, checkpoint.weights)
    return model.eval()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """What a file of weights in a checkpoint holds.

    Raises:
        CheckpointError: If it cannot be read.
    """
    with _readable(path.parent, path.name):
        return load_file(path)


def tell_difference(folder: Path, part: str, found: CascadeConfig | OptimizerConfig, asked: object) -> str:
    """The sentence for a checkpoint whose recipe `found` another model or optimizer than is `asked` for."""
    names = [name for name in vars(asked) if getattr(found, name) != getattr(asked, name)]
    told = ", ".join(f"{name} {getattr(found, name)!r} instead of {getattr(asked, name)!r}" for name in names)
    return f"checkpoint {folder} must have the recipe's {part}, got {told}; choose the recipe it was trained with"


def load_weights(model: nn.Module, path: Path) -> None:
    """Fill a model with a checkpoint's file of weights.

    Raises:
        CheckpointError: If it cannot be read, or holds another model's.
    """
    tensors = read_tensors(path)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(
            f"{path} must hold the weights of its {CONFIG}, got others; read it with the version of dvt that wrote it"
        ) from error


def _load_state(path: Path) -> Any:
    """What `torch.save` wrote, once its checksums hold: torch 2.15 writes them and does not look at them."""
    with zipfile.ZipFile(path) as archive:
        # Of an entry that is marked as a folder, torch 2.15 reads nothing and returns what the memory held.
        is_whole = archive.testzip() is None and not any(entry.external_attr for entry in archive.infolist())
    if not is_whole:
        raise zipfile.BadZipFile(f"{path} is damaged")
    return torch.load(path, map_location="cpu", weights_only=True)


@contextmanager
def _readable(folder: Path, name: str) -> Iterator[None]:
    """Turn what reading a checkpoint's file raises into one sentence."""
    path = folder / name
    try:
        yield
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} must be there, got no such file; use a complete checkpoint folder") from error
    except ConfigError as error:
        told = "; ".join(map(str, error.problems))
        raise CheckpointError(f"{path} must be a recipe, but {told}; use another checkpoint") from error
    except UNREADABLE as error:
        raise CheckpointError(
            f"{path} must be a whole file of a checkpoint, got one that cannot be read; use another checkpoint"
        ) from error


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _is_disk_full(error: BaseException | None) -> bool:
    """Whether this error, or one that it came up while handling, is the system's lack of space."""
    if error is None:
        return False
    told = str(error).lower()
    is_full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    return is_full or "no space left" in told or "quota exceeded" in told or _is_disk_full(error.__context__)
