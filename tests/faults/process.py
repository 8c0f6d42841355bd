"""What is done to a host: a process killed, given Python to run or slowed; its disk made small."""

import contextlib
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.integration.hosts import HostCluster, RayHost

SMALL_DISK_BYTES = 64 * 2**20
STOPPED_S, RUNNING_S = 0.08, 0.02  # in turns
RUN_WAIT_S = 60


def kill(ray_host: RayHost, process: int) -> None:
    """SIGKILL.

    Args:
        ray_host: Where it runs.
        process: Its number there.
    """
    _run(ray_host, "bash", "-c", f"kill -9 {process}")


def run_python(ray_host: RayHost, process: int, code: str) -> None:
    """Have the main thread of a running Python process run code between two of its own instructions, by way of gdb.

    Args:
        ray_host: Where it runs.
        process: Its number there.
        code: Run in its module `__main__`.
    """
    with tempfile.TemporaryDirectory(dir=ray_host.folder) as folder:
        file, has_run = Path(folder) / "code.py", Path(folder) / "has_run"
        file.write_text(f"{code}\nopen({str(has_run)!r}, 'w').close()\n")
        # Added to what the process does next, not done at once: that takes a lock which a stopped thread may hold.
        call = f"""Py_AddPendingCall((int (*)(void *))&PyRun_SimpleString, "exec(open('{file}').read())")"""
        told = _run(ray_host, "gdb", "--batch", "--nx", "--pid", str(process), "-ex", f"call (int){call}")
        assert "$1 = 0" in told, f"process {process} did not take the code:\n{told}"
        end = time.monotonic() + RUN_WAIT_S
        while not has_run.exists():
            assert time.monotonic() < end, f"process {process} did not run the code in {RUN_WAIT_S} s"
            time.sleep(0.05)


@contextlib.contextmanager
def slowed(process: psutil.Process) -> Iterator[None]:
    """Let a process run for a fifth of each tenth of a second only, while the context lasts.

    As on a host whose cores others use, too; there need be no core for these.
    """
    has_ended = threading.Event()

    def take_turns() -> None:
        with contextlib.suppress(psutil.Error):  # it may end
            while not has_ended.is_set():
                process.suspend()
                has_ended.wait(STOPPED_S)
                process.resume()
                has_ended.wait(RUNNING_S)

    thread = threading.Thread(target=take_turns, daemon=True)
    thread.start()
    try:
        yield
    finally:
        has_ended.set()
        thread.join()


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
