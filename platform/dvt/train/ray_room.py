"""How many workers the nodes of a cluster have room for, each whole on one node."""

import ray

from dvt.config import ClusterConfig


def count_room(cluster: ClusterConfig, reading: int = 0) -> int:
    """How many workers fit on the nodes that are there now, if nothing else ran.

    Args:
        cluster: What a worker takes.
        reading: Cores, 0 or 1, that are left on any node for each worker, to read its images.
    """
    need = cluster.worker_resources
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    workers = sum(min(int(node.get(name, 0) / amount + 1e-9) for name, amount in need.items()) for node in nodes)
    return min(workers, int(sum(node.get("CPU", 0) for node in nodes) / (need["CPU"] + reading) + 1e-9))


def told_need(cluster: ClusterConfig, reading: int = 0) -> str:
    """What a worker takes, in words."""
    told = ", ".join(f"{amount:g} {name}" for name, amount in cluster.worker_resources.items())
    return told + " and 1 CPU to read images" * reading
