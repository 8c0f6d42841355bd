"""Batch prediction on a Ray cluster: each worker loads the model once and turns pieces of the work into parts.

The driver opens the model and ships it through Ray's object store: workers need neither the registry's address nor its
credentials, and all of them use the version that the driver saw, whatever an alias is moved to meanwhile. Ray Data
hands out the pieces, one a block, and replaces workers that are lost; a worker writes its part itself, so that what is
done is on disk, and only counts come back.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import ray
import torch
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import RayError

from dvt.config import ClusterConfig
from dvt.inference import device_name
from dvt.serving.batch_output import Counts
from dvt.serving.batch_work import Piece, pieces_of, pieces_table
from dvt.serving.errors import BatchPredictionError
from dvt.serving.part_writer import PartWriter
from dvt.serving.prediction import Classifier
from dvt.train.failures import told_error


class _Worker:
    """A worker's model, loaded once; called with a piece at a time."""

    def __init__(self, classifier: list[Any], writer: PartWriter, use_gpu: bool) -> None:
        self._writer = writer
        self._classifier: Classifier = ray.get(classifier[0])
        self._engine = self._classifier.engine(_device(use_gpu))

    def __call__(self, rows: pa.Table) -> pa.Table:
        made = [self._writer.write(piece, self._classifier, self._engine) for piece in pieces_of(rows)]
        return pa.table({"left": [each.left for each in made], "num_failed": [each.num_failed for each in made]})


def predict_on_cluster(
    classifier: Classifier, pieces: Sequence[Piece], writer: PartWriter, cluster: ClusterConfig
) -> Iterator[Counts]:
    """Make the parts of pieces, as many side by side as there are workers.

    Args:
        classifier: The model, on the CPU.
        pieces: What to do, at least one.
        writer: How.
        cluster: The most workers, and what each holds.

    Yields:
        What became of the images of a piece, as soon as its part is written.

    Raises:
        BatchPredictionError: If a part cannot be written, or workers are lost again and again.
    """
    _quieten()
    pool = ActorPoolStrategy(min_size=1, max_size=cluster.most_workers, initial_size=cluster.most_workers)
    resources = cluster.worker_resources
    made = ray.data.from_arrow([pieces_table([piece]) for piece in pieces]).map_batches(
        _Worker,
        batch_size=1,
        batch_format="pyarrow",
        compute=pool,
        num_cpus=resources["CPU"],
        num_gpus=resources.get("GPU", 0),
        # In a list, as Ray Data would fetch what it finds among the arguments itself.
        fn_constructor_args=([ray.put(classifier)], writer.without_pieces(), cluster.use_gpu),
    )
    try:
        for row in made.iter_rows():
            yield Counts(tuple(row["left"]), row["num_failed"])
    except RayError as error:
        raise BatchPredictionError(
            f"workers must be able to write all parts, got: {told_error(error)}; mend that and run the same command "
            f"again to make the parts that are missing"
        ) from error


def workers_with_room(cluster: ClusterConfig) -> int:
    """How many workers the cluster has room for now.

    Raises:
        BatchPredictionError: If it is none.
    """
    need = cluster.worker_resources
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    count = sum(min(int(node.get(name, 0) / amount + 1e-9) for name, amount in need.items()) for node in nodes)
    if count < 1:
        told = ", ".join(f"{amount:g} {name}" for name, amount in need.items())
        raise BatchPredictionError(f"a node of the cluster must have room for a worker with {told}, got none; add one")
    return count


def worker_device_name(cluster: ClusterConfig) -> str:
    """What a worker's device is called in latency profiles."""
    resources = cluster.worker_resources
    task: Any = ray.remote(_device_name).options(num_cpus=resources["CPU"], num_gpus=resources.get("GPU", 0))
    name: str = ray.get(task.remote(cluster.use_gpu))
    return name


def _device_name(use_gpu: bool) -> str:
    return device_name(_device(use_gpu))


def _device(use_gpu: bool) -> torch.device:
    return torch.device("cuda" if use_gpu else "cpu")


def _quieten() -> None:
    """Keep Ray Data's bars and notes, which would garble a job's log, to its own log file."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.ERROR)
