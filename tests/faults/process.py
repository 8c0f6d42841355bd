"""What is done to a host: a process killed, given Python to run or kept from its core; its disk made small."""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from tests.integration.hosts import HostCluster, RayHost

SMALL_DISK_BYTES = 64 * 2**20
NUM_RIVALS = 8
SPIN = "while True: pass"


def kill(ray_host: RayHost, process: int) -> None:
    """SIGKILL.

    Args:
        ray_host: Where it runs.
        process: Its number there.
    """
    _run(ray_host, "bash", "-c", f"kill -9 {process}")


def run_python(ray_host: RayHost, process: int, code: str) -> None:
    """Have a running Python process run code between two of its own instructions, by way of gdb.

    Args:
        ray_host: Where it runs.
        process: Its number there.
        code: Run in its module `__main__`.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".py", dir=ray_host.folder) as file:
        file.write(code)
        file.flush()
        call = f"exec(open('{file.name}').read())"
        told = _run(
            ray_host,
            *("gdb", "--batch", "--nx", "--pid", str(process)),
            *("-ex", "call (int)PyGILState_Ensure()", "-ex", f'call (int)PyRun_SimpleString("{call}")'),
            *("-ex", "call (void)PyGILState_Release($1)"),
        )
    assert "$2 = 0" in told, f"the code did not run in process {process}:\n{told}"


@contextlib.contextmanager
def beset(ray_host: RayHost, process: int) -> Iterator[None]:
    """Keep a process on the first core, where others take most of the time, while the context lasts."""
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    first = cores.partition(",")[0]
    _run(ray_host, "taskset", "--all-tasks", "--cpu-list", "--pid", first, str(process))
    command = ["taskset", "--cpu-list", first, sys.executable, "-c", SPIN]  # Ray's workers are nicer than these
    # Each in a session of its own: Linux may share a core among sessions, and processes of one among themselves.
    rivals = [subprocess.Popen(command, start_new_session=True) for _ in range(NUM_RIVALS)]
    try:
        yield
    finally:
        for rival in rivals:
            rival.kill()
            rival.wait()
        with contextlib.suppress(AssertionError, subprocess.CalledProcessError):  # it may have ended
            _run(ray_host, "taskset", "--all-tasks", "--cpu-list", "--pid", cores, str(process))


@contextlib.contextmanager
def small_disks(cluster: HostCluster) -> Iterator[None]:
    """Temporary files of each host on a disk of `SMALL_DISK_BYTES`, while the context lasts."""
    hosts = [each.host for each in cluster.hosts if each.host is not None]
    for host in hosts:
        host.run("mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK_BYTES}", "tmpfs", str(cluster.scratch))
    try:
        yield
    finally:
        for host in hosts:
            host.run("umount", "--lazy", str(cluster.scratch))


def _run(ray_host: RayHost, *command: str) -> str:
    if ray_host.host is not None:
        return ray_host.host.run(*command)
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
