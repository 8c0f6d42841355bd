"""A real S3 server for tests: OpenStack Swift with its S3 API, one node on loopback, started without privileges.

It is installed from the package index into an environment of its own, once a machine, in `dvt-tests` of the user's
cache folder. Addresses are path-style; objects lie in a temporary folder that ends with the server.
"""

import contextlib
import fcntl
import os
import pwd
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import psutil
from botocore.config import Config

from tests.integration.cluster import answers, free_port

SWIFT_VERSION = "2.38.0"
PACKAGES = (f"swift=={SWIFT_VERSION}", "eventlet", "setuptools<81")  # Swift 2.38 imports pkg_resources, gone in 81
START_TIMEOUT_S = 60
INSTALL_TIMEOUT_S = 400
REGION = "us-east-1"
ACCOUNT = "dvttests"

SWIFT_CONF = """\
[swift-hash]
swift_hash_path_prefix = {prefix}
swift_hash_path_suffix = {prefix}
[storage-policy:0]
name = gold
policy_type = replication
default = yes
[swift-constraints]
max_header_size = 16384
"""
SERVER_CONF = """\
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
user = {user}
swift_dir = {folder}
devices = {folder}/node
mount_check = false
workers = 0
log_level = WARNING
disable_fallocate = true
fallocate_reserve = 0
[pipeline:main]
pipeline = {pipeline}
[app:{app}]
use = egg:swift#{name}
"""
# memcached is not there: nothing listens on port 9, and Swift goes on without it.
PROXY_CONF = """\
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:healthcheck]
use = egg:swift#healthcheck
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:9
[filter:s3api]
use = egg:swift#s3api
location = {region}
[filter:tempauth]
use = egg:swift#tempauth
user_{account}_{user} = {secret_key} .admin
[filter:bulk]
use = egg:swift#bulk
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
"""
PROXY_PIPELINE = "catch_errors gatekeeper healthcheck cache s3api tempauth bulk slo dlo proxy-server"


@dataclass(frozen=True)
class S3Server:
    """Where the server answers, and to whom."""

    endpoint: str
    access_key: str
    secret_key: str

    @property
    def env(self) -> dict[str, str]:
        """What a machine's own AWS configuration would say."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": REGION,
        }

    def client(self) -> Any:
        """A client of its own, which keeps nothing in mind; to be closed."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=REGION,
            config=Config(s3={"addressing_style": "path"}),
        )


@contextlib.contextmanager
def running_s3() -> Iterator[S3Server]:
    """The server, while the context lasts; all its processes end with it."""
    folder = Path(tempfile.mkdtemp(prefix="dvt-s3-"))
    processes: list[subprocess.Popen[bytes]] = []
    try:
        python = _swift_python(folder)
        user, secret_key = f"u{secrets.token_hex(4)}", secrets.token_hex(24)
        ports = {name: free_port() for name in ("proxy", "object", "container", "account")}
        _configure(folder, python, ports, user, secret_key)
        for name in ports:
            with (folder / f"{name}.log").open("w") as output:
                command = [str(python), str(python.parent / f"swift-{name}-server"), str(folder / f"{name}.conf")]
                processes.append(
                    subprocess.Popen(
                        command, cwd=folder, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
                    )
                )
        server = S3Server(f"http://127.0.0.1:{ports['proxy']}", f"{ACCOUNT}:{user}", secret_key)
        _wait_for(server, processes, list(ports.values()), folder)
        yield server
    finally:
        _end(processes)
        shutil.rmtree(folder, ignore_errors=True)


def _swift_python(scratch: Path) -> Path:
    """The Python of an environment that holds Swift: the cached one, or one in `scratch` if there is no such place."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dvt-tests"
    name = f"swift-{SWIFT_VERSION}-python{sys.version_info.major}.{sys.version_info.minor}"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock = (cache / f"{name}.lock").open("w")
    except OSError:
        return _install(scratch / "python")
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test runs at once install once
        python = cache / name / "bin" / "python"
        return python if _runs(python) else _install(cache / name)


def _runs(python: Path) -> bool:
    """Whether an environment is whole; it is not after an interrupted install, or when its base Python has gone."""
    if not (python.parent.parent / "complete").exists():
        return False
    told = subprocess.run([python, "-W", "ignore", "-c", "import swift, eventlet"], capture_output=True, check=False)
    return told.returncode == 0


def _install(folder: Path) -> Path:
    venv.create(folder, with_pip=True, clear=True, symlinks=True)
    python = folder / "bin" / "python"
    command = [str(python), "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", *PACKAGES]
    done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False)
    assert done.returncode == 0, f"Swift was not installed:\n{done.stderr}"
    (folder / "complete").touch()
    return python


def _configure(folder: Path, python: Path, ports: dict[str, int], user: str, secret_key: str) -> None:
    """Write the configuration of each server, and the rings that tell the proxy where the others are."""
    (folder / "node" / "d1").mkdir(parents=True)
    (folder / "swift.conf").write_text(SWIFT_CONF.format(prefix=secrets.token_hex(8)))
    owner = pwd.getpwuid(os.getuid()).pw_name  # Swift changes to this user, which it is already
    for name, port in ports.items():
        app = f"{name}-server"
        pipeline = PROXY_PIPELINE if name == "proxy" else app
        text = SERVER_CONF.format(port=port, user=owner, folder=folder, pipeline=pipeline, app=app, name=name)
        if name == "proxy":
            text += PROXY_CONF.format(region=REGION, account=ACCOUNT, user=user, secret_key=secret_key)
        else:
            _make_ring(folder / f"{name}.builder", python, port)
        path = folder / f"{name}.conf"
        path.touch(mode=0o600)
        path.write_text(text)


def _make_ring(builder: Path, python: Path, port: int) -> None:
    for words in (["create", "4", "1", "1"], ["add", f"r1z1-127.0.0.1:{port}/d1", "1"], ["rebalance"]):
        command = [str(python), "-W", "ignore", str(python.parent / "swift-ring-builder"), str(builder), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"swift-ring-builder {words[0]} failed:\n{done.stdout}{done.stderr}"


def _wait_for(server: S3Server, processes: "list[subprocess.Popen[bytes]]", ports: list[int], folder: Path) -> None:
    end = time.monotonic() + START_TIMEOUT_S
    while not (all(answers(port) for port in ports) and _is_healthy(server)):
        logs = "\n".join(path.read_text() for path in sorted(folder.glob("*.log")))
        assert all(process.poll() is None for process in processes), f"Swift did not start:\n{logs}"
        assert time.monotonic() < end, f"Swift did not start in {START_TIMEOUT_S} s:\n{logs}"
        time.sleep(0.1)


def _is_healthy(server: S3Server) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever the machine's proxy is
    try:
        with direct.open(f"{server.endpoint}/healthcheck", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, TimeoutError):
        return False


def _end(processes: "list[subprocess.Popen[bytes]]") -> None:
    family: list[psutil.Process] = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            started = psutil.Process(process.pid)
            family += [started, *started.children(recursive=True)]
        process.terminate()
    _, alive = psutil.wait_procs(family, timeout=10)
    for left in alive:
        with contextlib.suppress(psutil.Error):
            left.kill()
    for process in processes:
        process.wait(10)
