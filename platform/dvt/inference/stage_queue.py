"""Where images wait for a stage until there are enough of them to run it.

The rows are allocated once and written in place: collecting survivors costs one copy of what the stage reads, and no
fresh memory, which on a CPU would cost more in page faults than the copy.

Shapes: n images that come in, R rows of the queue.
"""

import time

import numpy as np
import torch
from torch import Tensor

from dvt.inference.result import Positions
from dvt.models import StageOutput


class StageQueue:
    """Images with what the stage before computed of them; holds as many as the stage runs on at once.

    Args:
        size: R, at least 1.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.clear()
        self._rows: tuple[Tensor, ...] = ()
        self._positions = np.zeros(size, dtype=np.int64)

    def clear(self) -> None:
        """Forget the images; the memory is kept."""
        self.count = 0
        self._since = 0.0

    @property
    def is_full(self) -> bool:
        """Whether no more images fit."""
        return self.count == self.size

    @property
    def waited_s(self) -> float:
        """How long the first image has been waiting, in seconds; 0 where there is none."""
        return time.monotonic() - self._since if self.count else 0.0

    def add(self, images: Tensor, upstream: StageOutput, positions: Positions, chosen: Positions) -> Positions:
        """Copy in the rows at `chosen`, (n,), as far as there is room; returns those that did not fit."""
        here, later = np.split(chosen, [self.size - self.count])
        given = (images, upstream.logits, upstream.features, *upstream.relations)
        if not self.count:
            self._since = time.monotonic()
            if [row.dtype for row in self._rows] != [tensor.dtype for tensor in given]:  # autocast came or went
                self._rows = tuple(tensor.new_empty(self.size, *tensor.shape[1:]) for tensor in given)
        end = self.count + len(here)
        index = torch.from_numpy(here).to(images.device)
        for row, tensor in zip(self._rows, given, strict=True):
            torch.index_select(tensor, 0, index, out=row[self.count : end])
        self._positions[self.count : end] = positions[here]
        self.count = end
        return later

    def waiting(self) -> tuple[Tensor, StageOutput, Positions]:
        """All that wait, as the stage wants them: valid until the next `add`."""
        images, logits, features, *relations = (row[: self.count] for row in self._rows)
        return images, StageOutput(logits, features, tuple(relations)), self._positions[: self.count].copy()
