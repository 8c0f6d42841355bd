"""A network of its own for tests: hosts in namespaces of the kernel, each with an address, joined by a switch.

A host has its own interfaces, processes, mounts and name, and shares files, cores and memory with this machine. The
switch is a bridge in a namespace too: a link is cut there, as by pulling a cable. Each namespace lives as long as its
first process, which dies with this one, however that ends; with the namespaces go interfaces and mounts. Needs root.
"""

import contextlib
import secrets
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import psutil

WAIT_S = 20
# Without --user, so it needs root; a first process that dies takes all of its namespace with it.
NAMESPACES = ("--net", "--mount", "--pid", "--uts", "--fork", "--kill-child=KILL", "--mount-proc")
PROBE = (
    "ip link add probe0 type bridge && ip link add probe1 type veth peer name probe2 && mount -t tmpfs none /dev/shm"
)


def why_no_namespaces() -> str | None:
    """Why this machine lets no network of namespaces be made; None if it does."""
    try:
        told = subprocess.run(
            ["setpriv", "--pdeathsig", "KILL", "unshare", *NAMESPACES, "bash", "-c", PROBE],
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as error:
        return str(error)
    return None if told.returncode == 0 else told.stderr.strip() or "it failed without a word"


@dataclass(frozen=True)
class Host:
    """A host of the network, which lives as long as its first process."""

    name: str
    address: str
    process: "subprocess.Popen[bytes]"
    init: int  # its first process, as this machine counts processes
    port: str  # of the switch

    def run(self, *command: str) -> str:
        """What a command prints that runs on the host."""
        return _run("nsenter", f"--target={self.init}", "--all", *command)

    def die(self) -> None:
        """As by pulling the plug: no process of the host does anything any more."""
        with contextlib.suppress(psutil.Error):
            psutil.Process(self.init).kill()
        self.process.wait(WAIT_S)


@dataclass
class Network:
    """A switch that hosts are joined to; this machine is at `gateway`."""

    number: int  # third part of the addresses
    switch: int  # first process of the switch's namespace
    hosts: list[Host] = field(default_factory=list)

    @property
    def gateway(self) -> str:
        """This machine's address as hosts see it."""
        return f"10.77.{self.number}.254"

    def start_host(self, name: str, script: str, **options: object) -> Host:
        """A new host with the next address, and `script` as its first process, begun once the address is there.

        Args:
            name: Of the host.
            script: For bash; the host ends with it.
            options: For `subprocess.Popen`.
        """
        waiting = f"hostname {name}; ip link set lo up; until ip route get {self.gateway}; do sleep 0.05; done"
        process = _first_process(f"{{ {waiting}; }} >/dev/null 2>&1; {script}", **options)
        init, number = _child(process), len(self.hosts) + 1
        host = Host(name, f"10.77.{self.number}.{number}", process, init, f"port{number}")
        self.hosts.append(host)
        self._switch("ip", "link", "add", host.port, "type", "veth", "peer", "name", "eth0", "netns", str(init))
        self._switch("ip", "link", "set", host.port, "master", "switch", "up")
        for words in (
            ("addr", "add", f"{host.address}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
            ("route", "add", "default", "via", self.gateway),
        ):
            _run("nsenter", f"--target={init}", "--net", "ip", *words)
        return host

    def unplug(self, host: Host) -> None:
        """Cut a host from all others."""
        self._switch("ip", "link", "set", host.port, "down")

    def plug(self, host: Host) -> None:
        """Join an unplugged host again."""
        self._switch("ip", "link", "set", host.port, "up")

    def separate(self, *hosts: Host) -> None:
        """Cut hosts from one another, but not from others."""
        for host in hosts:
            self._switch("ip", "link", "set", host.port, "type", "bridge_slave", "isolated", "on")

    def join(self, *hosts: Host) -> None:
        """Join separated hosts again."""
        for host in hosts:
            self._switch("ip", "link", "set", host.port, "type", "bridge_slave", "isolated", "off")

    def _switch(self, *command: str) -> None:
        _run("nsenter", f"--target={self.switch}", "--net", *command)


@contextlib.contextmanager
def running_network() -> Iterator[Network]:
    """A network without hosts, while the context lasts; its hosts end with it."""
    switch = _first_process("exec sleep infinity")
    network = None
    try:
        network = Network(_free_number(), _child(switch))
        cable = f"dvt{secrets.token_hex(4)}"
        for words in (
            ("link", "add", "switch", "type", "bridge"),
            ("link", "set", "switch", "up"),
        ):
            network._switch("ip", *words)
        _run("ip", "link", "add", cable, "type", "veth", "peer", "name", "uplink", "netns", str(network.switch))
        network._switch("ip", "link", "set", "uplink", "master", "switch", "up")
        _run("ip", "addr", "add", f"{network.gateway}/24", "dev", cable)
        _run("ip", "link", "set", cable, "up")
        yield network
    finally:
        for host in network.hosts if network is not None else ():
            host.die()
        for child in psutil.Process(switch.pid).children():
            child.kill()
        switch.wait(WAIT_S)


def _first_process(script: str, **options: object) -> "subprocess.Popen[bytes]":
    command = ["setpriv", "--pdeathsig", "KILL", "unshare", *NAMESPACES, "bash", "-c", script]
    return subprocess.Popen(command, start_new_session=True, **options)  # type: ignore[call-overload,no-any-return]


def _child(process: "subprocess.Popen[bytes]") -> int:
    """The first process in the new namespaces."""
    end = time.monotonic() + WAIT_S
    while True:
        assert process.poll() is None, f"unshare ended with code {process.returncode}"
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(process.pid).children():
                if child.name() != "unshare":  # it is bash, once the mounts are its own
                    return child.pid
        assert time.monotonic() < end, "a namespace was not made"
        time.sleep(0.01)


def _free_number() -> int:
    taken = _run("ip", "-4", "-o", "addr")
    return next(number for number in _shuffled() if f" 10.77.{number}." not in taken)


def _shuffled() -> list[int]:
    """In another order each time, as two test runs may look at once."""
    return secrets.SystemRandom().sample(range(256), 256)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
    return done.stdout
