"""What became of images that left early, and the window in which results wait for those before them.

Shapes: B batch, C classes, W images in the window, n images that leave together.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Positions = NDArray[np.int64]  # which images, counted from the first that came in


@dataclass(frozen=True, eq=False)
class EarlyExitResult:
    """What became of each image, in the order of the input."""

    logits: Tensor  # (B, C), unnormalised, of the exit taken, float32
    confidence: Tensor  # (B,), at the exit taken, what its threshold is compared with, float32
    label: Tensor  # (B,), most probable class, int64
    exit_index: Tensor  # (B,), exit taken, int64, from 0 to E - 1

    @property
    def probs(self) -> Tensor:
        """Probabilities of the classes at the exit taken, (B, C), each row summing to 1."""
        return self.logits.softmax(dim=-1)

    def __len__(self) -> int:
        return len(self.label)

    @classmethod
    def empty(cls, num_images: int, num_classes: int, device: torch.device) -> "EarlyExitResult":
        """Room for the results of so many images."""
        return cls(
            logits=torch.zeros(num_images, num_classes, device=device),
            confidence=torch.zeros(num_images, device=device),
            label=torch.zeros(num_images, dtype=torch.int64, device=device),
            exit_index=torch.zeros(num_images, dtype=torch.int64, device=device),
        )

    def at(self, rows: Tensor) -> "EarlyExitResult":
        """A copy of some rows, (n,), in their order."""
        return EarlyExitResult(self.logits[rows], self.confidence[rows], self.label[rows], self.exit_index[rows])


class ResultWindow:
    """A ring of results: images leave it in the order that they came in, whenever they are done.

    Args:
        size: W, the most images that may be under way or wait for one that is.
        num_classes: C.
        device: Where results are kept.
    """

    def __init__(self, size: int, num_classes: int, device: torch.device) -> None:
        self.size = size
        self._ring = EarlyExitResult.empty(size, num_classes, device)
        self._is_done = np.zeros(size, dtype=np.bool_)

    def put(self, positions: Positions, logits: Tensor, confidence: Tensor, exit_index: int) -> None:
        """Note that images, (n,), leave here with logits (n, C) and confidence (n,)."""
        slots = positions % self.size
        rows = torch.from_numpy(slots).to(logits.device)
        self._ring.logits[rows] = logits.float()
        self._ring.confidence[rows] = confidence
        self._ring.label[rows] = logits.argmax(dim=-1)
        self._ring.exit_index[rows] = exit_index
        self._is_done[slots] = True

    def are_done(self, first: int, count: int) -> bool:
        """Whether so many images from position `first` on have all left."""
        return bool(self._is_done[self._slots(first, count)].all())

    def take(self, first: int, count: int) -> EarlyExitResult:
        """The results of so many images from position `first` on; their places are free from now on."""
        slots = self._slots(first, count)
        self._is_done[slots] = False
        return self._ring.at(torch.from_numpy(slots).to(self._ring.label.device))

    def _slots(self, first: int, count: int) -> Positions:
        return np.arange(first, first + count) % self.size
