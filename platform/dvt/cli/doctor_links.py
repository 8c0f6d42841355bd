"""How fast the workers of a run add up their gradients, measured as Ray Train would join them."""

import time
from statistics import median
from typing import Any

import ray
import torch
import torch.distributed
from ray import train as ray_train
from ray.train.torch import TorchTrainer, get_device

from dvt.cli.doctor_rules import LinkSpeed
from dvt.config import ClusterConfig
from dvt.train.failures import told_error
from dvt.train.ray_network import PinnedConfig
from dvt.train.ray_room import count_room, told_need

NUM_BYTES = 64 * 2**20  # as a few buckets of gradients
_NUM_WARMUPS, _NUM_ROUNDS = 2, 8


def measure_links(cluster: ClusterConfig, folder: str, timeout_s: float) -> LinkSpeed | str | None:
    """All-reduce between as many workers as a run has.

    Args:
        cluster: What the run asks for.
        folder: A folder of the driver's node for Ray Train's own notes.
        timeout_s: How long workers may take to join, and to answer one another.

    Returns:
        The speed; None where there is one worker; or what went wrong.
    """
    if cluster.most_workers == 1:
        return None
    free = ray.available_resources()
    for name, each in cluster.worker_resources.items():
        needed = cluster.most_workers * each
        if needed > free.get(name, 0):  # Ray Train would wait for it
            return f"{cluster.most_workers} workers need {needed:g} {name}, of which {free.get(name, 0):g} are free now"
    if (room := count_room(cluster)) < cluster.most_workers:
        return f"{cluster.most_workers} workers need {told_need(cluster)} each, for which nodes have room {room} times"
    answer: Any = ray.remote(_Answer).options(num_cpus=0).remote()
    trainer = TorchTrainer(
        _work,
        train_loop_config={"answer": answer},
        torch_config=PinnedConfig(timeout_s=max(1, int(timeout_s))),
        scaling_config=ray_train.ScalingConfig(
            num_workers=cluster.most_workers, use_gpu=cluster.use_gpu, resources_per_worker=cluster.worker_resources
        ),
        run_config=ray_train.RunConfig(
            name="links",
            storage_path=folder,
            # Else it tries without end. Ray 2.60 shows mypy another class.
            failure_config=ray_train.FailureConfig(controller_failure_limit=0),  # type: ignore[call-arg]
        ),
    )
    try:
        trainer.fit()
    except ray_train.TrainingFailedError as error:
        return told_error(error)
    speed: LinkSpeed = ray.get(answer.get.remote())
    return speed


class _Answer:
    """Takes the speed from the first worker to the driver: Ray Train keeps only reports with a checkpoint."""

    def __init__(self) -> None:
        self._speed: LinkSpeed | None = None

    def put(self, speed: LinkSpeed) -> None:
        self._speed = speed

    def get(self) -> LinkSpeed | None:
        return self._speed


def _work(config: dict[str, Any]) -> None:
    device = get_device()
    tensor = torch.ones(NUM_BYTES // 4, device=device)
    seconds = []
    for _ in range(_NUM_WARMUPS + _NUM_ROUNDS):
        torch.distributed.barrier()
        start = time.perf_counter()
        torch.distributed.all_reduce(tensor, op=torch.distributed.ReduceOp.MAX)  # which leaves the ones as they are
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    if torch.distributed.get_rank() == 0:
        size, backend = torch.distributed.get_world_size(), torch.distributed.get_backend()
        speed = LinkSpeed(size, backend, NUM_BYTES, median(seconds[_NUM_WARMUPS:]))
        ray.get(config["answer"].put.remote(speed))
