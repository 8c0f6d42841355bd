"""What one node tells of itself before a long job: versions, clock, disks, GPUs, and whether it reaches the others.

Runs on the node, as an actor of `dvt doctor`.
"""

import importlib.metadata
import os
import platform
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from dvt.data.s3_client import open_filesystem
from dvt.data.s3_failures import STORAGE_FAILURES, why_failed

PACKAGES = ("ray", "torch", "torchvision", "timm", "mlflow", "optuna", "numpy", "pyarrow", "s3fs")
_GPU_QUERY = ("index", "name", "driver_version", "memory.used", "memory.total")
_ANSWER_TIMEOUT_S = 10
_TRIES = 2  # of a request to a bucket: a storage that is away is to be told, not waited for


@dataclass(frozen=True)
class Gpu:
    """One GPU as the driver tells it."""

    index: str
    name: str
    driver: str
    used_mib: float
    total_mib: float


@dataclass(frozen=True)
class NodeHealth:
    """What a node is and has.

    Attributes:
        host: Its name.
        address: The address by which Ray knows it.
        versions: Of Python, CUDA and `PACKAGES`; "none" where one is missing.
        free_gib: Free disk by folder.
        gpus: Its GPUs; none where the driver's `nvidia-smi` is missing.
        ray_gpus: How many GPUs Ray hands out there.
    """

    host: str
    address: str
    versions: dict[str, str]
    free_gib: dict[str, float]
    gpus: tuple[Gpu, ...]
    ray_gpus: float

    @property
    def told(self) -> str:
        """What a person calls it."""
        return f"{self.host} ({self.address})"


@dataclass(frozen=True)
class Rates:
    """How fast a node writes to and reads from the runs' storage, in MiB/s."""

    write: float
    read: float


class NodeProbe:
    """Looks at the node that it runs on."""

    def health(self, address: str, ray_gpus: float, folders: Sequence[str]) -> NodeHealth:
        """Everything that needs no other machine.

        Args:
            address: The address by which Ray knows the node.
            ray_gpus: How many GPUs Ray hands out there.
            folders: Where there must be room, besides the node's folder for temporary files; one that is not there yet
                counts as the nearest that is.
        """
        all_folders = dict.fromkeys((tempfile.gettempdir(), *folders))
        free = {folder: shutil.disk_usage(_existing(Path(folder))).free / 2**30 for folder in all_folders}
        return NodeHealth(socket.gethostname(), address, _versions(), free, _gpus(), ray_gpus)

    def now(self) -> float:
        """Seconds since 1970 by the node's clock."""
        return time.time()

    def reach(self, host: str, port: int) -> str | None:
        """Why a server cannot be reached from here; None if it can."""
        try:
            socket.create_connection((host, port), timeout=_ANSWER_TIMEOUT_S).close()
        except OSError as error:
            return error.strerror or str(error) or type(error).__name__
        return None

    def store(self, storage: str, name: str, num_bytes: int) -> Rates | str:
        """Write a file to the runs' storage and read it back.

        Returns:
            The rates; or what went wrong.
        """
        content = secrets.token_bytes(num_bytes)  # nothing on the way can compress it
        try:
            filesystem, root = open_filesystem(storage, _TRIES)
            filesystem.makedirs(root, exist_ok=True)
            start = time.perf_counter()
            filesystem.pipe_file(f"{root}/{name}", content)
            written = time.perf_counter()
            is_same = filesystem.cat_file(f"{root}/{name}") == content
            read = time.perf_counter()
        except STORAGE_FAILURES as error:
            return _told(error)
        mib = num_bytes / 2**20
        return Rates(mib / (written - start), mib / (read - written)) if is_same else "it gave back other bytes"

    def missing(self, storage: str, names: Sequence[str]) -> list[str] | str:
        """Which files are not to be seen from here in the runs' storage; or what went wrong."""
        try:
            filesystem, root = open_filesystem(storage, _TRIES)
            return [name for name in names if not filesystem.exists(f"{root}/{name}")]
        except STORAGE_FAILURES as error:
            return _told(error)

    def remove(self, storage: str, name: str) -> None:
        """Take away what `store` wrote, if it is there."""
        try:
            filesystem, root = open_filesystem(storage, _TRIES)
            if filesystem.exists(f"{root}/{name}"):
                filesystem.rm_file(f"{root}/{name}")
        except STORAGE_FAILURES:
            return  # told by `store` already


def _told(error: Exception) -> str:
    lines = why_failed(error).splitlines()
    return (lines[0] if lines else "") or type(error).__name__


def _versions() -> dict[str, str]:
    found = {"Python": platform.python_version(), "CUDA": torch.version.cuda or "none"}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "none"
    return found


def _gpus() -> tuple[Gpu, ...]:
    # Not torch: Ray hides the GPUs from a worker that asks for none, and a driver that hangs must not hang us.
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    command = [program, f"--query-gpu={','.join(_GPU_QUERY)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        return ()
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines() if done.returncode == 0]
    return tuple(Gpu(index, name, driver, _mib(used), _mib(total)) for index, name, driver, used, total in rows)


def _mib(cell: str) -> float:
    """A cell of memory; a GPU that is divided tells none."""
    return float(cell) if cell.replace(".", "", 1).isdigit() else 0.0


def _existing(folder: Path) -> Path:
    return folder if folder.exists() or folder == folder.parent else _existing(folder.parent)


def local_folders(storage: str, cache: str | None) -> tuple[str, ...]:
    """The folders of a node that a run fills, besides that for temporary files: Ray's, the runs' and the images' own.

    Args:
        storage: `run.storage_path`.
        cache: `data.cache_dir`.
    """
    places = (os.environ.get("RAY_TMPDIR", "/tmp/ray"), storage.removeprefix("file://"), cache)
    return tuple(place for place in places if place is not None and "://" not in place)
