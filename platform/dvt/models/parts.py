"""Working through a batch in parts that stay in a processor's cache.

What is large an image and short-lived is better made for a few images at a time: on a CPU a fresh buffer of tens of MB
costs more in page faults than the arithmetic on it. A compiler fuses such steps by itself, and a GPU wants them whole.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CACHED_NUMBERS = 2**21  # 8 MB of float32, which a core's share of the last cache holds


def by_parts(
    work: Callable[..., tuple[Tensor, ...]], batch: Sequence[Tensor], numbers_an_image: int, recompute: bool = False
) -> tuple[Tensor, ...]:
    """`work(*batch)`, some images at a time.

    Args:
        work: Treats images independently.
        batch: Its arguments, each with images along the first dimension.
        numbers_an_image: Size of the largest tensor that `work` makes for an image.
        recompute: Whether to keep nothing for the gradient but `batch`, and to work anew when it is asked for.
    """
    num_images = len(batch[0])
    if torch.compiler.is_compiling() or batch[0].device.type != "cpu":
        return work(*batch)
    size = max(1, CACHED_NUMBERS // numbers_an_image)
    if recompute and torch.is_grad_enabled():
        work = _recomputed(work)
    if num_images <= size:
        return work(*batch)
    parts = [work(*part) for part in zip(*(tensor.split(size) for tensor in batch), strict=True)]
    return tuple(torch.cat(pieces) for pieces in zip(*parts, strict=True))


def _recomputed(work: Callable[..., tuple[Tensor, ...]]) -> Callable[..., tuple[Tensor, ...]]:
    def recomputed(*batch: Tensor) -> tuple[Tensor, ...]:
        done: tuple[Tensor, ...] = checkpoint(work, *batch, use_reentrant=False, preserve_rng_state=False)
        return done

    return recomputed
