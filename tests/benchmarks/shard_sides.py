"""Tar shards read from a disk and from a bucket, as sides of `loading_speed`: with a full, an empty and no cache, and
without one by runs of images.

The bucket is on a real S3 server of this machine. It is started on all cores and its work is not counted: a rate is of
the processor time of the loading process and its reading process alone, which is what a training node pays.
"""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from unittest import mock

from dvt.config import DataConfig
from dvt.data.folder import FolderFiles
from dvt.data.index import INDEX, read_index
from dvt.data.objects import Objects, open_objects
from dvt.data.packed import PackedImages, expect_shards
from dvt.data.packing import Packing, pack_part
from dvt.data.s3_client import open_filesystem
from tests.integration.s3_server import running_s3

BUCKET = "dvt-loading"
SHARD_BYTES = 64 * 2**20
RUN = 64  # images that stay together
CACHES = ("full cache", "empty cache", "no cache", f"no cache, runs of {RUN}")
BARS = {(f"S3, {cache}", "local shards"): 0.9 for cache in CACHES}

Ours = Callable[..., Iterator[object]]


@contextlib.contextmanager
def shard_sides(folder: Path, images: FolderFiles, ours: Ours) -> Iterator[dict[str, Callable[[], Iterator[object]]]]:
    """Pack the images, put them into a bucket, and tell how to read them from here and from there.

    Args:
        folder: Of scratch space for the shards and the caches.
        images: To be packed.
        ours: The batches of encoded images, by runs of `run` where that is given.
    """
    asked = Packing(format="tar", class_names=images.class_names, shard_bytes=SHARD_BYTES, seed=0)
    local = str(folder / "shards")
    pack_part(images, local, asked, Objects(), lambda _: None)
    with _server_on_all_cores() as remote:
        for path in sorted(Path(local).iterdir()):
            _upload(remote, path)
        warm = DataConfig(root="unused", cache_dir=str(folder / "full"))
        for _ in ours(_opened(remote, warm)):
            pass
        yield {
            "local shards": lambda: ours(_opened(local, DataConfig(root="unused"))),
            "S3, full cache": lambda: ours(_opened(remote, warm)),
            "S3, empty cache": partial(_with_empty_cache, folder, remote, ours),
            "S3, no cache": lambda: ours(_opened(remote, DataConfig(root="unused"))),
            f"S3, no cache, runs of {RUN}": lambda: ours(_opened(remote, DataConfig(root="unused")), run=RUN),
        }


@contextlib.contextmanager
def _server_on_all_cores() -> Iterator[str]:
    """The address of an empty bucket."""
    here = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    with running_s3() as server, mock.patch.dict(os.environ, server.env):
        os.sched_setaffinity(0, here)
        with contextlib.closing(server.client()) as client:
            client.create_bucket(Bucket=BUCKET)
        yield f"s3://{BUCKET}"


def _upload(remote: str, path: Path) -> None:
    filesystem, folder = open_filesystem(remote)
    filesystem.put_file(str(path), f"{folder}/{path.name}")


def _opened(address: str, config: DataConfig) -> PackedImages:
    objects = open_objects(config)
    index = read_index(f"{address}/{INDEX}", objects.read)
    expect_shards(address, index, objects)
    return PackedImages(address, index, objects)


def _with_empty_cache(folder: Path, remote: str, ours: Ours) -> Iterator[object]:
    with tempfile.TemporaryDirectory(dir=folder) as fresh:
        yield from ours(_opened(remote, DataConfig(root="unused", cache_dir=fresh)))
