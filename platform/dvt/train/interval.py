"""What the steps since the last log came to, over all workers: the metrics of a row.

Reading them waits for the device, once a log; everything else of a step is left there.
"""

import socket
import time
from collections.abc import Iterator

import torch

from dvt.data import Batch
from dvt.train.cost import ELAPSED, NUM_WORKERS
from dvt.train.node_usage import node_usage
from dvt.train.pace import Pace, StragglerWatch
from dvt.train.step import Stepper, StepSums
from dvt.train.worker import Worker, add_up, gather


class Timed(Iterator[Batch]):
    """Batches, with the time spent waiting for them and the time since the first was asked for, in seconds."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches
        self._start = time.perf_counter()
        self.waited_s = 0.0

    def __next__(self) -> Batch:
        asked = time.perf_counter()
        batch = next(self._batches)
        self.waited_s += time.perf_counter() - asked
        return batch

    @property
    def elapsed_s(self) -> float:
        """Since the first was asked for."""
        return time.perf_counter() - self._start


def train_metrics(
    stepper: Stepper, sums: StepSums, timed: Timed, worker: Worker, watch: StragglerWatch
) -> dict[str, float]:
    """The metrics of the steps in `sums`; losses and top-1 are of those that counted, and not there if none did.

    The state is told how many were passed over.
    """
    state, num_exits, passed = stepper.state, len(sums.per_exit), sums.passed_over
    seen = sums.counted.new_tensor([sums.images])
    own = torch.cat((sums.loss[None], sums.per_exit, sums.correct, sums.counted, seen))
    totals = torch.cat((add_up(own.double(), worker), torch.stack((passed.steps, passed.in_a_row))))
    loss, *rest, counted, micro_batches, images, steps, in_a_row = totals.tolist()
    state.skipped_steps += int(steps)
    state.skipped_in_a_row = int(in_a_row)
    metrics = {
        "train/lr": state.optimizer.param_groups[0]["lr"],
        "train/images_per_s": images / timed.elapsed_s,
        "train/data_wait_s": timed.waited_s,
        "train/skipped_steps": float(state.skipped_steps),
        NUM_WORKERS: float(worker.world_size),
    }
    if micro_batches:
        metrics["train/loss"] = loss / micro_batches
        for index in range(num_exits):
            metrics[f"train/exit_{index + 1}/loss"] = rest[index] / micro_batches
            metrics[f"train/exit_{index + 1}/top1"] = rest[num_exits + index] / counted
    if worker.device.type == "cuda":
        metrics["train/gpu_memory_gib"] = torch.cuda.max_memory_allocated(worker.device) / 2**30
    return metrics | _of_workers(stepper, timed, worker, watch)


def _of_workers(stepper: Stepper, timed: Timed, worker: Worker, watch: StragglerWatch) -> dict[str, float]:
    """How busy each node is, told once a node, how fast each worker is, and how long the first has trained."""
    usage = node_usage() if worker.local_rank == 0 else {}
    pace = Pace(socket.gethostname(), timed.waited_s + stepper.clock.take())
    told = gather((worker.node_rank, usage, pace, time.perf_counter() - worker.begun_s), worker)
    metrics = {f"system/node_{node}/{name}": value for node, usages, *_ in told for name, value in usages.items()}
    metrics[ELAPSED] = told[0][3]
    return metrics | watch.compare([pace for _, _, pace, _ in told], stepper.state.step, is_first=worker.rank == 0)
