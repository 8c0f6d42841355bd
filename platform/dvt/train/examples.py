"""Example images: a few test images with what every exit says of them, to see which leave where at any thresholds.

They are drawn at random and then evenly over classes, before anything is known of how hard they are: shares among them
are close to those of all test images of classes that weigh the same.

Shapes: E exits, n example images, c channels, S image side.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dvt.data import DataSets
from dvt.exits import Confidence
from dvt.models import Cascade

NUM_EXAMPLES = 60
_POOL = 4 * NUM_EXAMPLES  # images that are read to choose from, as labels are known by reading alone


@dataclass(frozen=True, eq=False)
class Examples:
    """Test images, and what every exit says of them."""

    images: NDArray[np.float32]  # (n, c, S, S), normalised
    mean: tuple[float, ...]  # (c,), see `DataSets`
    std: tuple[float, ...]  # (c,)
    labels: tuple[str, ...]  # (n,), names of the classes that they show
    predicted: tuple[tuple[str, ...], ...]  # (n, E), names of the classes that exits see
    confidence: NDArray[np.float32]  # (E, n), by the measure that the thresholds are of


@torch.inference_mode()
def look_at_examples(model: Cascade, data: DataSets, device: torch.device, confidence: Confidence) -> Examples:
    """Choose test images and let every exit look at them.

    Args:
        model: The trained model, on `device`, in evaluation mode.
        data: Its test images are chosen from.
        device: Where to compute.
        confidence: The measure that the thresholds are of.

    Raises:
        DataError: If an image cannot be read.
    """
    count = len(data.test)
    pool = np.random.default_rng(0).permutation(count)[:_POOL].tolist()
    read = data.test.read(pool)
    chosen = evenly_over_classes(read.labels.tolist(), NUM_EXAMPLES)
    images, labels = read.images[chosen], read.labels[chosen].tolist()
    logits = model(images.to(device))  # (E, n, C)
    sure = [confidence(rows, exit_index).float().cpu().numpy() for exit_index, rows in enumerate(logits)]
    seen = logits.argmax(dim=-1).T.tolist()  # (n, E)
    return Examples(
        images=images.numpy(),
        mean=data.mean,
        std=data.std,
        labels=tuple(data.class_names[label] for label in labels),
        predicted=tuple(tuple(data.class_names[label] for label in row) for row in seen),
        confidence=np.stack(sure),
    )


def evenly_over_classes(labels: Sequence[int], most: int) -> list[int]:
    """Positions of the first image of each class, then of the second of each, and so on, until there are enough."""
    turns: dict[int, int] = {}
    ranked = []
    for position, label in enumerate(labels):
        turns[label] = turns.get(label, -1) + 1
        ranked.append((turns[label], position))
    return [position for _, position in sorted(ranked)[:most]]
