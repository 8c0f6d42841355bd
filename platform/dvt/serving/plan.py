"""How a cascade is laid out over replicas: which stages run together, on how many of them, and on what.

Shapes: E exits.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from dvt.config import ConfigError, Problem

T = TypeVar("T")

STANDING_BACK = 4  # levels of niceness of the first part; 19 is the most, and Ray's workers have 15


@dataclass(frozen=True)
class Replicas:
    """How many processes a part has; as many as the load asks for where the two differ."""

    least: int
    most: int

    @classmethod
    def parse(cls, flag: str, text: str) -> "Replicas":
        """Of `2`, or `1-4`.

        Raises:
            ConfigError: If it is neither.
        """
        least, _, most = text.partition("-")
        try:
            replicas = cls(int(least), int(most or least))
        except ValueError:
            replicas = cls(0, 0)
        if not 1 <= replicas.least <= replicas.most:
            raise ConfigError([Problem(flag, f"must be replicas of at least 1, such as 2 or 1-4, got {text!r}")])
        return replicas


@dataclass(frozen=True, kw_only=True)
class PartPlan:
    """Stages that run together in a deployment of their own."""

    stages: range  # from 0
    replicas: Replicas
    max_batch_size: int  # images that a stage runs on at once

    @property
    def name(self) -> str:
        """Of the deployment, counted from 1 as people do."""
        first, last = self.stages[0] + 1, self.stages[-1] + 1
        return f"stage-{first}" if first == last else f"stages-{first}-to-{last}"


@dataclass(frozen=True, kw_only=True)
class ServingPlan:
    """All that the deployments must know; they open the model themselves, whenever one of them starts."""

    model: str  # models:/NAME/VERSION or a checkpoint folder, which all nodes reach
    tracking_uri: str | None = field(repr=False)  # may carry credentials
    parts: tuple[PartPlan, ...]  # in the order of the stages
    ingress_replicas: Replicas
    batch_wait_s: float  # how long the first image of a batch waits for others at most
    cpus_per_replica: float  # cores that are set aside; its whole cores are torch's threads, at least one
    use_gpu: bool
    num_calibration: int | None  # images that shares were seen on; None is what the model tells, else 1000

    @property
    def num_replicas(self) -> int:
        """Processes that run stages, at least."""
        return sum(part.replicas.least for part in self.parts)

    @property
    def num_threads(self) -> int:
        """Threads of torch in a replica."""
        return max(1, int(self.cpus_per_replica))

    def niceness(self, part_index: int) -> int:
        """How far a part stands back where parts share cores: the last not at all, so what was begun is ended first."""
        last = len(self.parts) - 1
        return round(STANDING_BACK * (last - part_index) / last) if last else 0


def plan_parts(
    num_exits: int, is_split: bool, max_batch_size: Sequence[int], replicas: Sequence[str]
) -> tuple[PartPlan, ...]:
    """One part a stage, or one for all.

    Args:
        num_exits: E.
        is_split: Whether each stage has a deployment of its own.
        max_batch_size: One number for all parts, or one for each.
        replicas: The same of replicas, as typed.

    Raises:
        ConfigError: If numbers are too small, or there are others than stated; named after the flag.
    """
    stages = [range(index, index + 1) for index in range(num_exits)] if is_split else [range(num_exits)]
    sizes = _one_each("--max-batch-size", max_batch_size, len(stages))
    counts = _one_each("--replicas", replicas, len(stages))
    if min(sizes) < 1:
        raise ConfigError([Problem("--max-batch-size", f"must be at least 1, got {min(sizes)}")])
    parsed = [Replicas.parse("--replicas", text) for text in counts]
    return tuple(
        PartPlan(stages=each, replicas=count, max_batch_size=size)
        for each, count, size in zip(stages, parsed, sizes, strict=True)
    )


def _one_each(flag: str, given: Sequence[T], num_parts: int) -> Sequence[T]:
    if len(given) not in (1, num_parts):
        told = ",".join(map(str, given))
        rule = f"must be one value for all deployments or one for each of {num_parts}, got {told}"
        raise ConfigError([Problem(flag, rule)])
    return given if len(given) == num_parts else tuple(given) * num_parts
