"""A place of work for tests: a Ray cluster of several hosts, an S3 server with a data set, and an MLflow server.

Hosts reach the S3 server through a relay that can be told to be busy, and find all three as on a real cluster: by the
environment that Ray is started in.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest import mock

import psutil
from PIL import Image
from sklearn.datasets import load_digits

from dvt.cli.main import main
from tests.integration.cluster import answers, free_port
from tests.integration.hosts import HostCluster, running_hosts
from tests.integration.s3_relay import S3Relay, running_relay
from tests.integration.s3_server import S3Server, running_s3

BUCKET = "dvt-nodes"
DATA, RUNS = f"s3://{BUCKET}/digits", f"s3://{BUCKET}/runs"
# A small model of them, in runs of the bucket.
DIGITS = [
    "--data.source", "tar", "--data.root", DATA, "--data.calibration-images", "96",
    "--data.augment.crop-scale", "[1, 1]", "--data.augment.hflip", "0", "--data.augment.random-erasing", "0",
    "--data.augment.rand-augment", "null", "--run.storage-path", RUNS,
    "--cascade.embed-dim", "16", "--cascade.depth", "2", "--train.micro-batch-size", "32", "--train.ema-decay", "0.9",
    "--optimizer.epochs", "2", "--optimizer.warmup-epochs", "0",
]  # fmt: skip
MLFLOW_TIMEOUT_S = 240
TEST_SHARE = 6  # every so many images is of the test set


@dataclass
class Site:
    """The place; `s3` is the server as hosts reach it."""

    hosts: HostCluster
    s3: S3Server
    relay: S3Relay
    tracking_uri: str


@contextlib.contextmanager
def running_site(num_hosts: int, env: Mapping[str, str] = {}, num_cpus: int = 1) -> Iterator[Site]:
    """The place, while the context lasts.

    Args:
        num_hosts: Of the Ray cluster.
        env: More that hosts find in their environment.
        num_cpus: Of each host.
    """
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(running_s3())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dvt-site-")))
        made: list[tuple[S3Relay, str]] = []

        def env_at(gateway: str) -> dict[str, str]:
            relay = stack.enter_context(running_relay(gateway, server.endpoint))
            uri = f"http://{gateway}:{free_port()}"
            made.append((relay, uri))
            return {**replace(server, endpoint=relay.endpoint).env, "MLFLOW_TRACKING_URI": uri, **env}

        hosts = stack.enter_context(running_hosts(num_hosts, env_at, num_cpus))
        relay, uri = made[0]
        stack.enter_context(_mlflow(uri, folder))  # once Ray has started, which gives itself 30 s
        _put_digits(server, folder)
        _wait_for_mlflow(uri, folder)
        yield Site(hosts, replace(server, endpoint=relay.endpoint), relay, uri)


@dataclass
class Watch:
    """Where processes of a kind are seen while the context lasts."""

    hosts: HostCluster
    title: str
    addresses: set[str] = field(default_factory=set)
    _ended: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Watch":
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.3):
            with contextlib.suppress(psutil.Error):
                self.addresses |= {host.address for host in self.hosts.hosts if host.processes(self.title)}


@contextlib.contextmanager
def _mlflow(uri: str, folder: Path) -> Iterator[None]:
    """A plain MLflow server, which may not answer yet."""
    address, _, port = uri.removeprefix("http://").partition(":")
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", address, "--port", port, "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--artifacts-destination", str(folder / "kept")),
    ]  # fmt: skip
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MLFLOW_", "DVT_"))}
    with (folder / "mlflow.log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=kept, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield
    finally:
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        for each in family:
            with contextlib.suppress(psutil.Error):
                each.kill()
        process.wait(20)


def _wait_for_mlflow(uri: str, folder: Path) -> None:
    address, _, port = uri.removeprefix("http://").partition(":")
    end = time.monotonic() + MLFLOW_TIMEOUT_S
    while not answers(int(port), address):
        assert time.monotonic() < end, f"MLflow did not start:\n{(folder / 'mlflow.log').read_text()}"
        time.sleep(0.2)


def _put_digits(server: S3Server, folder: Path) -> None:
    """Scikit-learn's 1,797 digits as shards in the bucket; 300 of them are the test set."""
    digits = load_digits()
    for index, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        part = "train" if index % TEST_SHARE else "val"
        path = folder / "digits" / part / str(label) / f"{index:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 15).astype("uint8")).resize((28, 28), Image.Resampling.BICUBIC).save(path)
    client = server.client()
    client.create_bucket(Bucket=BUCKET)
    client.close()
    with mock.patch.dict(os.environ, server.env):
        assert main(["data", "pack", str(folder / "digits"), DATA]) == 0
