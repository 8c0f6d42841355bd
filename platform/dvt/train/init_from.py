"""Where a run's first weights come from: another run's checkpoint, or one timm ViT for every stage."""

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm

from dvt.data.s3_client import open_filesystem
from dvt.data.s3_failures import STORAGE_FAILURES, why_failed
from dvt.models import Cascade, WeightsError
from dvt.models.timm_weights import init_from_timm
from dvt.models.weights import UNREADABLE, read_weights_file
from dvt.train.checkpoint import load_checkpoint, read_tensors, tell_difference
from dvt.train.errors import CheckpointError
from dvt.train.scratch import scratch_folder

TIMM_PREFIX = "timm:"  # before the name of a model of timm, whose published weights are downloaded
WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


def init_from(model: Cascade, source: str) -> None:
    """Start `model` from other weights; heads stay as they are where classes differ.

    Args:
        model: The cascade to start.
        source: A checkpoint folder; a file of a ViT's weights, in timm's layout or one that timm converts; either in
            a bucket too; or `timm:` and a model's name.

    Raises:
        CheckpointError: If the weights cannot be had or are of another model.
    """
    try:
        if source.startswith(TIMM_PREFIX):
            init_from_timm(model, _published_weights(source), source)
        else:
            with _fetched(source) as path:
                _init_from_files(model, path, source)
    except WeightsError as error:
        raise CheckpointError(str(error)) from error


@contextmanager
def _fetched(source: str) -> Iterator[Path]:
    """A folder or file on this machine while the context lasts, copied here if it is in a bucket."""
    if "://" not in source:
        yield Path(source)
        return
    with scratch_folder() as scratch:
        local = scratch / source.rstrip("/").rpartition("/")[2]
        try:
            filesystem, path = open_filesystem(source)
            filesystem.get(path, str(local), recursive=True)
        except STORAGE_FAILURES as error:
            raise CheckpointError(f"train.init_from must be readable, got {source} ({why_failed(error)})") from error
        yield local


def _init_from_files(model: Cascade, path: Path, source: str) -> None:
    if path.suffix in WEIGHT_SUFFIXES and not path.is_dir():
        init_from_timm(model, read_weights_file(path), source)
    elif path.is_file():
        raise CheckpointError(
            f"train.init_from must be a checkpoint folder, a file of weights or timm:NAME, got {source}; "
            f"choose a file that ends in {', '.join(WEIGHT_SUFFIXES)}"
        )
    else:
        _init_from_checkpoint(model, path)


def _init_from_checkpoint(model: Cascade, folder: Path) -> None:
    checkpoint = load_checkpoint(folder)
    tensors = read_tensors(checkpoint.weights)
    if checkpoint.recipe.cascade.num_classes != model.config.num_classes:
        tensors = {name: tensor for name, tensor in tensors.items() if ".head." not in name}
    own = {name: tensor.shape for name, tensor in model.state_dict().items() if name in tensors or ".head." not in name}
    if own != {name: tensor.shape for name, tensor in tensors.items()}:
        raise CheckpointError(tell_difference(folder, "cascade", checkpoint.recipe.cascade, model.config))
    model.load_state_dict(tensors, strict=False)


def _published_weights(source: str) -> Any:
    """The state dict of `timm:NAME`.

    Raises:
        WeightsError: If timm has no such model, or its weights cannot be downloaded.
    """
    name = source.removeprefix(TIMM_PREFIX)
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=1)
        advice = f"did you mean {TIMM_PREFIX}{near[0]}?" if near else "choose one of timm.list_models(pretrained=True)"
        raise WeightsError(f"train.init_from must name a model of timm {timm.__version__}, got {source}; {advice}")
    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except UNREADABLE as error:  # also from the network, and from timm for a tag that it does not know
        reason = str(error).partition("\n")[0].rstrip(".")
        raise WeightsError(
            f"{source} must be a model whose weights can be had, got none ({reason}); "
            f"download them elsewhere and set train.init_from to the file"
        ) from error
