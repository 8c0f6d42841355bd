"""A real Ray cluster of one node for tests: started in a folder of its own, by a Python without the project."""

import contextlib
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 120
# Above those that Ray gives its workers, below those that Linux gives connections: a port of theirs may be a
# connection's when its server starts, and Ray's agent then does without one and says nothing.
UNTRIED_PORTS = iter(random.SystemRandom().sample(range(20_000, 32_768), 12_768))


@dataclass(frozen=True)
class RayCluster:
    """Where the cluster answers, and the environment in which commands reach it."""

    python: Path  # of the nodes; has the project's dependencies, not the project
    folder: Path  # Ray's own files
    gcs_address: str
    jobs_address: str
    env: dict[str, str]

    def processes(self, title: str) -> list[psutil.Process]:
        """The cluster's processes whose title starts with `title`, such as `ray::RayTrainWorker`."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                words = process.cmdline()
                if words and words[0].startswith(title) and str(self.folder) in str(process.environ()):
                    found.append(process)
        return found


def bare_environment(folder: Path) -> Path:
    """A virtual environment with every package of this one but the project; returns its Python."""
    venv.create(folder, with_pip=False, symlinks=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    # A path in a .pth file is searched, but the .pth files in it, one of which is the project's, are not run.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    python = folder / "bin" / "python"
    told = subprocess.run([python, "-c", "import dvt"], capture_output=True, text=True, cwd=folder, check=False)
    assert "No module named 'dvt'" in told.stderr, "the cluster's Python must not find the project"
    return python


def free_port() -> int:
    """A port that is free, another one each time, and that no connection takes until a server has it."""
    for port in UNTRIED_PORTS:
        with socket.socket() as taken, contextlib.suppress(OSError):
            taken.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free of those that connections do not take")


def ray_environment(folder: Path) -> dict[str, str]:
    """This process's environment, but what leads to another Ray, MLflow or S3; homes and tokens are its own."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AWS_", "RAY_", "MLFLOW_", "DVT_", "PYTHON", "PYTEST", "COVERAGE"))
    }
    return kept | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_TMPDIR": str(folder),
        "RAY_USAGE_STATS_ENABLED": "0",
        "HOME": str(folder),  # neither tokens nor runs of a test land in a person's home
        "COLUMNS": "160",
    }


