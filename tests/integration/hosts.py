"""A Ray cluster of several hosts, each with its own address, processes and files, that know nothing of the project.

The hosts stand in a network of namespaces. A machine that allows none gets the cluster as raylets of one host, each at
another loopback address, which `HostCluster.told` says: they share files, and no link between them can be cut.
"""

import contextlib
import itertools
import os
import secrets
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil

from tests.integration.cluster import (
    ROOT,
    RayCluster,
    answers,
    bare_environment,
    joining_node,
    ray_environment,
    running_cluster,
)
from tests.integration.network import Host, Network, running_network, why_no_namespaces

START_TIMEOUT_S = 240  # several nodes at once on few cores
TRIES = 3  # of a node's start, which Ray 2.60 gives 30 s
EnvAt = Callable[[str], Mapping[str, str]]
GCS_PORT, JOBS_PORT = 6379, 8265
# A raylet of Ray 2.60 dies where its agents have not written down their ports within 15 s, as on a busy machine. So the
# ports are given, and the host itself writes down the one that is waited for even then.
AGENT_PORT = 52365
PORTS = [
    f"--{name}={port}"
    for port, name in enumerate(
        ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "metrics-export-port", "runtime-env-agent-port"),
        start=AGENT_PORT,
    )
]
STORE_BYTES = 128 * 2**20
# What hosts do not see of the repository; their Python's packages may lie in a .venv beside these.
HIDDEN = ("platform", "jobs", "search_spaces", "tests", "infra", "docs")
# A host has its own files where all others have theirs, under one name: Ray's, homes, and what is being written. As on
# Debian its name leads to its loopback; others' names are unknown, and nobody is there to be asked for them.
SCRIPT = """
mount --bind {own} {node} && mount -t tmpfs tmpfs /dev/shm || exit
printf '127.0.0.1 localhost\n127.0.1.1 %s\n' "$(hostname)" > {node}/hosts
mount --bind {node}/hosts /etc/hosts || exit
touch {node}/resolv.conf && mount --bind {node}/resolv.conf /etc/resolv.conf || exit
for folder in {hidden}; do mount -t tmpfs tmpfs "$folder" || exit; done
mkdir {node}/tmp; cd {node}
export RAY_OVERRIDE_NODE_ID_FOR_TESTING={node_id}
(
    until ls -d ray/session_2*/logs; do sleep 0.1; done
    echo -n {port} > "$(ls -d ray/session_2*)/dashboard_agent_listen_port_$RAY_OVERRIDE_NODE_ID_FOR_TESTING"
) >/dev/null 2>&1 &
{command}; exit
"""


