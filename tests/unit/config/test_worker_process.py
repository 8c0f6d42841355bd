"""What Ray calls in worker processes, and that they end by the status they mean, whatever C++ does at the end."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dvt.config import worker_process

WORKER = """
import atexit, ctypes, sys
from dvt.config import worker_process

libc = ctypes.CDLL(None)
libc.on_exit(libc.abort, None)  # in place of a destructor that waits for ever
{begin}
atexit.register(print, "the last of Python")
sys.exit(3)
"""


def run_worker(begin: str) -> subprocess.CompletedProcess[str]:
    env = {"PYTHONPATH": str(Path(worker_process.__file__).parents[2])}
    command = [sys.executable, "-c", WORKER.format(begin=begin)]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("begin", ["start_text", "start_json"])
def test_a_worker_ends_once_python_is_done(begin: str) -> None:
    done = run_worker(f"worker_process.{begin}()")
    assert (done.returncode, done.stdout, done.stderr) == (3, "the last of Python\n", "")


def test_without_it_destructors_have_their_way() -> None:
    assert run_worker("").returncode == -signal.SIGABRT


def test_ray_is_told_by_name_what_to_call() -> None:
    assert worker_process.worker_hook("json") == "dvt.config.worker_process.start_json"
    assert worker_process.worker_hook("text") == "dvt.config.worker_process.start_text"
