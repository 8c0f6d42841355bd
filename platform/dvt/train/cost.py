"""What a run has cost so far, in hours of the devices that it holds, over all its tries.

A try's seconds are counted by its workers and kept in the run's folder as each epoch ends, so that what a crash lost is
counted as far as the last epoch. Waiting for the cluster costs nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from dvt.config import Recipe
from dvt.train.storage import RunFolder

ELAPSED = "train/elapsed_s"  # since the workers of this try began
NUM_WORKERS = "train/num_workers"  # of this try
_FOLDER = "tries"  # in the run's folder


@dataclass
class CostMeter:
    """Turns what workers report of a try into the cost of the run so far.

    Attributes:
        folder: Keeps the seconds of each try, a file each.
        unit: `gpu` or `cpu`.
        num_devices: How many of them the run holds with its most workers.
        most_workers: How many these are; a try with fewer counts for so much less.
    """

    folder: RunFolder
    unit: str
    num_devices: float
    most_workers: int
    _earlier_s: float = 0.0
    _try: int = 0
    _last_s: float = field(default=float("inf"))  # so that the first report begins a try

    @classmethod
    def of(cls, recipe: Recipe, folder: RunFolder) -> "CostMeter":
        """The meter of a run: GPUs where workers have any, else cores."""
        resources = recipe.cluster.worker_resources
        unit = "gpu" if resources.get("GPU") else "cpu"
        place = replace(folder.child(_FOLDER), lock=None)  # a lock crosses no process border
        most = recipe.cluster.most_workers
        return cls(place, unit, most * float(resources[unit.upper()]), most)

    def add(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """The run's cost with a report of its workers; kept where an epoch ended.

        Args:
            metrics: With `train/elapsed_s`, which starts anew in each try; `train/num_workers` unless all are there.

        Returns:
            `cost/gpu_hours` or `cost/cpu_hours`; nothing where the report tells no time.
        """
        if ELAPSED not in metrics:
            return {}
        elapsed_s = metrics[ELAPSED] * metrics.get(NUM_WORKERS, self.most_workers) / self.most_workers
        if elapsed_s < self._last_s:  # the workers were started again, or this process was
            if self._try:
                self.folder.write(f"{self._try:04d}", str(self._last_s))
            known = _read(self.folder)
            self._earlier_s, self._try = sum(known), len(known) + 1
        self._last_s = elapsed_s
        if "epoch" in metrics:
            self.folder.write(f"{self._try:04d}", str(elapsed_s))
        return {f"cost/{self.unit}_hours": (self._earlier_s + elapsed_s) * self.num_devices / 3600}


def read_seconds(folder: RunFolder) -> list[float]:
    """The seconds of each try of a run, as far as its last epoch's end; of one with fewer workers so much less."""
    return _read(folder.child(_FOLDER))


def _read(place: RunFolder) -> list[float]:
    if not place.filesystem.exists(place.path):  # an empty prefix of a bucket is none
        return []
    names = sorted(path.rstrip("/").rpartition("/")[2] for path in place.filesystem.ls(place.path, detail=False))
    return [float(place.read(name)) for name in names]
