"""How fast ranges of a shard are read: from a disk, from a bucket one by one, merged, and through the disk cache.

By hand: PYTHONPATH=platform python -m tests.benchmarks.object_reads [--rounds 5].

The bucket is on a real S3 server of this machine, so its work is on the same cores and nothing is far away; besides
ranges a second it therefore tells the processor time of the reading process alone, which is what a training node pays.
Batches of 128 ranges of 100 kB either follow each other in the shard or are drawn from all of it.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np

from dvt.data import byte_ranges
from dvt.data.cache import BlockCache
from dvt.data.objects import Objects, Range
from tests.integration.s3_server import running_s3

BUCKET, KEY = "dvt-objects", "shard-00000.tar"
NUM_RANGES, RANGE_SIZE, BATCH = 1024, 100_000, 128
GIB = 1024**3


@dataclass(frozen=True)
class Taken:
    """What one way to read all ranges took, of each."""

    wall_s: float
    cpu_s: float


def read_all(objects: Objects, address: str, order: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> Taken:
    wall, cpu = time.perf_counter(), time.process_time()
    for start in range(0, NUM_RANGES, BATCH):
        ranges: list[Range] = [(address, int(place) * RANGE_SIZE, RANGE_SIZE) for place in order[start : start + BATCH]]
        found = objects.read_many(ranges)
        assert all(isinstance(content, bytes) and len(content) == RANGE_SIZE for content in found)
    return Taken((time.perf_counter() - wall) / NUM_RANGES, (time.process_time() - cpu) / NUM_RANGES)


def opened(address: str, cache: BlockCache | None = None) -> Objects:
    """A reader with its connections made."""
    objects = Objects(cache)
    objects.expect([objects.size_and_version(address)])
    return objects


def sides(local: str, remote: str, folder: Path) -> dict[str, Callable[[bool], Taken]]:
    """Each way to read; what it is given is whether ranges are drawn from all of the shard."""
    draws = np.random.default_rng(0)
    orders = {False: np.arange(NUM_RANGES), True: draws.permutation(NUM_RANGES)}
    plain, disk = opened(remote), opened(local)
    warm = opened(remote, BlockCache(str(folder / "warm"), GIB))
    read_all(warm, remote, orders[False])

    def one_by_one(is_random: bool) -> Taken:
        with mock.patch.object(byte_ranges, "MERGE_SIZE", 0):
            return read_all(plain, remote, orders[is_random])

    def cold(is_random: bool) -> Taken:
        with tempfile.TemporaryDirectory(dir=folder) as fresh:
            return read_all(opened(remote, BlockCache(fresh, GIB)), remote, orders[is_random])

    return {
        "local disk": lambda is_random: read_all(disk, local, orders[is_random]),
        "bucket, one by one": one_by_one,
        "bucket, neighbours merged": lambda is_random: read_all(plain, remote, orders[is_random]),
        "bucket, empty cache": cold,
        "bucket, full cache": lambda is_random: read_all(warm, remote, orders[is_random]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds: int = parser.parse_args().rounds
    with running_s3() as server, tempfile.TemporaryDirectory() as name:
        os.environ.update(server.env)
        folder = Path(name)
        content = np.random.default_rng(0).bytes(NUM_RANGES * RANGE_SIZE)
        (folder / KEY).write_bytes(content)
        client = server.client()
        client.create_bucket(Bucket=BUCKET)
        client.put_object(Bucket=BUCKET, Key=KEY, Body=content)
        client.close()
        ways = sides(str(folder / KEY), f"s3://{BUCKET}/{KEY}", folder)
        print(f"| ranges of {RANGE_SIZE} bytes | in order, /s | ms CPU each | at random, /s | ms CPU each |")
        print("|---|---|---|---|---|")
        taken = {way: ([], []) for way in ways}
        for _ in range(rounds):
            for way, read in ways.items():
                for is_random in (False, True):
                    taken[way][is_random].append(read(is_random))
        for way, both in taken.items():
            cells = [
                f"{1 / statistics.median(each.wall_s for each in some):,.0f} | "
                f"{1000 * statistics.median(each.cpu_s for each in some):.2f}"
                for some in both
            ]
            print(f"| {way} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
