"""Running all exits over calibration or test images, without gradients.

Shapes: E exits, B batch, N images of a shard, C classes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dvt.config import DataConfig
from dvt.data import ImageSet, eval_batches
from dvt.exits import PLAIN, Confidence, ExitScores, score_exits
from dvt.models import Cascade
from dvt.train.errors import TrainingError

OnBatch = Callable[[int], None]


def score_images(
    model: Cascade,
    images: ImageSet,
    config: DataConfig,
    device: torch.device,
    shard: int = 0,
    num_shards: int = 1,
    confidence: Confidence = PLAIN,
) -> ExitScores:
    """How sure every exit is of every image of a shard, and whether it is right.

    Args:
        model: The model, on `device`; left in the mode it was in.
        images: Calibration or test images.
        config: Batch size and reading processes.
        device: Where to compute.
        shard: Which part of the images to score, from 0.
        num_shards: Number of parts.
        confidence: How to measure how sure an exit is.

    Raises:
        DataError: If an image cannot be read.
        TrainingError: If the model gives something that is no number.
    """
    return score_with_labels(model, images, config, device, shard, num_shards, confidence)[0]


def predict_images(
    model: Cascade,
    images: ImageSet,
    config: DataConfig,
    device: torch.device,
    shard: int = 0,
    num_shards: int = 1,
    on_batch: OnBatch = lambda num_images: None,
) -> tuple[Tensor, Tensor]:
    """Everything that every exit says of every image of a shard, to choose a confidence by.

    Args:
        model: The model, on `device`; left in the mode it was in.
        images: Calibration images.
        config: Batch size and reading processes.
        device: Where to compute.
        shard: Which part of the images to look at, from 0.
        num_shards: Number of parts.
        on_batch: Told how many images each batch held, to show how it goes.

    Returns:
        Logits (E, N, C) in float32, 4 x E x N x C bytes, and labels (N,); on the CPU.

    Raises:
        DataError: If an image cannot be read.
        TrainingError: If the model gives something that is no number.
    """
    with _at_rest(model):
        parts = []
        for logits, labels in _predictions(model, images, config, device, (shard, num_shards)):
            parts.append((logits.float().cpu(), labels.cpu()))
            on_batch(len(labels))
    return torch.cat([logits for logits, _ in parts], dim=1), torch.cat([labels for _, labels in parts])


def score_with_labels(
    model: Cascade,
    images: ImageSet,
    config: DataConfig,
    device: torch.device,
    shard: int = 0,
    num_shards: int = 1,
    confidence: Confidence = PLAIN,
    on_batch: OnBatch = lambda num_images: None,
) -> tuple[ExitScores, NDArray[np.int64]]:
    """As `score_images`, with the images' labels, (N,).

    Args:
        model: The model, on `device`; left in the mode it was in.
        images: Calibration or test images.
        config: Batch size and reading processes.
        device: Where to compute.
        shard: Which part of the images to score, from 0.
        num_shards: Number of parts.
        confidence: How to measure how sure an exit is.
        on_batch: Told how many images each batch held, to show how it goes.

    Raises:
        DataError: If an image cannot be read.
        TrainingError: If the model gives something that is no number.
    """
    scores, all_labels = [], []
    with _at_rest(model):
        for logits, labels in _predictions(model, images, config, device, (shard, num_shards)):
            scores.append(score_exits(logits, labels, confidence))
            all_labels.append(labels.cpu().numpy())
            on_batch(len(labels))
    return ExitScores.join(scores), np.concatenate(all_labels)


@contextmanager
def _at_rest(model: Cascade) -> Iterator[None]:
    """Evaluation mode while the context lasts."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@torch.inference_mode()
def _predictions(
    model: Cascade, images: ImageSet, config: DataConfig, device: torch.device, part: tuple[int, int]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits (E, B, C) and labels (B,) of each batch of a shard."""
    shard, num_shards = part
    batches = eval_batches(
        images, shard=shard, num_shards=num_shards, batch_size=config.eval_batch_size, num_workers=config.loader_workers
    )
    for batch in batches:
        logits = model(batch.images.to(device, non_blocking=True))
        if not bool(logits.isfinite().all()):
            raise TrainingError(
                "the model must give finite logits, got others; lower optimizer.lr or set optimizer.clip_grad"
            )
        yield logits, batch.labels.to(device)
