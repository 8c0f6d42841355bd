"""How long workers wait for one another's gradients: rings, trees and buckets that overlap with the backward pass.

A ring over n ranks sends each byte 2 (n - 1) / n times through every link, in 2 (n - 1) messages one after the other
(Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations", 2009); a double binary tree
sends it twice, in 2 log2 n messages (Sanders, Speck and Träff, "Two-tree algorithms for full bandwidth broadcast,
reduction and scan", 2009).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

FIRST_BUCKET_BYTES = 2**20  # DDP's own, so that the exchange begins early


@dataclass(frozen=True)
class Link:
    """What messages go over."""

    bytes_per_s: float
    latency_s: float


@dataclass(frozen=True)
class Bucket:
    """Gradients that are exchanged together."""

    size: float  # bytes
    ready_s: float  # when the backward pass has all of them, since it began


def ring_s(size: float, ranks: int, link: Link) -> float:
    """Seconds of an all-reduce of `size` bytes by a ring."""
    passes = 2 * (ranks - 1)
    return passes / ranks * size / link.bytes_per_s + passes * link.latency_s


def tree_s(size: float, ranks: int, link: Link) -> float:
    """Seconds of an all-reduce of `size` bytes by a double binary tree."""
    if ranks == 1:
        return 0.0
    return 2 * size / link.bytes_per_s + 2 * math.ceil(math.log2(ranks)) * link.latency_s


def all_reduce_s(size: float, nodes: int, gpus: int, link: Link, network: Link) -> float:
    """Seconds of an all-reduce over GPUs of nodes, by the fastest of the ways that NCCL chooses from.

    Args:
        size: Bytes that each GPU has.
        nodes: How many.
        gpus: Of a node.
        link: From a GPU to the others of its node.
        network: From a node to the others, all its adapters together.
    """
    if nodes == 1:
        return ring_s(size, gpus, link)
    # Within a node each GPU sums up one share; the shares then cross the network side by side.
    across = min(ring_s(size, nodes, network), tree_s(size, nodes, network))
    slowest = Link(min(link.bytes_per_s, network.bytes_per_s), network.latency_s)
    return min(ring_s(size, gpus, link) + across, ring_s(size, nodes * gpus, slowest))


def make_buckets(parts: Sequence[tuple[float, float]], bucket_bytes: float) -> list[Bucket]:
    """Fill buckets with gradients in the order in which the backward pass has them.

    Args:
        parts: Bytes of gradients and seconds of the backward pass, a part of the model each, the last part first.
            Within a part gradients come at an even rate.
        bucket_bytes: Of a bucket but the first.
    """
    total = sum(size for size, _ in parts)
    buckets, filled = list[Bucket](), 0.0
    while filled < total:
        size = min(bucket_bytes if buckets else min(FIRST_BUCKET_BYTES, bucket_bytes), total - filled)
        filled = total if math.isclose(filled + size, total) else filled + size
        buckets.append(Bucket(size, _ready_s(filled, parts)))
    return buckets


def _ready_s(filled: float, parts: Iterable[tuple[float, float]]) -> float:
    """When the first `filled` bytes of gradients are there."""
    passed = 0.0
    for size, seconds in parts:
        if filled <= size:
            return passed + seconds * filled / size
        filled, passed = filled - size, passed + seconds
    return passed


def exposed_s(buckets: Sequence[Bucket], costs: Sequence[float], backward_s: float) -> float:
    """Seconds from the end of the backward pass to the end of the last exchange; one bucket at a time is exchanged."""
    end = 0.0
    for bucket, cost in zip(buckets, costs, strict=True):
        end = max(end, bucket.ready_s) + cost
    return max(0.0, end - backward_s)
