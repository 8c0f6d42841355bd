"""How long an embedded scene takes on one core; by hand: PYTHONPATH=platform python tests/benchmarks/scenes.py."""

import time

import torch

from dvt.config import CascadeConfig, DataConfig, StageConfig
from dvt.data import open_data

TARGET_US = 150
BATCH, BATCHES = 64, 64

torch.set_num_threads(1)
for image_size in (28, 40):
    stages = (StageConfig(token_grid=4),)
    cascade = CascadeConfig(image_size=image_size, in_chans=1, num_classes=10, stages=stages)
    train = open_data(DataConfig(source="embedded", train_images=BATCH * BATCHES), cascade).train
    train.read([0])  # digits are enlarged once
    start = time.process_time()
    for batch in range(BATCHES):
        train.read(range(batch * BATCH, (batch + 1) * BATCH))
    scene_us = (time.process_time() - start) / (BATCH * BATCHES) * 1e6
    print(f"{image_size} px: {scene_us:.0f} us a scene, {TARGET_US / scene_us:.1f} times as fast as the target")
