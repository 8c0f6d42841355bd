import pytest
import ray

from dvt.config import ClusterConfig
from dvt.search.ray_tune import room_for
from dvt.train.errors import TrainingError


@pytest.fixture(autouse=True)
def _two_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [{"Alive": True, "Resources": {"CPU": 4.0}}, {"Alive": True, "Resources": {"CPU": 3.0}}]
    monkeypatch.setattr(ray, "nodes", lambda: [*nodes, {"Alive": False, "Resources": {"CPU": 99.0}}])


def test_trials_fill_the_nodes_but_for_the_cores_that_read() -> None:
    alone = ClusterConfig(num_workers=1, cpus_per_worker=1)
    assert room_for(alone) == 7
    assert room_for(alone, reading=1) == 3  # three train, three read, one is left
    pair = ClusterConfig(num_workers=2, cpus_per_worker=2)
    assert room_for(pair) == 1  # two workers on the first node, one on the second
    assert room_for(pair, reading=1) == 1  # four cores train, two read


def test_a_cluster_without_room_to_read_is_told() -> None:
    config = ClusterConfig(num_workers=2, cpus_per_worker=3)
    assert room_for(config) == 1
    with pytest.raises(TrainingError) as raised:
        room_for(config, reading=1)
    assert str(raised.value) == (
        "the cluster must have room for the 2 workers of a trial with 3 CPU and 1 CPU to read images each, got room "
        "for 1; add nodes or lower base.cluster.num_workers"
    )
