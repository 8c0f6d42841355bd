"""What a run asks of the Ray cluster: workers, what each has, and what is let pass of what may fail."""

from dataclasses import dataclass

from dvt.config.problems import Rules


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """What a run asks of the Ray cluster."""

    # training workers, one process each, joined by DDP; [least, most] takes as many of them as the cluster has room for
    # now, and keeps images and learning rate of a step by train.grad_accum_steps, which are meant for the most
    num_workers: int | tuple[int, int] = 1
    use_gpu: bool = False  # whether each worker has a GPU
    cpus_per_worker: float = 1  # CPU cores reserved for each worker
    gpus_per_worker: float = 1  # share of a GPU reserved for each worker where use_gpu; 0.25 puts four on one
    max_failures: int = 3  # restarts from the last checkpoint after a worker or node is lost
    straggler_factor: float = 1.5  # a worker is slow that takes more than this times what the median worker takes
    straggler_logs: int = 3  # rows of the training metrics in which a worker must be slow before it is reported

    def __post_init__(self) -> None:
        rules = Rules()
        if isinstance(self.num_workers, int):
            rules.at_least("num_workers", self.num_workers, 1)
        else:
            least, most = self.num_workers
            rules.at_least("num_workers.0", least, 1)
            rules.require(least < most, "num_workers.1", f"must be greater than the least {least}, got {most}")
        rules.above("straggler_factor", self.straggler_factor, 1)
        rules.at_least("straggler_logs", self.straggler_logs, 1)
        rules.above("cpus_per_worker", self.cpus_per_worker, 0)
        rules.require(
            0 < self.gpus_per_worker <= 1,
            "gpus_per_worker",
            f"must be greater than 0 and at most 1, got {self.gpus_per_worker:.15g}",
        )
        rules.at_least("max_failures", self.max_failures, 0)
        rules.enforce()

    @property
    def is_elastic(self) -> bool:
        """Whether the number of workers may change while the run trains."""
        return not isinstance(self.num_workers, int)

    @property
    def worker_range(self) -> tuple[int, int]:
        """The least and the most workers."""
        return (self.num_workers, self.num_workers) if isinstance(self.num_workers, int) else self.num_workers

    @property
    def least_workers(self) -> int:
        """With fewer workers there is no training."""
        return self.worker_range[0]

    @property
    def most_workers(self) -> int:
        """The number of workers where the cluster has room for them; a step's images are meant for it."""
        return self.worker_range[1]

    @property
    def worker_resources(self) -> dict[str, float]:
        """What Ray reserves for each worker, by its names."""
        return {"CPU": self.cpus_per_worker} | ({"GPU": self.gpus_per_worker} if self.use_gpu else {})
