"""Faults, one function each: done to a run in the middle of training, which must come to its end afterwards.

A fault is given the run once it is past `AT_STEP`, and returns when all that a person or a cluster manager would do
about it is done: a host that died is replaced, and a job that ended is submitted again by the same command. What it
returns is a remark for the table. A new fault is one more function in `FAULTS`.
"""

import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import psutil

from tests.faults.process import SMALL_DISK_BYTES, kill, run_python, slowed
from tests.faults.training import LONG, SHORT, SLOW, Length, Training
from tests.integration.hosts import RayHost

AT_STEP = 18  # three steps after a checkpoint, and not at the start of an epoch
OUTAGE_S, CUT_S = 60, 30
SLOW_S = 1.0  # of each request
BAD_STEPS = 3
# Run in a worker: the loss of its next {count} steps is NaN.
POISON = """
import dataclasses as _dataclasses, dvt.train.step as _step
_loss, _left = _step.cascade_loss, [{count}]
def _poisoned(*args):
    loss = _loss(*args)
    _left[0] -= 1
    return _dataclasses.replace(loss, total=loss.total * float("nan")) if _left[0] >= 0 else loss
_step.cascade_loss = _poisoned
"""


@dataclass(frozen=True)
class Fault:
    """A fault, and what it needs.

    Attributes:
        do: Does it.
        hosts: How many hosts there are when the run starts.
        words: Options of the run, beside those of all.
        length: Of the run, and of the undisturbed one that it is compared with.
        has_small_disks: Whether temporary files are on small disks of their own, which can be filled.
        passes_over: Whether the run takes fewer steps that count, and so ends elsewhere than the undisturbed one: it is
            to be no further from it than undisturbed runs of other seeds.
    """

    do: Callable[[Training], str]
    hosts: int = 3
    words: tuple[str, ...] = ()
    length: Length = SHORT
    has_small_disks: bool = False
    passes_over: bool = False


def kill_worker(training: Training) -> str:
    """SIGKILL of a worker that is not rank 0."""
    kill(*training.worker(1))
    return "a worker is started in its place"


def kill_rank_0(training: Training) -> str:
    """SIGKILL of the worker that writes checkpoints."""
    kill(*training.worker(0))
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


def hosts_come_and_go(training: Training) -> str:
    """A host loses its power, where one worker is enough; later another one joins."""
    _without_driver(training).die()
    begun, step = time.monotonic(), training.rows()[-1].step
    training.wait_for(lambda: len(training.workers()) == 1, "one worker alone")
    training.wait_for_step(step + 1)
    fewer_s = time.monotonic() - begun
    training.site.hosts.be(3)
    begun = time.monotonic()
    training.wait_for(lambda: len(training.workers()) == 3, "three workers again")
    return f"1 worker after {fewer_s:.0f} s, 3 again {time.monotonic() - begun:.0f} s after a host joined"


def kill_driver(training: Training) -> str:
    """SIGKILL of the driver; the job is submitted again."""
    for process in _drivers(training):
        process.kill()
    assert training.ended() != 0
    training.submit()
    return "the job is submitted again"


def end_driver(training: Training) -> str:
    """SIGTERM to the driver, as a scheduler gives notice; the job is submitted again."""
    begun = time.monotonic()
    for process in _drivers(training):
        process.send_signal(signal.SIGTERM)
    assert training.ended() != 0
    taken_s = time.monotonic() - begun
    assert "ended by SIGTERM, resumable" in training.text, training.text
    training.submit()
    return f"a checkpoint and an end, resumable, in {taken_s:.0f} s; the job is submitted again"


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
    filler = training.site.hosts.scratch / "filler"

    def fill() -> None:
        for host in hosts:
            host.run("sh", "-c", f"head -c {SMALL_DISK_BYTES} /dev/zero >>{filler} 2>/dev/null || true")

    assert training.ended(meanwhile=fill) != 0  # again and again: a checkpoint that is removed makes room for the next
    for host in hosts:
        host.run("rm", str(filler))
    told = " ".join(training.text.split())
    assert "no space is left to write checkpoint" in told, training.text
    training.submit()
    return "told in a sentence; the job is submitted again"


def few_bad_losses(training: Training) -> str:
    """The loss of one worker is NaN for some steps."""
    run_python(*training.worker(1), POISON.format(count=BAD_STEPS))
    training.wait_for(lambda: training.highest("train/skipped_steps") >= BAD_STEPS, "skipped steps")
    return f"{BAD_STEPS} steps passed over by all workers"


def bad_losses(training: Training) -> str:
    """The loss of one worker is NaN from now on; once that is mended, the job is submitted again."""
    run_python(*training.worker(1), POISON.format(count=10**6))
    assert training.ended() != 0
    told = "at most 10 steps in a row may have a loss or gradients that are no numbers"
    assert told in " ".join(training.text.split()), training.text
    kept = training.files("not_finite_")
    assert any("batch_rank_0001" in name for name in kept), kept
    training.submit()
    return "stopped after 10 steps, the batch is kept; the job is submitted again"


def straggler(training: Training) -> str:
    """A worker gets a fifth of a core, until it is reported."""
    ray_host, _ = training.worker(1)
    (worker,) = ray_host.processes("ray::RayTrainWorker")
    begun = time.monotonic()
    with slowed(worker):
        training.wait_for(lambda: training.highest("train/num_stragglers") >= 1, "a report")
        taken_s = time.monotonic() - begun
    assert training.last("train/slowest_rank") == 1
    return f"reported after {taken_s:.0f} s"


FAULTS: Mapping[str, Fault] = {
    "worker-killed": Fault(kill_worker),
    "rank-0-killed": Fault(kill_rank_0),
    "raylet-killed": Fault(kill_raylet),
    "driver-killed": Fault(kill_driver),
    "driver-told-to-end": Fault(end_driver),
    "head-killed": Fault(kill_head),
    "host-joins": Fault(host_joins),
    "host-leaves": Fault(host_leaves, hosts=4),
    "hosts-come-and-go": Fault(hosts_come_and_go, words=("--cluster.num-workers", "[1, 3]"), length=SLOW),
    "link-cut": Fault(cut_link),
    "s3-busy": Fault(s3_busy),
    "s3-slow": Fault(s3_slow),
    "disk-full": Fault(disk_full, length=SLOW, has_small_disks=True),
    "loss-nan": Fault(few_bad_losses, passes_over=True),
    "loss-stays-nan": Fault(bad_losses),
    "straggler": Fault(straggler, length=LONG),
}


def _without_driver(training: Training) -> RayHost:
    """A host with a worker, other than the one with head, driver and controller."""
    return next(host for host in training.site.hosts.hosts[1:] if host.processes("ray::RayTrainWorker"))


def _drivers(training: Training) -> list[psutil.Process]:
    """The processes of the job's script, which runs on the head's host."""
    head = training.site.hosts.hosts[0]
    if head.host is not None:
        family = psutil.Process(head.host.init).children(recursive=True)
    else:
        raylet = head.raylet()
        family = [] if raylet is None else raylet.children(recursive=True)
    drivers = [process for process in family if "jobs/train_imagenet.py" in process.cmdline()]
    assert drivers, "the driver runs on the head's host"
    return drivers
