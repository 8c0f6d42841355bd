"""What a plan takes for granted: GPUs by their data sheets, and measured or plainly assumed rates of everything else.

`docs/planning.md` tells where each measured number comes from. Every one of them can be replaced on the command line.
"""

import math
from dataclasses import dataclass, fields

from dvt.config import Recipe, Rules

CIFAR_IMAGES, IMAGENET_IMAGES = 50_000, 1_281_167  # to train on, calibration images among them


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A kind of GPU, as its maker states it."""

    tflops: float  # of dense bfloat16 products
    memory_gb: float
    link_gb_s: float  # to the other GPUs of its node, in each direction
    # of what is no product, beside an H100: measured for H200, whose faster memory gains nothing; else by the memories
    slowness: float = 1.0


GPUS = {
    "a100": Gpu(tflops=312, memory_gb=80, link_gb_s=300, slowness=3.35 / 2.04),
    "h100": Gpu(tflops=989, memory_gb=80, link_gb_s=450),
    "h200": Gpu(tflops=989, memory_gb=141, link_gb_s=450),
    "l40s": Gpu(tflops=362, memory_gb=48, link_gb_s=32, slowness=3.35 / 0.864),  # linked by PCIe
}
# Measured of T2T-ViT-14 in three stages of 14 blocks; what else there is to launch goes along.
LAUNCH_MS_A_BLOCK = 165 / (3 * 14)
OTHER_MS = {"t2t_vit": 0.54, "vit": 0.25}  # measured; soft splits are more work than a patch embedding


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """What a plan takes for granted; the comment behind a field is its documentation."""

    utilisation: float = 0.11  # share of the GPU's peak that products reach
    other_ms: float  # of an H100, for all that is no product in training on an image
    launch_ms: float  # that the host takes to launch a micro-batch's kernels, while the GPU computes
    jitter: float = 0.02  # standard deviation of a step's time over its mean, of each GPU by itself
    link_efficiency: float = 0.8  # share of the rate between GPUs of a node that is reached
    network_gbit_s: float = 100.0  # of a node, in each direction
    network_efficiency: float = 0.8  # share of it that is reached
    link_latency_us: float = 5.0  # of a message between GPUs of a node
    network_latency_us: float = 20.0  # of a message between nodes
    bucket_mib: float = 25.0  # of gradients that are exchanged together; DDP's own
    cores_per_gpu: float  # that read, decode and augment images
    images_per_core_s: float  # read, decoded and augmented
    image_kb: float = 110.0  # of an encoded image
    storage_gbit_s: float = 10.0  # that a node reads images at
    disk_mb_s: float = 500.0  # that a checkpoint is written and hashed at while training waits
    upload_mb_s: float = 100.0  # that it is uploaded at while training goes on
    train_images: int  # of an epoch

    def __post_init__(self) -> None:
        rules = Rules()
        for each in fields(self):
            path, value = f"--{each.name.replace('_', '-')}", getattr(self, each.name)
            rules.require(math.isfinite(value), path, f"must be a finite number, got {value:g}")
            if each.name.endswith(("utilisation", "efficiency")):
                rules.require(0 < value <= 1, path, f"must be greater than 0 and at most 1, got {value:.15g}")
            elif each.name in ("jitter", "other_ms", "launch_ms", "link_latency_us", "network_latency_us"):
                rules.at_least(path, value, 0)
            else:
                rules.above(path, value, 0)
        rules.enforce()


def usual(recipe: Recipe) -> dict[str, float]:
    """What is taken for granted of a recipe's images and model, by the names of `Assumptions`.

    Returns:
        No `images_per_core_s` where none was measured: scenes of digits are composed, not decoded.
    """
    source, data = recipe.data.source, recipe.data
    known: dict[str, float] = {
        "other_ms": OTHER_MS[recipe.cascade.family],
        "launch_ms": LAUNCH_MS_A_BLOCK * recipe.cascade.num_exits * recipe.cascade.depth,
        "cores_per_gpu": max(1, data.loader_workers),
        "train_images": IMAGENET_IMAGES - data.calibration_images,
    }
    if source == "embedded":
        return known | {"train_images": data.train_images}
    if source.startswith("cifar"):
        return known | {"train_images": CIFAR_IMAGES - data.calibration_images, "images_per_core_s": 610, "image_kb": 3}
    return known | {"images_per_core_s": 625 if data.augment.rand_augment is None else 384}
