"""Workers that come and go with the cluster's nodes, in numbers that share out the micro-batches of a step evenly."""

from collections.abc import Sequence
from typing import Any

from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy


class FittingWorkers(ElasticScalingPolicy):
    """Takes the largest fitting number of workers that the cluster has room for.

    Ray Train 2.60 has no public way to say which numbers fit: it would take any within its range.

    Args:
        scaling_config: With a range of workers.
        counts: The numbers that fit.
    """

    def __init__(self, scaling_config: Any, counts: Sequence[int]) -> None:
        super().__init__(scaling_config=scaling_config)
        self._counts = tuple(counts)

    def _count_possible_workers(self, reserved_resources: Any) -> int:
        room = super()._count_possible_workers(reserved_resources)
        return max((count for count in self._counts if count <= room), default=0)