@dataclass
class RayHost:
    """A node of the cluster; `host` is None where it shares this machine with the others."""

    address: str
    folder: Path  # in the command lines of its processes
    host: Host | None = None

    def processes(self, title: str) -> list[psutil.Process]:
        """The workers of the node whose title starts with `title`, such as `ray::RayTrainWorker`."""
        raylet = self.raylet()
        found = []
        for process in raylet.children(recursive=True) if raylet is not None else ():
            with contextlib.suppress(psutil.Error):
                if process.cmdline()[:1] and process.cmdline()[0].startswith(title):
                    found.append(process)
        return found

    @property
    def is_alive(self) -> bool:
        """Whether its raylet runs."""
        return self.raylet() is not None

    def die(self) -> None:
        """As by pulling the plug."""
        assert self.host is not None, "only a host of a network dies by itself"
        self.host.die()

    def raylet(self) -> psutil.Process | None:
        """The node's raylet; None if it has gone."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.name() == "raylet":
                    words = process.cmdline()
                    if f"--node_ip_address={self.address}" in words and str(self.folder) in " ".join(words):
                        return process
        return None


@dataclass
class HostCluster:
    """The cluster, its nodes by the order they came in, the head first, and what this machine is called there."""

    cluster: RayCluster
    gateway: str
    told: str  # what the nodes are
    network: Network | None = None
    num_cpus: int = 1
    hosts: list[RayHost] = field(default_factory=list)

    def be(self, count: int) -> None:
        """Have so many hosts: those that have died are replaced, the newest of too many die."""
        alive = [host for host in self.hosts if host.is_alive]
        for surplus in alive[count:]:
            surplus.die()
        self.hosts = alive[:count]
        for tries in itertools.count(1):
            if len(self.hosts) == count:
                return
            # One at a time: at once they would keep one another from being ready in time.
            joining = self._start(f"--address={self.cluster.gcs_address}")
            if self._has_started(joining, is_last=tries == TRIES * count):
                self.hosts.append(joining)

    def begin_again(self) -> None:
        """Let all hosts die, and start as many with a new head: a new cluster at other addresses."""
        count = len(self.hosts)
        for host in self.hosts:
            host.die()
        self.hosts = []
        address = self.next_address()
        self.cluster = replace(
            self.cluster,
            gcs_address=f"{address}:{GCS_PORT}",
            jobs_address=f"http://{address}:{JOBS_PORT}",
            env=self.cluster.env | {"RAY_ADDRESS": f"{address}:{GCS_PORT}"},
        )
        self.start_head()
        self.be(count)

    def next_address(self) -> str:
        """What the next host is called."""
        assert self.network is not None, "hosts are added to a network"
        return f"10.77.{self.network.number}.{len(self.network.hosts) + 1}"

    def start_head(self) -> RayHost:
        """The host with Ray's head, once it answers."""
        ports = f"--port={GCS_PORT}", f"--dashboard-port={JOBS_PORT}"
        host = self._start("--head", *ports, f"--temp-dir={self.node_folder / 'ray'}")
        assert self._has_started(host, is_last=True)
        end = time.monotonic() + START_TIMEOUT_S
        while not answers(JOBS_PORT, host.address):
            assert time.monotonic() < end, f"the head takes no jobs:\n{self.log_of(host).read_text()}"
            time.sleep(0.1)
        self.hosts.append(host)
        return host

    @property
    def scratch(self) -> Path:
        """Where each host writes temporary files."""
        return self.node_folder / "tmp"

    @property
    def node_folder(self) -> Path:
        """Where each host has its own files."""
        return self.cluster.folder / "node"

    def log_of(self, host: RayHost) -> Path:
        """What `ray start` printed on a host."""
        return self.cluster.folder / f"{host.address}.log"

    def _start(self, *words: str) -> RayHost:
        assert self.network is not None
        name, address = f"host{len(self.network.hosts) + 1}", self.next_address()
        own = self.cluster.folder / name
        own.mkdir()
        command = [
            *(str(self.cluster.python), "-m", "ray.scripts.scripts", "start", "--block", *words),
            *(f"--node-ip-address={address}", f"--num-cpus={self.num_cpus}", f"--object-store-memory={STORE_BYTES}"),
            *PORTS,
        ]  # fmt: skip
        if "--head" in words:
            command.append(f"--dashboard-host={address}")
        hidden = " ".join(shlex.quote(str(ROOT / folder)) for folder in HIDDEN if (ROOT / folder).is_dir())
        places = {"own": shlex.quote(str(own)), "node": shlex.quote(str(self.node_folder)), "hidden": hidden}
        places |= {"node_id": secrets.token_hex(28), "port": str(AGENT_PORT)}
        ray_host = RayHost(address, self.cluster.folder)
        with self.log_of(ray_host).open("w") as output:
            ray_host.host = self.network.start_host(
                name,
                SCRIPT.format(command=shlex.join(command), **places),
                env=self.cluster.env,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        return ray_host

    def _has_started(self, host: RayHost, is_last: bool) -> bool:
        """Wait until Ray runs on a host; that it gives up by itself, on a busy machine, is an error the last time."""
        assert host.host is not None
        end = time.monotonic() + START_TIMEOUT_S
        while "Ray runtime started" not in (text := self.log_of(host).read_text()):
            assert time.monotonic() < end, f"Ray did not start in {START_TIMEOUT_S} s:\n{text}"
            if host.host.process.poll() is not None:
                assert not is_last, f"Ray did not start:\n{text}"
                return False
            time.sleep(0.1)
        return True


@contextlib.contextmanager
def running_hosts(count: int, env_at: EnvAt = lambda gateway: {}, num_cpus: int = 1) -> Iterator[HostCluster]:
    """A cluster of `count` hosts, while the context lasts; all their processes end with it.

    Args:
        count: Number of hosts, the head's among them.
        env_at: What nodes and commands find in their environment beside what is there, by this machine's address.
        num_cpus: Of each host.
    """
    why = why_no_namespaces()
    if why is None:
        with _hosts_of_a_network(count, env_at, num_cpus) as hosts:
            yield hosts
        return
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(running_cluster(num_cpus, env_at("127.0.0.1")))
        nodes = ["127.0.0.1", *(f"127.0.0.{number}" for number in range(2, count + 1))]
        for address in nodes[1:]:
            stack.enter_context(joining_node(cluster, num_cpus, address))
        told = f"{count} raylets of one host at {', '.join(nodes)}, as no network of namespaces can be made here: {why}"
        hosts = [RayHost(address, cluster.folder) for address in nodes]
        yield HostCluster(cluster, "127.0.0.1", told, num_cpus=num_cpus, hosts=hosts)


@contextlib.contextmanager
def _hosts_of_a_network(count: int, env_at: EnvAt, num_cpus: int) -> Iterator[HostCluster]:
    folder = Path(tempfile.mkdtemp(prefix="dvt-ray-"))  # pytest's own is too long for Unix sockets
    try:
        with running_network() as network:
            node = folder / "node"
            (node / "tmp").mkdir(parents=True)
            python = bare_environment(folder / "python")
            path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
            env = ray_environment(node) | {"PATH": path, "TMPDIR": str(node / "tmp")} | dict(env_at(network.gateway))
            head = f"10.77.{network.number}.1"
            cluster = RayCluster(
                python,
                folder,
                f"{head}:{GCS_PORT}",
                f"http://{head}:{JOBS_PORT}",
                env | {"RAY_ADDRESS": f"{head}:{GCS_PORT}"},
            )
            told = f"{count} hosts in namespaces, 10.77.{network.number}.1 to .{count}"
            hosts = HostCluster(cluster, network.gateway, told, network, num_cpus)
            hosts.start_head()
            hosts.be(count)
            yield hosts
    finally:
        shutil.rmtree(folder, ignore_errors=True)
