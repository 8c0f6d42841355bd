"""Stages over replicas."""

import re

import pytest

from dvt.config import ConfigError
from dvt.serving.plan import PartPlan, Replicas, ServingPlan, plan_parts


def test_a_part_a_stage_or_one_for_all() -> None:
    split = plan_parts(3, True, (32, 16, 8), ("1-4", "2", "1"))
    assert [(part.name, part.stages, part.replicas, part.max_batch_size) for part in split] == [
        ("stage-1", range(1), Replicas(1, 4), 32),
        ("stage-2", range(1, 2), Replicas(2, 2), 16),
        ("stage-3", range(2, 3), Replicas(1, 1), 8),
    ]
    (whole,) = plan_parts(3, False, (32,), ("2",))
    assert (whole.name, whole.stages) == ("stages-1-to-3", range(3))
    assert [part.max_batch_size for part in plan_parts(2, True, (4,), ("1",))] == [4, 4]


@pytest.mark.parametrize(
    ("sizes", "replicas", "message"),
    [
        ((0,), ("1",), "--max-batch-size must be at least 1, got 0"),
        ((1, 2), ("1",), "--max-batch-size must be one value for all deployments or one for each of 3, got 1,2"),
        ((1,), ("1", "2"), "--replicas must be one value for all deployments or one for each of 3, got 1,2"),
        ((1,), ("0",), "--replicas must be replicas of at least 1, such as 2 or 1-4, got '0'"),
        ((1,), ("4-2",), "--replicas must be replicas of at least 1, such as 2 or 1-4, got '4-2'"),
        ((1,), ("many",), "--replicas must be replicas of at least 1, such as 2 or 1-4, got 'many'"),
    ],
)
def test_what_does_not_fit_is_refused(sizes: tuple[int, ...], replicas: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=f"{re.escape(message)}$"):
        plan_parts(3, True, sizes, replicas)


def plan_of(parts: tuple[PartPlan, ...], cpus: float = 1.0) -> ServingPlan:
    return ServingPlan(
        model="m",
        tracking_uri=None,
        parts=parts,
        ingress_replicas=Replicas(1, 1),
        batch_wait_s=0,
        cpus_per_replica=cpus,
        use_gpu=False,
        num_calibration=None,
    )


@pytest.mark.parametrize(("cpus", "threads"), [(0.3, 1), (1.0, 1), (4.0, 4)])
def test_threads_are_the_whole_cores(cpus: float, threads: int) -> None:
    plan = plan_of((PartPlan(stages=range(1), replicas=Replicas(2, 4), max_batch_size=1),), cpus)
    assert (plan.num_threads, plan.num_replicas) == (threads, 2)


@pytest.mark.parametrize(
    ("num_exits", "is_split", "levels"), [(3, True, [4, 2, 0]), (2, True, [4, 0]), (3, False, [0])]
)
def test_early_stages_stand_back(num_exits: int, is_split: bool, levels: list[int]) -> None:
    plan = plan_of(plan_parts(num_exits, is_split, (8,), ("1",)))
    assert [plan.niceness(index) for index in range(len(plan.parts))] == levels
