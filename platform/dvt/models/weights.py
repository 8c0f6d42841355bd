"""Reading weights that this project did not write, and telling every way in which they do not fit."""

import pickle
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

# What torch, zipfile and safetensors raise for files that are truncated, damaged or something else.
UNREADABLE = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    SafetensorError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    pickle.UnpicklingError,
)


class WeightsError(ValueError):
    """Weights that cannot be read or do not fit the model; the message is one sentence."""


def read_weights_file(path: Path) -> Any:
    """What a `.safetensors` file, or a file that `torch.save` wrote, holds; tensors on the CPU, no code unpickled.

    Raises:
        WeightsError: If the file is missing, damaged, or holds more than tensors, numbers, texts and containers.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise WeightsError(f"{path} must be a file of weights, got no such file; check the path") from error
    except UNREADABLE as error:
        raise WeightsError(
            f"{path} must be a safetensors file, or a file of tensors that torch.save wrote, got one that cannot be "
            f"read so; save its state dict alone"
        ) from error


def require_layout(found: Mapping[str, Tensor], expected: Mapping[str, Sequence[int]], source: str) -> None:
    """Check names and shapes of a state dict.

    Args:
        found: The state dict.
        expected: The shape of every entry that must be there.
        source: What the state dict is, as the subject of the message.

    Raises:
        WeightsError: Listing every missing, unexpected and misshapen entry.
    """
    problems = [f"missing {name}" for name in expected if name not in found]
    problems += [f"unexpected {name}" for name in found if name not in expected]
    problems += [
        f"{name} of shape {tuple(found[name].shape)} instead of {tuple(shape)}"
        for name, shape in expected.items()
        if name in found and tuple(found[name].shape) != tuple(shape)
    ]
    if problems:
        counted = "1 difference" if len(problems) == 1 else f"{len(problems)} differences"
        raise WeightsError(f"{source} must have the entries of the model, got {counted}: " + ", ".join(problems))
