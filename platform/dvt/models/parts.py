"""Working through a batch in parts that stay in a processor's cache, and keeping less of it for the gradient.

What is large an image and short-lived is better made for a few images at a time: on a CPU a fresh buffer of tens of MB
costs more in page faults than the arithmetic on it. A compiler fuses such steps by itself, and a GPU wants them whole.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

T = TypeVar("T")

CACHED_NUMBERS = 2**21  # 8 MB of float32, which the last cache holds beside what it is made of


def by_parts(
    work: Callable[..., tuple[Tensor, ...]], batch: Sequence[Tensor], numbers_each: int, dim: int = 0
) -> tuple[Tensor, ...]:
    """`work(*batch)`, some images at a time.

    Args:
        work: Treats images independently.
        batch: Its arguments, each with images along dimension `dim`, as what it returns.
        numbers_each: Size of the largest tensor that `work` makes for an image.
        dim: Where images are told apart; or anything else that `work` treats independently, in place of images.
    """
    size = max(1, CACHED_NUMBERS // numbers_each)
    if torch.compiler.is_compiling() or batch[0].device.type != "cpu" or batch[0].shape[dim] <= size:
        return work(*batch)
    parts = [work(*part) for part in zip(*(tensor.split(size, dim) for tensor in batch), strict=True)]
    return tuple(torch.cat(pieces, dim) for pieces in zip(*parts, strict=True))


def recomputed(work: Callable[..., T], *tensors: Tensor) -> T:
    """`work(*tensors)`, done again when a gradient is asked for: until then nothing is kept but `tensors`.

    Args:
        work: Cheap beside the memory that it would keep; draws no random numbers.
        tensors: Its arguments.
    """
    if not torch.is_grad_enabled():
        return work(*tensors)
    done: T = checkpoint(work, *tensors, use_reentrant=False, preserve_rng_state=False)
    return done
