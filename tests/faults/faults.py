"""Faults, one function each: done to a run in the middle of training, which must come to its end afterwards.

A fault is given the run once it is past `AT_STEP`, and returns when all that a person or a cluster manager would do
about it is done: a host that died is replaced, and a job that ended is submitted again by the same command. What it
returns is a remark for the table. A new fault is one more function in `FAULTS`.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import psutil

from tests.faults.training import Training
from tests.integration.hosts import RayHost

AT_STEP = 18  # three steps after a checkpoint, four into the second epoch
OUTAGE_S, CUT_S = 60, 30
SLOW_S = 1.0  # of each request
SMALL_DISK = "64k"


@dataclass(frozen=True)
class Fault:
    """A fault, and what it needs.

    Attributes:
        do: Does it.
        hosts: How many hosts there are when the run starts.
    """

    do: Callable[[Training], str]
    hosts: int = 3


def kill_worker(training: Training) -> str:
    """SIGKILL of a worker that is not rank 0."""
    _kill(training, *training.workers()[1])
    return "a worker is started in its place"


def kill_rank_0(training: Training) -> str:
    """SIGKILL of the worker that writes checkpoints."""
    _kill(training, *training.workers()[0])
    return "a worker is started in its place"


def kill_raylet(training: Training) -> str:
    """SIGKILL of a raylet, whose host is then replaced."""
    raylet = _without_driver(training).raylet()
    assert raylet is not None
    raylet.kill()
    training.site.hosts.be(3)
    return "another host joins"


def host_leaves(training: Training) -> str:
    """A host loses its power, where the cluster has one more than the run needs."""
    _without_driver(training).die()
    return "the run goes on on the spare host"


def host_joins(training: Training) -> str:
    """A host joins that the run does not need."""
    training.site.hosts.be(4)
    return "the run takes no notice"


def kill_driver(training: Training) -> str:
    """SIGKILL of the driver; the job is submitted again."""
    head = training.site.hosts.hosts[0]
    raylet = head.raylet()
    assert raylet is not None
    drivers = [process for process in _family(head) if "jobs/train_imagenet.py" in process.cmdline()]
    assert drivers, "the driver runs on the head's host"
    for process in drivers:
        process.kill()
    assert training.ended() != 0
    training.submit()
    return "the job is submitted again"


def kill_head(training: Training) -> str:
    """The head's host loses its power, and its cluster with it; the job is submitted to a new one."""
    training.site.hosts.hosts[0].die()
    training.site.hosts.begin_again()
    assert training.process is not None
    training.process.kill()
    training.ended()
    training.submit()
    return "the job is submitted to a new cluster"


def cut_link(training: Training) -> str:
    """No packet passes between two hosts for 30 s; both reach all others."""
    network = training.site.hosts.network
    assert network is not None
    pair = [each.host for each in training.site.hosts.hosts[1:3] if each.host is not None]
    network.separate(*pair)
    time.sleep(CUT_S)
    network.join(*pair)
    return f"cut for {CUT_S} s"


def s3_busy(training: Training) -> str:
    """The S3 server answers every request by 503 for a minute."""
    relay = training.site.relay
    refused = relay.num_refused
    relay.is_busy = True
    time.sleep(OUTAGE_S)
    relay.is_busy = False
    return f"{relay.num_refused - refused} requests refused in {OUTAGE_S} s"


def s3_slow(training: Training) -> str:
    """Each request to the S3 server takes a second more, for a minute."""
    relay = training.site.relay
    passed = relay.num_passed
    relay.delay_s = SLOW_S
    time.sleep(OUTAGE_S)
    relay.delay_s = 0.0
    return f"{relay.num_passed - passed} requests in {OUTAGE_S} s"


def disk_full(training: Training) -> str:
    """There is no room for a checkpoint on any host; once there is, the job is submitted again."""
    hosts = [each.host for each in training.site.hosts.hosts if each.host is not None]
    scratch = str(training.site.hosts.scratch)
    for host in hosts:
        host.run("mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK}", "tmpfs", scratch)
    assert training.ended() != 0
    for host in hosts:
        host.run("umount", "--lazy", scratch)
    told = " ".join(training.text.split())
    assert "no space is left to write checkpoint" in told, training.text
    training.submit()
    return "told in a sentence; the job is submitted again"


FAULTS: Mapping[str, Fault] = {
    "worker-killed": Fault(kill_worker),
    "rank-0-killed": Fault(kill_rank_0),
    "raylet-killed": Fault(kill_raylet),
    "driver-killed": Fault(kill_driver),
    "head-killed": Fault(kill_head),
    "host-joins": Fault(host_joins),
    "host-leaves": Fault(host_leaves, hosts=4),
    "link-cut": Fault(cut_link),
    "s3-busy": Fault(s3_busy),
    "s3-slow": Fault(s3_slow),
    "disk-full": Fault(disk_full),
}


def _kill(training: Training, address: str, process: int) -> None:
    """Kill a process by the number that it has on its host."""
    (ray_host,) = (host for host in training.site.hosts.hosts if host.address == address)
    if ray_host.host is None:
        psutil.Process(process).kill()
    else:
        ray_host.host.run("bash", "-c", f"kill -9 {process}")


def _without_driver(training: Training) -> RayHost:
    """A host with a worker, other than the one with head, driver and controller."""
    return next(host for host in training.site.hosts.hosts[1:] if host.processes("ray::RayTrainWorker"))


def _family(ray_host: RayHost) -> list[psutil.Process]:
    """All processes of a host."""
    if ray_host.host is not None:
        return psutil.Process(ray_host.host.init).children(recursive=True)
    raylet = ray_host.raylet()
    return [] if raylet is None else raylet.children(recursive=True)
