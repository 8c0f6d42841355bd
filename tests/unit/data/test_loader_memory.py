"""Streaming an epoch takes no more memory at its end than near its beginning, in any process.

As a program it streams the images of a folder, and prints by how many MiB each of its processes grew. The test runs it
for itself: among other tests, processes that were forked before share their pages, and what these do would be counted.
"""

import gc
import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dvt
from dvt.config import AugmentConfig
from dvt.data import open_data, train_batches
from tests.unit.data.images import cascade, folder_config

# With names in a tuple of strings a process grows by about 3 MiB from here on, and has grown by as much before.
EARLY = 12  # batches
IMAGES, BATCH, LARGEST_GROWTH_MIB = 20_000, 100, 2
ROOT = Path(__file__).resolve().parents[3]


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


def memory_mib(pid: int) -> dict[str, float]:
    """Resident memory, and what of it no other process shares: that grows too where shared pages get written to."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    sizes = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines if line.endswith("kB")}
    return {"resident": sizes["Rss"], "private": sizes["Private_Clean"] + sizes["Private_Dirty"]}


def growth_mib(root: Path) -> list[dict[str, float]]:
    """By how much each process grew from the epoch's beginning to nearly its end."""
    augment = AugmentConfig(rand_augment=None, random_erasing=0.0)
    data = open_data(folder_config(root, calibration_images=10, augment=augment), cascade(2))
    gc.freeze()  # a collection writes to every page with objects, once, whenever it comes
    batches = train_batches(data, epoch=0, rank=0, world_size=1, batch_size=BATCH, seed=0, num_workers=2)
    used, known = [], {os.getpid()}
    for number, batch in enumerate(batches, start=1):
        assert len(batch.labels) == BATCH
        if number in (EARLY, IMAGES // BATCH - 8):  # readers end soon after they have read all
            known |= {process.pid for process in multiprocessing.active_children() if process.pid is not None}
            used.append({pid: memory_mib(pid) for pid in known})
    assert number == IMAGES // BATCH
    early, late = used
    return [{kind: late[pid][kind] - before for kind, before in early[pid].items()} for pid in early]


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's accounts of memory")
def test_memory_is_flat_over_twenty_thousand_images(many: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(dvt.__file__).parent.parent)}
    command = [sys.executable, "-m", "tests.unit.data.test_loader_memory", str(many)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=120, check=True)
    grown = json.loads(done.stdout)
    assert len(grown) == 3
    assert max(size for process in grown for size in process.values()) < LARGEST_GROWTH_MIB, grown


if __name__ == "__main__":
    print(json.dumps(growth_mib(Path(sys.argv[1]))))
