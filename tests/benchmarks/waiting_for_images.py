"""Whether a GPU waits for images: steps on loaded batches beside steps on one that is there, taking turns.

By hand, on a machine with a GPU: PYTHONPATH=platform python -m tests.benchmarks.waiting_for_images [--workers 14].

The published recipe of DVT on T2T-ViT-12 (RandAugment, erasing, mixup, CutMix, EMA) in bfloat16. Images are those of
`loading_speed`, read by processes and copied ahead. A ratio of 1 is a GPU that never waits.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from dvt.config import DataConfig, Recipe, TrainConfig
from dvt.data import Batch, DataSets, OnDevice, prefetched, train_batches
from dvt.data.image_set import FileImages
from dvt.data.transforms import MEAN, STD
from dvt.models import VARIANTS
from dvt.train.state import TrainingState
from dvt.train.step import Stepper, StepSums
from tests.benchmarks.loading_speed import make_images

VARIANT = "dvt_t2t_vit_12"


def steps(stepper: Stepper, batches: Iterator[Batch], count: int) -> float:
    """Images in a second of `count` steps."""
    sums = StepSums.zeros(stepper.recipe.cascade.num_exits, stepper.device)
    stepper.step([next(batches)], sums)  # the first one waits for processes to begin
    torch.cuda.synchronize()
    start, before = time.perf_counter(), sums.images
    for _ in range(count):
        stepper.step([next(batches)], sums)
    torch.cuda.synchronize()
    return (sums.images - before) / (time.perf_counter() - start)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=14)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    device = torch.device("cuda")
    with tempfile.TemporaryDirectory() as scratch:
        files = make_images(Path(scratch), asked.images)
        indices = np.resize(np.arange(asked.images), (asked.steps + 4) * asked.batch_size)  # files that are in memory
        recipe = Recipe(
            name="waiting",
            cascade=VARIANTS[VARIANT],
            data=DataConfig(root=scratch, loader_workers=asked.workers),
            train=TrainConfig(micro_batch_size=asked.batch_size),
        )
        train = FileImages(files, indices, recipe.data, recipe.cascade, is_training=True)
        data = DataSets(train, train, train, files.class_names, MEAN[3], STD[3])
        state = TrainingState.create(recipe, 1000, device)
        stepper = Stepper(recipe, state.model, state, OnDevice.of(recipe, data), device, rank=0)
        arguments = {"rank": 0, "world_size": 1, "batch_size": asked.batch_size, "seed": 0}
        rates: dict[str, list[float]] = {"loaded": [], "there": []}
        for epoch in range(asked.rounds + 1):
            batches = train_batches(data, epoch=epoch, seen_images=0, num_workers=asked.workers, **arguments)
            loaded = prefetched(batches, device)
            one = next(loaded)
            for name, given in (("loaded", loaded), ("there", itertools.repeat(one))):
                rate = steps(stepper, given, asked.steps)
                if epoch:  # the first one warms up
                    rates[name].append(rate)
            del batches, loaded
    told = f"{asked.workers} workers, {asked.batch_size} a batch"
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {told}")
    for name, each in rates.items():
        print(f"  {name}: {statistics.median(each):.0f} images/s")
    ratios = [loaded / there for loaded, there in zip(rates["loaded"], rates["there"], strict=True)]
    print(f"  loaded over there: {statistics.median(ratios):.3f}, from {min(ratios):.3f} to {max(ratios):.3f}")


if __name__ == "__main__":
    main()
