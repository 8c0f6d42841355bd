"""Joining a Ray cluster, or starting a local Ray where there is none, so that every worker finds `dvt`."""

import logging
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import ray
from ray.exceptions import AuthenticationError

import dvt
from dvt.config import ClusterConfig, ConfigError, Problem
from dvt.config.logs import chosen_format
from dvt.config.worker_process import worker_hook
from dvt.train.errors import Terminated

_ACCELERATOR = "accelerator_type:"  # how Ray 2.60 names a node's kind of GPU among its resources


class ClusterError(RuntimeError):
    """There is a Ray cluster to join, but it cannot be joined."""


@contextmanager
def connected(config: ClusterConfig, has_dashboard: bool = False) -> Iterator[None]:
    """Be a driver of the cluster while the context lasts.

    The cluster is the one of RAY_ADDRESS or of a submitted job, else one that runs on this machine, else a new local
    Ray. The package is shipped with the job: nodes need not have it installed.

    Args:
        config: What a run asks for.
        has_dashboard: Whether a new local Ray starts its dashboard, whose State API ends what stopped trials leave.

    Raises:
        ClusterError: If there is a cluster, but it does not let this process in.
        ConfigError: If a new local Ray cannot give the workers what the recipe asks for.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray 2.60 warns without it
    # Ray 2.60 warns each local start that it protects the cluster by a token, as it should.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    # Workers' own output stays in Ray's log folder: what a person needs is printed here.
    settings: dict[str, Any] = {
        "runtime_env": {
            "py_modules": [str(Path(dvt.__file__).parent)],
            "worker_process_setup_hook": worker_hook(chosen_format()),
        },
        "log_to_driver": False,
        "logging_level": logging.WARNING,
    }
    try:
        # Not address="auto", which would also join the private Ray of another command on this machine.
        ray.init(include_dashboard=has_dashboard, **settings)
    except (ConnectionError, AuthenticationError) as error:
        raise ClusterError(_unreachable(error)) from error
    is_told = False

    def on_term(number: int, frame: FrameType | None) -> None:
        nonlocal is_told
        is_told = True
        raise Terminated

    signal.signal(signal.SIGTERM, on_term)  # set now, as Ray 2.60 sets its own, which aborts
    try:
        node = ray._private.worker.global_worker.node  # Ray 2.60 has no public name for it
        if node is not None and node.head:  # started here
            _check_resources(config)
        yield
    except KeyboardInterrupt as error:  # what Ray 2.60 makes of what a handler raises while it waits
        if is_told:
            raise Terminated from error
        raise
    finally:
        ray.shutdown()


def describe_nodes() -> list[dict[str, Any]]:
    """What there is of each node of the connected cluster: cores, GPUs, memory in GiB, what kind of GPU."""
    return [_node(node["NodeManagerHostname"], node["Resources"]) for node in ray.nodes() if node["Alive"]]


def _node(host: str, resources: Mapping[str, float]) -> dict[str, Any]:
    kinds = [name.removeprefix(_ACCELERATOR) for name in resources if name.startswith(_ACCELERATOR)]
    return {
        "host": host,
        "num_cpus": resources.get("CPU", 0.0),
        "num_gpus": resources.get("GPU", 0.0),
        "memory_gib": round(resources.get("memory", 0.0) / 2**30, 1),
        "accelerators": kinds,
    }


def _unreachable(error: Exception) -> str:
    address = os.environ.get("RAY_ADDRESS")
    asked = f"the Ray cluster at {address} (RAY_ADDRESS)" if address else "the Ray cluster on this machine"
    told = next(iter(str(error).splitlines()), type(error).__name__).strip().rstrip(".")
    return (
        f"{asked} must let this process in, got: {told}; check that it runs (`ray stop` forgets one that "
        f"does not), and that RAY_AUTH_MODE and its token are as on the cluster"
    )


def _check_resources(config: ClusterConfig) -> None:
    """A local Ray never grows, so workers that do not fit would wait for ever."""
    found = ray.cluster_resources()
    problems = []
    cpus = config.least_workers * config.cpus_per_worker
    if cpus > found.get("CPU", 0):
        rule = (
            f"must be at most {int(found.get('CPU', 0) // config.cpus_per_worker)} on this machine's "
            f"{found.get('CPU', 0):g} CPU cores with cluster.cpus_per_worker {config.cpus_per_worker:g}, "
            f"got {config.least_workers}"
        )
        problems.append(Problem("cluster.num_workers", rule))
    if config.use_gpu and config.least_workers > found.get("GPU", 0):
        rule = f"must be at most {found.get('GPU', 0):g}, the GPUs of this machine, got {config.least_workers}"
        problems.append(Problem("cluster.num_workers", rule))
    if problems:
        raise ConfigError(problems)
