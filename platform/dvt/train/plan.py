"""What a training run will take: a model of one epoch on any number of GPUs, from shapes, data sheets and few rates.

An epoch is steps, and what comes between epochs. A step lasts as long as the slowest GPU computes, then until the last
bucket of gradients is exchanged, and no shorter than its images take to be read. `docs/planning.md` compares it with
what was measured. Nothing here runs anything.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

from dvt.config import ConfigError, Problem, Recipe
from dvt.models import stage_macs
from dvt.models.size import count_parameters, stage_parameters
from dvt.train.all_reduce import Link, all_reduce_s, exposed_s, make_buckets
from dvt.train.plan_hardware import Assumptions, Gpu

FLOPS_A_MAC = 2
TRAINING, BACKWARD = 3, 2  # beside the forward pass: all of a step, and its backward pass
OVERLAP = 4  # order of the mean of launching and computing; fitted, infinity would be perfect overlap
GRADIENT_BYTES = 4  # float32, as DDP exchanges them
# Activations of a block, bytes a number of its output: fitted to T2T-ViT-12, -14 and DeiT-small in bfloat16.
BLOCK_BYTES, MLP_BYTES, SOFT_SPLIT_BYTES_A_PIXEL = 24, 6, 540


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """What to train on."""

    nodes: int
    gpus: int  # of a node
    gpu: Gpu

    @property
    def total(self) -> int:
        """All GPUs."""
        return self.nodes * self.gpus


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """Seconds of an epoch by what they go to, and what that comes to."""

    launching_s: float  # of it, what the GPU waits for kernels to be launched
    computing_s: float
    stragglers_s: float  # waiting for the slowest GPU
    gradients_s: float  # waiting for gradients after the backward pass
    images_s: float  # waiting for images
    measuring_s: float  # accuracy on calibration images
    checkpoint_s: float
    images: int  # trained on
    steps: int

    @property
    def parts(self) -> dict[str, float]:
        """Seconds by what they go to."""
        return {
            "GPU": self.computing_s,
            "launches": self.launching_s,
            "stragglers": self.stragglers_s,
            "gradients": self.gradients_s,
            "images": self.images_s,
            "measuring": self.measuring_s,
            "checkpoint": self.checkpoint_s,
        }

    @property
    def seconds(self) -> float:
        """Of the whole epoch."""
        return sum(self.parts.values())

    @property
    def images_per_s(self) -> float:
        """Over the whole epoch, all GPUs together."""
        return self.images / self.seconds

    @property
    def ranked(self) -> tuple[str, ...]:
        """What the time goes to, most first."""
        return tuple(sorted(self.parts, key=self.parts.__getitem__, reverse=True))


def plan_epoch(recipe: Recipe, place: Nodes, given: Assumptions) -> Epoch:
    """An epoch of a recipe, with its micro-batch on each GPU.

    Args:
        recipe: What is trained; its `cluster` does not matter.
        place: What it is trained on.
        given: What is taken for granted.

    Raises:
        ConfigError: If there are too many GPUs for one step an epoch, or products are not to be in bfloat16.
    """
    if recipe.train.amp == "off":
        raise ConfigError(
            [Problem("train.amp", "must be auto in a plan, which knows rates of bfloat16 alone, got off")]
        )
    micro, accum = recipe.train.micro_batch_size, recipe.train.grad_accum_steps
    steps = given.train_images // (micro * accum * place.total)
    if steps == 0:
        rule = (
            f"must leave an image of the {given.train_images:,} for each of {place.total} GPUs x {micro * accum}, "
            f"got {place.nodes} x {place.gpus}; use fewer, or a smaller train.micro_batch_size"
        )
        raise ConfigError([Problem("--nodes x --gpus", rule)])
    busy_s = micro * image_s(recipe, place.gpu, given)
    micro_s = overlapped_s(given.launch_ms / 1e3, busy_s)
    waits_s = accum * micro_s * given.jitter * expected_maximum(place.total)
    exchange_s = exchange_exposed_s(recipe, place, given, micro_s)
    reading_s = micro * accum / read_per_s(place, given)
    starved_s = max(0.0, reading_s - (accum * micro_s + waits_s + exchange_s))
    first_batch_s = micro / given.images_per_core_s  # one process makes all of it
    training_s = steps * (accum * micro_s + waits_s + exchange_s + starved_s)
    return Epoch(
        launching_s=steps * accum * (micro_s - busy_s),
        computing_s=steps * accum * busy_s,
        stragglers_s=steps * waits_s,
        gradients_s=steps * exchange_s,
        images_s=steps * starved_s + first_batch_s,
        measuring_s=_measuring_s(recipe, place, given),
        checkpoint_s=_checkpoints_s(recipe, given, training_s, steps),
        images=steps * micro * accum * place.total,
        steps=steps,
    )


def savings(recipe: Recipe, place: Nodes, given: Assumptions) -> dict[str, float]:
    """What limits an epoch: the share of its time that would be saved if a part cost half, most first.

    That is not what most of the time goes to: computing and launching hide one another, and so do both and reading.
    """
    whole, gpu = plan_epoch(recipe, place, given), place.gpu
    faster = replace(place, gpu=replace(gpu, tflops=2 * gpu.tflops, slowness=gpu.slowness / 2))
    linked = replace(place, gpu=replace(gpu, link_gb_s=2 * gpu.link_gb_s))
    halved = {
        "GPU": plan_epoch(recipe, faster, given),
        "launches": plan_epoch(recipe, place, replace(given, launch_ms=given.launch_ms / 2)),
        "stragglers": plan_epoch(recipe, place, replace(given, jitter=given.jitter / 2)),
        "gradients": plan_epoch(
            recipe,
            linked,
            replace(
                given,
                network_gbit_s=2 * given.network_gbit_s,
                link_latency_us=given.link_latency_us / 2,
                network_latency_us=given.network_latency_us / 2,
            ),
        ),
        "images": plan_epoch(
            recipe,
            place,
            replace(given, images_per_core_s=2 * given.images_per_core_s, storage_gbit_s=2 * given.storage_gbit_s),
        ),
        "checkpoint": plan_epoch(
            recipe, place, replace(given, disk_mb_s=2 * given.disk_mb_s, upload_mb_s=2 * given.upload_mb_s)
        ),
    }
    saved = {name: 1 - epoch.seconds / whole.seconds for name, epoch in halved.items()}
    saved["measuring"] = whole.measuring_s / 2 / whole.seconds
    return dict(sorted(saved.items(), key=lambda each: each[1], reverse=True))


def training_macs(recipe: Recipe) -> int:
    """Multiply-adds of training on an image: forward, and twice as many backward, through all stages."""
    return TRAINING * sum(stage_macs(recipe.cascade, index).total for index in range(recipe.cascade.num_exits))


def image_s(recipe: Recipe, gpu: Gpu, given: Assumptions) -> float:
    """Seconds that a GPU that never waits trains on an image."""
    products_s = FLOPS_A_MAC * training_macs(recipe) / (gpu.tflops * 1e12 * given.utilisation)
    return products_s + given.other_ms / 1e3 * gpu.slowness


def overlapped_s(launching_s: float, computing_s: float) -> float:
    """Seconds of a micro-batch whose kernels are launched while others compute."""
    longer = max(launching_s, computing_s)
    return longer * math.pow(1 + math.pow(min(launching_s, computing_s) / longer, OVERLAP), 1 / OVERLAP)


def expected_maximum(count: int) -> float:
    """The largest of `count` normal numbers, on average, in standard deviations (Blom's approximation)."""
    return NormalDist().inv_cdf((count - 0.375) / (count + 0.25))


def exchange_exposed_s(recipe: Recipe, place: Nodes, given: Assumptions, micro_s: float) -> float:
    """Seconds of a step that GPUs wait for gradients, as buckets of them overlap with the last backward pass."""
    if place.total == 1:
        return 0.0
    link = Link(place.gpu.link_gb_s * 1e9 * given.link_efficiency, given.link_latency_us / 1e6)
    network = Link(given.network_gbit_s / 8 * 1e9 * given.network_efficiency, given.network_latency_us / 1e6)
    config, backward_s = recipe.cascade, micro_s * BACKWARD / TRAINING
    macs = [stage_macs(config, index).total for index in range(config.num_exits)]
    parts = [
        (GRADIENT_BYTES * stage_parameters(config, index), backward_s * macs[index] / sum(macs))
        for index in reversed(range(config.num_exits))
    ]
    buckets = make_buckets(parts, given.bucket_mib * 2**20)
    costs = [all_reduce_s(bucket.size, place.nodes, place.gpus, link, network) for bucket in buckets]
    return exposed_s(buckets, costs, backward_s)


def read_per_s(place: Nodes, given: Assumptions) -> float:
    """Images that can be read in a second for each GPU: as cores decode them, and as the node's storage gives them."""
    stored = given.storage_gbit_s / 8 * 1e9 / (given.image_kb * 1e3) / place.gpus
    return min(given.cores_per_gpu * given.images_per_core_s, stored)


def checkpoint_bytes(recipe: Recipe) -> int:
    """Weights, two moments of AdamW and, where the recipe keeps it, the average."""
    copies = 3 if recipe.train.ema_decay is None else 4
    return 4 * copies * count_parameters(recipe.cascade)


def memory_bytes(recipe: Recipe) -> float:
    """What training takes of a GPU's memory: a checkpoint's content, gradients, and activations of a micro-batch."""
    config = recipe.cascade
    tokens = sum(grid**2 + config.num_prefix_tokens for grid in config.token_grids)
    activations = tokens * config.depth * config.embed_dim * (BLOCK_BYTES + MLP_BYTES * config.mlp_ratio)
    if config.family == "t2t_vit":
        activations += SOFT_SPLIT_BYTES_A_PIXEL * config.image_size**2
    gradients = GRADIENT_BYTES * count_parameters(config)
    return checkpoint_bytes(recipe) + gradients + recipe.train.micro_batch_size * activations


def scales(place: Nodes, most: int = 1024) -> Sequence[Nodes]:
    """8, 16, ... GPUs in nodes like these; fewer than fill one stand in one node.

    Nodes whose number of GPUs is no power of two stay whole: one of them, two, four, ...
    """
    if place.gpus & (place.gpus - 1):
        nodes = [2**power for power in range(most.bit_length()) if 2**power * place.gpus <= most]
        return [replace(place, nodes=count) for count in nodes]
    counts = [2**power for power in range(3, most.bit_length())]
    return [replace(place, nodes=max(1, count // place.gpus), gpus=min(place.gpus, count)) for count in counts]


def _measuring_s(recipe: Recipe, place: Nodes, given: Assumptions) -> float:
    """Seconds that calibration images take after an epoch."""
    images = math.ceil(recipe.data.calibration_images / place.total)
    batches = math.ceil(images / recipe.data.eval_batch_size)
    computing_s = images * image_s(recipe, place.gpu, given) / TRAINING
    launching_s = batches * given.launch_ms / 1e3 / TRAINING
    return max(overlapped_s(launching_s, computing_s), images / read_per_s(place, given))


def _checkpoints_s(recipe: Recipe, given: Assumptions, training_s: float, steps: int) -> float:
    """Seconds that an epoch waits for its checkpoints: until they are on disk, and until the one before is uploaded."""
    megabytes, every = checkpoint_bytes(recipe) / 1e6, recipe.train.checkpoint_every_steps
    count = 1 if every is None else 1 + (steps - 1) // every
    return count * (megabytes / given.disk_mb_s + max(0.0, megabytes / given.upload_mb_s - training_s / count))
