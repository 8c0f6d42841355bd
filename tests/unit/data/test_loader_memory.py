"""Streaming an epoch takes no more memory at its end than near its beginning, in any process."""

import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dvt.config import AugmentConfig
from dvt.data import open_data, train_batches
from tests.unit.data.images import cascade, folder_config

# With names in a tuple of strings a reading process grew by 6 MiB.
IMAGES, BATCH, LARGEST_GROWTH_MIB = 20_000, 100, 2


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """20,000 names of a few small JPEGs."""
    root = tmp_path / "many"
    for part, count in (("train", IMAGES // 2 + 5), ("val", 1)):
        for name in ("emu", "owl"):
            folder = root / part / name
            folder.mkdir(parents=True)
            pixels = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{0:060d}.jpg")
            for number in range(1, count):
                os.link(folder / f"{0:060d}.jpg", folder / f"{number:060d}.jpg")
    return root


def own_mib(pid: int) -> float:
    """Memory that a process shares with no other: it grows too where pages that were shared get written to."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's accounts of memory")
def test_memory_is_flat_over_twenty_thousand_images(many: Path) -> None:
    augment = AugmentConfig(rand_augment=None, random_erasing=0.0)
    config = folder_config(many, calibration_images=10, augment=augment)
    batches = train_batches(
        open_data(config, cascade(2)),
        epoch=0,
        rank=0,
        world_size=1,
        batch_size=BATCH,
        seed=0,
        num_workers=2,
    )
    used, known = [], {os.getpid()}
    for number, batch in enumerate(batches, start=1):
        assert len(batch.labels) == BATCH
        if number in (IMAGES // BATCH // 4, IMAGES // BATCH - 8):  # readers end soon after they have read all
            known |= {process.pid for process in multiprocessing.active_children() if process.pid is not None}
            used.append({pid: own_mib(pid) for pid in known})
    assert number == IMAGES // BATCH
    early, late = used
    assert len(early) == 3
    grown = {pid: late[pid] - early[pid] for pid in early}
    assert max(grown.values()) < LARGEST_GROWTH_MIB, grown
