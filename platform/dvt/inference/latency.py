"""What a stage takes on a device, in seconds an image: measured once, kept with the checkpoint, spent as a budget.

Multiply-adds are the same everywhere, seconds are not: a profile names the device it was measured on, and only serves
there. A file holds one profile for each device.

Shapes: E exits, P batch sizes.
"""

import json
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Self

import torch

from dvt.config import ConfigError, Problem
from dvt.models import Cascade

LATENCY = "latency.json"  # beside the checkpoint's own files
DEFAULT_BATCH_SIZES = (1, 8, 32, 128)
QUICK_BATCH_SIZES = (1, 8)  # of a measurement that somebody waits for
QUICK_REPEATS = 2


@dataclass(frozen=True, kw_only=True)
class LatencyProfile:
    """Seconds of each stage at several batch sizes on one device.

    Raises:
        ValueError: If there is not one positive number for each batch size and stage.
    """

    device: str  # see `device_name`
    torch_version: str  # that it was measured with
    batch_sizes: tuple[int, ...]  # (P,), images that a stage runs on at once
    stage_seconds: tuple[tuple[float, ...], ...]  # (P, E), seconds an image of each stage alone

    def __post_init__(self) -> None:
        num_exits = {len(row) for row in self.stage_seconds}
        is_whole = len(self.stage_seconds) == len(self.batch_sizes) > 0 and len(num_exits) == 1
        if not is_whole or not all(seconds > 0 for row in self.stage_seconds for seconds in row):
            raise ValueError(
                f"stage_seconds must hold one positive number for each stage in each of {len(self.batch_sizes)} "
                f"batch sizes, got {self.stage_seconds}"
            )

    def seconds_per_exit(self, batch_size: int | None = None) -> tuple[float, ...]:
        """Seconds an image of leaving at each exit, all stages up to it together, (E,).

        Args:
            batch_size: One of the profile's; None is the one at which the whole cascade is fastest, which is what
                `EarlyExit` comes to with its queues full.

        Raises:
            ValueError: If the profile has no such batch size.
        """
        if batch_size is None:
            return min((tuple(accumulate(row)) for row in self.stage_seconds), key=lambda row: row[-1])
        if batch_size not in self.batch_sizes:
            raise ValueError(f"batch_size must be one of {', '.join(map(str, self.batch_sizes))}, got {batch_size}")
        return tuple(accumulate(self.stage_seconds[self.batch_sizes.index(batch_size)]))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The profile that `dataclasses.asdict` gave `data` from."""
        return cls(
            device=data["device"],
            torch_version=data["torch_version"],
            batch_sizes=tuple(data["batch_sizes"]),
            stage_seconds=tuple(tuple(map(float, row)) for row in data["stage_seconds"]),
        )


@torch.inference_mode()
def measure_latency(
    cascade: Cascade, batch_sizes: Sequence[int] = DEFAULT_BATCH_SIZES, repeats: int = 5
) -> LatencyProfile:
    """Run every stage on noise, as the stages of a cascade follow each other.

    Args:
        cascade: The model, on the device to measure; it is put into evaluation mode.
        batch_sizes: Images that a stage runs on at once.
        repeats: Timed runs, of which the median counts; one more before them warms up.

    Raises:
        ValueError: If a batch size or `repeats` is below 1.
    """
    if repeats < 1 or not batch_sizes or min(batch_sizes) < 1:
        raise ValueError(f"batch_sizes and repeats must be at least 1, got {list(batch_sizes)} and {repeats}")
    device = next(cascade.parameters()).device
    cascade.eval()
    sizes = sorted(set(batch_sizes))
    rows = []
    for size in sizes:
        runs = [_time_stages(cascade, size, device) for _ in range(repeats + 1)][1:]
        rows.append(tuple(statistics.median(run[index] for run in runs) / size for index in range(len(runs[0]))))
    return LatencyProfile(
        device=device_name(device),
        torch_version=torch.__version__,
        batch_sizes=tuple(sizes),
        stage_seconds=tuple(rows),
    )


def device_name(device: torch.device) -> str:
    """The name that a device's profile is found by: the GPU's, or the processor's and the number of torch's threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    return f"{_processor()}, {torch.get_num_threads()} threads"


def read_profiles(folder: Path) -> tuple[LatencyProfile, ...]:
    """The profiles of a checkpoint folder, one a device; none where nothing was measured.

    Raises:
        ConfigError: If the file holds something else.
    """
    path = folder / LATENCY
    if not path.exists():
        return ()
    try:
        return tuple(map(LatencyProfile.from_dict, json.loads(path.read_text(encoding="utf-8"))["profiles"]))
    except (KeyError, TypeError, ValueError) as error:
        rule = f"must hold latency profiles, got others ({error}); remove it and run dvt profile again"
        raise ConfigError([Problem(str(path), rule)]) from error


def profile_of(profiles: Iterable[LatencyProfile], device: torch.device) -> LatencyProfile | None:
    """The profile that was measured on this device; None where there is none."""
    name = device_name(device)
    return next((profile for profile in profiles if profile.device == name), None)


def keep_profile(folder: Path, profile: LatencyProfile) -> None:
    """Write a profile into a checkpoint folder, in place of an earlier one of the same device."""
    profiles = {known.device: known for known in read_profiles(folder)} | {profile.device: profile}
    partial = folder / f".{LATENCY}.partial"
    text = json.dumps({"profiles": [asdict(each) for each in profiles.values()]}, indent=1)
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(folder / LATENCY)


def _time_stages(cascade: Cascade, batch_size: int, device: torch.device) -> list[float]:
    """Seconds of each stage on one batch, (E,)."""
    config = cascade.config
    images = torch.randn(batch_size, config.in_chans, config.image_size, config.image_size, device=device)
    seconds, upstream = [], None
    for index in range(config.num_exits):
        _wait_for(device)
        start = time.perf_counter()
        upstream = cascade.stage(index, images, upstream)
        _wait_for(device)
        seconds.append(time.perf_counter() - start)
    return seconds


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _processor() -> str:
    """The processor's own name, where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "cpu")
