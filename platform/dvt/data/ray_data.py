"""Training batches read by the cores of a whole cluster, through Ray Data: for GPU nodes that are short of cores.

Each training worker streams its own batches, one Ray task a batch on one core wherever one is free. Which images a
batch holds and how they are augmented follows from the request alone, and Ray Data is told to keep the order: the
batches are those of the local loader, bit for bit, whichever node reads which, and a task that is lost with its node
is run again. What is ahead of the training worker is bounded, in tasks and in bytes of Ray's object store; a worker
that stops asking stops the tasks. They run outside of placement groups, which training workers and trials reserve
their cores by: a cluster whose cores are all reserved is refused, as workers and tasks would wait for each other.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any, Protocol

import numpy as np
import ray
import ray.data
import torch
from numpy.typing import NDArray
from ray import cloudpickle
from ray.data.context import DataContext
from ray.util import placement_group_table

from dvt.config import ConfigError, Problem
from dvt.data.errors import DataError
from dvt.data.sets import Batch, Skipped

BATCHES_AHEAD = 4  # of each task at once; Ray Data 2.60 takes some of the bytes for what is on its way
LEAST_AHEAD = 64 * 2**20  # bytes; below it Ray Data 2.60 waits for each batch in turn
REQUESTS_A_PLAN = 100  # requests that one task hands out; one each would take Ray Data 2.60 minutes to begin an epoch

Row = dict[str, Any]


class Reader(Protocol):
    """Reads the batch of a list of indices; picklable."""

    def __getitem__(self, indices: Sequence[int]) -> Batch | DataError:
        """The batch, or what is wrong with it."""


_held: dict[str, Reader] = {}  # the one reader of a process that runs tasks, by what it is made of


def read_on_cluster(reader: Reader, requests: Sequence[Sequence[int]], num_tasks: int) -> Iterator[Batch]:
    """Read batches on the cores of the cluster, in the order of the requests.

    Close the iterator to stop the tasks before the last batch; it closes itself when nobody holds it any more.

    Args:
        reader: Reads a batch on whichever node.
        requests: The indices of each batch, equally many.
        num_tasks: Tasks at once, of one core each.

    Raises:
        ConfigError: While iterating, if placement groups reserve all cores of the cluster.
        DataError: While iterating, if a batch cannot be read.
    """
    if not requests:
        return
    _require_free_core()
    ahead = _bytes_ahead(reader, requests[0], num_tasks)
    with closing(_rows(reader, np.asarray(requests), num_tasks, ahead)) as rows:
        for row in rows:
            yield _unpack({name: values[0] for name, values in row.items()})


def _require_free_core() -> None:
    cores = ray.cluster_resources().get("CPU", 0.0)
    groups = [group for group in placement_group_table().values() if group["state"] == "CREATED"]
    reserved = sum(bundle.get("CPU", 0.0) for group in groups for bundle in group["bundles"].values())
    if cores - reserved < 1:
        rule = (
            f"must be local where no core is left to read images, got ray on a cluster whose training workers reserve "
            f"{reserved:g} of {cores:g} cores; add nodes, or lower cluster.cpus_per_worker"
        )
        raise ConfigError([Problem("data.engine", rule)])


def _bytes_ahead(reader: Reader, request: Sequence[int], num_tasks: int) -> int:
    """Most bytes of batches that wait for a worker; one image is read to see how large it is."""
    one = reader[request[:1]]
    if isinstance(one, DataError):
        raise one
    return max(LEAST_AHEAD, BATCHES_AHEAD * num_tasks * len(request) * one.images.nbytes)


def _rows(reader: Reader, requests: NDArray[np.int64], num_tasks: int, ahead: int) -> Any:
    """Batches as rows of NumPy arrays, an iterator that can be closed."""
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # Ray Data 2.60 tells of every epoch's plan
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.execution_no_progress_timeout_s = -1  # a worker may compile or measure for long and ask for nothing
    context.execution_options.preserve_order = True
    context.execution_options.resource_limits = ray.data.ExecutionResources(
        cpu=num_tasks, object_store_memory=float(ahead)
    )
    with DataContext.current(context):
        numbers = ray.data.range(len(requests), override_num_blocks=-(-len(requests) // REQUESTS_A_PLAN))
        batches = numbers.repartition(target_num_rows_per_block=1).map_batches(
            _ReadRow(reader, requests),
            batch_size=1,
            num_cpus=1,
            compute=ray.data.TaskPoolStrategy(num_tasks),
        )
        return iter(batches.iter_batches(batch_size=1, batch_format="numpy"))


class _ReadRow:
    """Reads the batch of a request's number; crosses to each task, the reader only to each process."""

    def __init__(self, reader: Reader, requests: NDArray[np.int64]) -> None:
        self._key = hashlib.sha256(cloudpickle.dumps(reader)).hexdigest()  # workers of one run have the same
        self._reader = ray.put(reader)
        self._requests = requests

    def __call__(self, row: Row) -> Row:
        request = self._requests[int(row["id"][0])].tolist()
        batch = _reader_of(self._key, self._reader)[request]
        return {name: np.asarray(value)[None] for name, value in _pack(batch).items()}


def _reader_of(key: str, reference: Any) -> Reader:
    """The reader, taken out of Ray's object store once a process: the names of a million files take a while."""
    if key not in _held:
        _held.clear()
        _held[key] = ray.get(reference)
    return _held[key]


def _pack(batch: Batch | DataError) -> Row:
    """A batch as values that Ray Data hands over without pickling; of an error its sentence."""
    if isinstance(batch, DataError):
        return {"images": np.zeros(0), "labels": np.zeros(0), "told": json.dumps({"error": str(batch)})}
    told = {"skipped": batch.skipped}
    return {"images": batch.images.numpy(), "labels": batch.labels.numpy(), "told": json.dumps(told)}


def _unpack(row: Row) -> Batch:
    told = json.loads(str(row["told"]))
    if "error" in told:
        raise DataError(told["error"])
    # Copied, so that Ray's object store can forget the batch and the worker may write to its own.
    skipped = tuple(Skipped(*each) for each in told["skipped"])
    return Batch(torch.tensor(row["images"]), torch.tensor(row["labels"]), skipped)
