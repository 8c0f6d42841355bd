"""A driver that reads training batches through Ray Data and prints what it found, as JSON; run by test_ray_data.py."""

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import torch
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from dvt.config import ConfigError, DataConfig
from dvt.data import Batch, DataError, DataSets, open_data, train_batches
from dvt.data.cifar import open_cifar
from tests.unit.data.cifar import SMALL10
from tests.unit.data.cifar import write_folder as write_cifar
from tests.unit.data.images import cascade, folder_config, write_folder

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Traced:
    """Images of 2 MiB that show their index; each read leaves a line in a file."""

    log: str
    size: int

    def __len__(self) -> int:
        return self.size

    def read(self, indices: Sequence[int], *, epoch: int = 0, seed: int = 0) -> Batch:
        time.sleep(0.4 if indices[0] % 3 == 0 else 0.01)  # batches end in another order than they begin
        with Path(self.log).open("a") as file:
            file.write("read\n")
        images = torch.zeros((len(indices), 2, 1024, 1024), dtype=torch.uint8)
        images[:, 0, 0, 0] = torch.tensor(indices)
        return Batch(images, torch.tensor(indices))

    def reads(self) -> int:
        return len(Path(self.log).read_text().splitlines())


def traced(folder: Path) -> Traced:
    log = folder / "reads.txt"
    log.write_text("")
    return Traced(str(log), 200)


def sets(images: Any, engine: str) -> DataSets:
    return DataSets(images, images, images, ("a",), (0.0,), (1.0,), engine)


def batches(data: DataSets, engine: str, **changes: int) -> Any:
    values = {"epoch": 3, "first_batch": 1, "rank": 1, "world_size": 2, "batch_size": 4, "seed": 5, "num_workers": 2}
    values |= changes
    seen_images = values.pop("first_batch") * values["world_size"] * values["batch_size"]
    return train_batches(replace(data, engine=engine), seen_images=seen_images, **values)


def is_same(one: list[Batch], other: list[Batch]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a.images, b.images)
        and (a.images.dtype, a.labels.dtype) == (b.images.dtype, b.labels.dtype)
        and torch.equal(a.labels, b.labels)
        and a.skipped == b.skipped
        for a, b in zip(one, other, strict=True)
    )


def same_batches(folder: Path) -> dict[str, Any]:
    config = DataConfig(source="cifar10", root=str(folder), calibration_images=10)
    ten = open_cifar(SMALL10, str(write_cifar(folder / "ten", SMALL10)), config, cascade(10))
    birds = write_folder(folder / "birds", {"emu": 20, "owl": 20}, {"emu": 2, "owl": 2})
    for index in range(8):
        (birds / f"train/emu/{index:03d}.jpg").write_bytes(b"")
    opened = open_data(folder_config(birds), cascade(2))
    told = {}
    for name, data in (("cifar", ten), ("folder", opened)):
        local = list(batches(data, "local", num_workers=0))
        told[name] = is_same(local, list(batches(data, "ray")))
        told[f"{name} batches"] = len(local)
        told[f"{name} skipped"] = sum(len(batch.skipped) for batch in local)
    images = traced(folder)
    slow = [sets(images, engine) for engine in ("local", "ray")]
    told["slow and fast"] = is_same(*(list(batches(data, data.engine, first_batch=12)) for data in slow))
    return told


def errors(folder: Path) -> list[str]:
    birds = write_folder(folder / "none", {"emu": 8, "owl": 8}, {"emu": 1, "owl": 1})
    data = open_data(folder_config(birds), cascade(2))
    for path in birds.glob("train/*/*.jpg"):
        path.write_bytes(b"")
    found = []
    for engine in ("local", "ray"):
        try:
            list(batches(data, engine, first_batch=0, num_workers=1))
        except DataError as error:
            found.append(str(error))
    return found


def back_pressure(folder: Path) -> dict[str, Any]:
    """A worker that takes one batch and waits, then gives up; then one that takes the next epoch."""
    images = traced(folder)
    stream = batches(sets(images, "ray"), "ray", rank=0, world_size=1, first_batch=0)
    first = next(stream)
    last, reads = -1, images.reads()
    while reads != last:  # until nothing is read any more
        time.sleep(2)
        last, reads = reads, images.reads()
    second = next(stream)
    stream.close()
    time.sleep(1)
    closed = images.reads()
    time.sleep(1)
    local = batches(sets(images, "local"), "local", rank=0, world_size=1, first_batch=0, num_workers=0)
    return {
        "reads": reads,
        "same": is_same([first, second], [next(local), next(local)]),
        "after closing": images.reads() - 2 - closed,
        "free cores": free_cores(),
    }


def free_cores() -> float:
    end = time.monotonic() + 10
    while time.monotonic() < end and ray.available_resources().get("CPU", 0) < 3:
        time.sleep(0.1)
    return float(ray.available_resources().get("CPU", 0))


@ray.remote
class Trial:
    """As a trial of Ray Tune: all of a placement group that also catches its tasks."""

    def read(self, images: Traced) -> list[int]:
        stream = batches(sets(images, "ray"), "ray", first_batch=22)
        return [int(batch.labels[0]) for batch in stream]


def within_a_placement_group(folder: Path) -> bool:
    """Two trials take all but one core of the three."""
    images = traced(folder)
    group = placement_group([{"CPU": 1}, {"CPU": 1}])
    ray.get(group.ready())
    trials = [
        Trial.options(
            num_cpus=1,
            scheduling_strategy=PlacementGroupSchedulingStrategy(
                group, placement_group_bundle_index=index, placement_group_capture_child_tasks=True
            ),
        ).remote()
        for index in range(2)
    ]
    found = ray.get([trial.read.remote(images) for trial in trials], timeout=120)
    for trial in trials:
        ray.kill(trial)
    remove_placement_group(group)
    local = batches(sets(images, "local"), "local", first_batch=22, num_workers=0)
    return bool(found == [[int(batch.labels[0]) for batch in local]] * 2)


def without_a_core(folder: Path) -> str:
    """What is said where a placement group holds all three cores."""
    group = placement_group([{"CPU": 3}])
    ray.get(group.ready())
    try:
        next(batches(sets(traced(folder), "ray"), "ray"))
    except ConfigError as error:
        return str(error)
    finally:
        remove_placement_group(group)
    return ""


def main() -> None:
    ray.init(runtime_env={"py_modules": [str(ROOT / "platform" / "dvt")]}, log_to_driver=False, logging_level="ERROR")
    told: dict[str, Any] = {}
    for look in (same_batches, errors, back_pressure, within_a_placement_group, without_a_core):
        begun = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="dvt-") as folder:
            told[look.__name__] = look(Path(folder))
        sys.stderr.write(f"{look.__name__} took {time.monotonic() - begun:.1f} s\n")
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main()
