"""Memory that reading processes put batches into and the training process takes them from, used again and again.

Memory that is new for each batch costs as much as a fifth of decoding its images: the system clears every page, and
both processes have to map it. So some of it is made once an epoch, and pieces of it are lent out.

Shapes: `B` batch, `C` channels, `S` image side in pixels.
"""

import weakref

import torch
from torch import Tensor


def empty_batch(count: int, chans: int, size: int) -> Tensor:
    """Where a batch of bytes is put together: (B, C, S, S), with the channels of a pixel beside each other."""
    return torch.empty((count, size, size, chans), dtype=torch.uint8).permute(0, 3, 1, 2)


class BatchMemory:
    """Pieces of memory for a batch each, shared between the process that made them and those it starts.

    The process that made it reserves a piece, another fills it, the first takes it as a tensor. The piece is free again
    when that tensor and all views of it are gone.
    """

    def __init__(self, like: Tensor, num_pieces: int) -> None:
        """Make the pieces.

        Args:
            like: A batch, for its shape, type and layout.
            num_pieces: How many batches there can be at a time, those on their way among them.
        """
        self._pieces: list[Tensor] = [torch.empty_like(like).share_memory_() for _ in range(num_pieces)]
        self._free = list(range(num_pieces))

    def reserve(self) -> int | None:
        """The number of a piece that is free no more; None if all are in use."""
        return self._free.pop() if self._free else None  # the one given back last: a cache may still hold it

    def piece(self, number: int) -> Tensor:
        """A piece, to be filled."""
        return self._pieces[number]

    def lend(self, number: int) -> Tensor:
        """A reserved piece as a tensor, at whose end it is free."""
        array = self._pieces[number].numpy()  # an object of its own each time, which the tensor's memory holds on to
        weakref.finalize(array, self._free.append, number).atexit = False
        lent: Tensor = torch.from_numpy(array)
        return lent