@contextlib.contextmanager
def running_cluster(
    num_cpus: int, env: Mapping[str, str] | None = None, has_dashboard: bool = True
) -> Iterator[RayCluster]:
    """The cluster, while the context lasts; all its processes end with it.

    Args:
        num_cpus: Of the node.
        env: What the node's processes and the commands find in their environment, beside what is there.
        has_dashboard: Whether jobs can be submitted.
    """
    folder = Path(tempfile.mkdtemp(prefix="dvt-ray-"))  # pytest's own is too long for Unix sockets
    log = folder / "start.log"
    head = None
    try:
        python = bare_environment(folder / "python")
        path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
        full_env = ray_environment(folder) | {"PATH": path} | dict(env or {})
        ray = [str(python), "-m", "ray.scripts.scripts"]
        port, jobs_port = free_port(), free_port()
        command = [
            *ray, "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}",
            f"--dashboard-port={jobs_port}", f"--num-cpus={num_cpus}", f"--temp-dir={folder / 'ray'}",
            f"--dashboard-agent-listen-port={free_port()}",  # of another Ray on this machine it has Ray's own
            f"--include-dashboard={has_dashboard}",
        ]  # fmt: skip
        with log.open("w") as output:
            head = subprocess.Popen(
                command, env=full_env, cwd=folder, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        cluster = RayCluster(
            python,
            folder,
            f"127.0.0.1:{port}",
            f"http://127.0.0.1:{jobs_port}",
            full_env | {"RAY_ADDRESS": f"127.0.0.1:{port}"},
        )
        # The jobs' port answers last; without it Ray's own word tells that the node is up.
        _wait_for(head, log, [port, jobs_port] if has_dashboard else [port], "" if has_dashboard else "runtime started")
        yield cluster
    finally:
        if head is not None:
            _end(head)
        shutil.rmtree(folder, ignore_errors=True)


def submitted(cluster: RayCluster, *words: str, env: Mapping[str, str] | None = None) -> str:
    """What a job prints that is submitted from the repository, as a user submits it, with `env` in its workers."""
    runtime = [] if env is None else ["--runtime-env-json", json.dumps({"env_vars": dict(env)})]
    command = [
        *(str(cluster.python), "-m", "ray.scripts.scripts", "job", "submit"),
        *("--address", cluster.jobs_address, "--working-dir", ".", *runtime, "--", *words),
    ]
    done = subprocess.run(command, cwd=ROOT, env=cluster.env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextlib.contextmanager
def joining_node(
    cluster: RayCluster, num_cpus: int, address: str = "127.0.0.1", told: str = "Ray runtime started"
) -> Iterator["subprocess.Popen[bytes]"]:
    """One more node of the cluster, on this machine, while the context lasts; its raylet is a child of the process.

    Args:
        cluster: What it joins, with the environment that it has.
        num_cpus: Of the node.
        address: Of the node.
        told: What is waited for in what it prints.
    """
    log = cluster.folder / f"node-{secrets.token_hex(4)}.log"
    command = [
        *(str(cluster.python), "-m", "ray.scripts.scripts", "start", "--block", f"--address={cluster.gcs_address}"),
        *(f"--node-ip-address={address}", f"--num-cpus={num_cpus}", f"--dashboard-agent-listen-port={free_port()}"),
    ]  # fmt: skip
    with log.open("w") as output:
        node = subprocess.Popen(
            command,
            env=cluster.env,
            cwd=cluster.folder,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        end = time.monotonic() + START_TIMEOUT_S
        while told not in log.read_text():
            assert node.poll() is None, f"the node did not start:\n{log.read_text()}"
            assert time.monotonic() < end, f"the node did not start in {START_TIMEOUT_S} s:\n{log.read_text()}"
            time.sleep(0.2)
        yield node
    finally:
        _end(node)


def _wait_for(head: "subprocess.Popen[bytes]", log: Path, ports: list[int], told: str) -> None:
    end = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < end:
        assert head.poll() is None, f"Ray did not start:\n{log.read_text()}"
        if told in log.read_text() and all(answers(port) for port in ports):
            return
        time.sleep(0.2)
    raise AssertionError(f"Ray did not start in {START_TIMEOUT_S} s:\n{log.read_text()}")


def answers(port: int, address: str = "127.0.0.1") -> bool:
    """Whether something listens there."""
    with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=1):
        return True
    return False


def _end(head: "subprocess.Popen[bytes]") -> None:
    if head.poll() is not None:  # it ended by itself, and its processes with it
        return
    family = [psutil.Process(head.pid), *psutil.Process(head.pid).children(recursive=True)]
    head.terminate()
    _, alive = psutil.wait_procs(family, timeout=5)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, timeout=10)
    head.wait(10)  # psutil has reaped it without telling `head`


@dataclass
class Driver:
    """One `train` command in a process of its own, with what it printed so far."""

    process: "subprocess.Popen[str]"
    log: Path

    @property
    def text(self) -> str:
        return self.log.read_text()

    def wait_for(self, text: str, timeout_s: float = 180) -> None:
        """Wait until the command printed `text`."""
        end = time.monotonic() + timeout_s
        while text not in self.text:
            assert self.process.poll() is None, f"the command ended before it printed {text!r}:\n{self.text}"
            assert time.monotonic() < end, f"the command did not print {text!r} in {timeout_s} s:\n{self.text}"
            time.sleep(0.05)

    def finish(self, timeout_s: float = 300) -> int:
        """Wait for the end and return the exit code."""
        return self.process.wait(timeout_s)


@contextlib.contextmanager
def driving(
    words: list[str],
    *,
    cwd: Path,
    env: dict[str, str],
    python: Path | str = sys.executable,
    job: str = "train_imagenet.py",
) -> Iterator[Driver]:
    """A script of `jobs/` with `words`; ended with the context if it still runs."""
    handle, name = tempfile.mkstemp(suffix=".log", dir=cwd)
    with os.fdopen(handle, "w") as output:
        process = subprocess.Popen(
            [str(python), str(ROOT / "jobs" / job), *words],
            cwd=cwd, env=env, stdout=output, stderr=subprocess.STDOUT, text=True, start_new_session=True,
            # A shell that runs the tests in the background has SIGINT ignored, which children inherit.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
    try:
        yield Driver(process, Path(name))
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(30)
