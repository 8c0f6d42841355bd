"""Tracking against a real MLflow server on loopback, which alone can reach its database and its artifacts."""

import math
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts

from dvt.tracking import (
    MlflowSinkFactory,
    RunRecord,
    TrackingError,
    all_handed_on,
    check_tracking,
    finish_run,
    log_and_register_model,
    log_front,
    open_run,
    page_command,
    run_page,
)
from dvt.tracking.spool import Spool
from tests.integration.cluster import free_port
from tests.unit.tracking.tiny import CLASS_NAMES, Tiny, make_tiny, tiny_recipe

pytestmark = pytest.mark.slow

READER = """
import sys
import mlflow, numpy
mlflow.set_tracking_uri(sys.argv[1])
images = numpy.load(sys.argv[2])
model = mlflow.pyfunc.load_model("models:/dvt-server@candidate")
print(",".join(model.predict(images, {"budget_macs": -1})["class_name"]))
"""


KILLED = """
import os, signal, sys
from dvt.tracking import MlflowSinkFactory
sink = MlflowSinkFactory(sys.argv[1], sys.argv[2])()
sink.log_metrics({"killed": 1.0}, 0)
sink.log_metrics({"killed": 2.0}, 1)
os.kill(os.getpid(), signal.SIGKILL)
"""


@dataclass
class Server:
    """An `mlflow server` of our own; only its process group is ever ended."""

    folder: Path
    port: int
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        env = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=env, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            assert self.process.poll() is None, (self.folder / "log").read_text()
            try:
                check_tracking(self.uri, timeout_s=5)
                return
            except TrackingError:
                time.sleep(0.2)
        raise AssertionError((self.folder / "log").read_text())

    def stop(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    port = free_port()
    server = Server(tmp_path_factory.mktemp("server"), port)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return make_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def record(server: Server) -> RunRecord:
    return open_run(tiny_recipe(), tracking_uri=server.uri, run_name="server")


@pytest.fixture
def client(server: Server) -> MlflowClient:
    return MlflowClient(tracking_uri=server.uri)


def test_a_run_keeps_params_files_and_metrics(record: RunRecord, client: MlflowClient, tmp_path: Path) -> None:
    sink = MlflowSinkFactory.of(record)()
    sink.log_metrics({"loss": 0.5, "bad": math.nan, "huge": math.inf}, step=3)
    sink.close()
    (tmp_path / "front").mkdir()
    (tmp_path / "front" / "front.json").write_text("{}")
    log_front(record, tmp_path / "front")

    run = client.get_run(record.run_id)
    assert run.info.status == "RUNNING"
    assert run.data.params["cascade.embed_dim"] == "16"
    assert run.data.metrics["loss"] == 0.5
    assert math.isnan(run.data.metrics["bad"])
    assert run.data.metrics["huge"] > 1e308
    assert run.info.artifact_uri.startswith("mlflow-artifacts:/")
    config = download_artifacts(run_id=record.run_id, artifact_path="config.yaml", tracking_uri=record.tracking_uri)
    assert Path(config).read_text().startswith("name: tiny\n")
    assert [file.path for file in client.list_artifacts(record.run_id, "front")] == ["front/front.json"]


def test_the_run_is_reopened_and_finished(record: RunRecord, client: MlflowClient, server: Server) -> None:
    finish_run(record, "FAILED")
    kept = RunRecord.from_json(record.to_json())
    assert open_run(tiny_recipe(), tracking_uri=server.uri, run_name="server", resume=kept) == record
    assert client.get_run(record.run_id).info.status == "RUNNING"


def test_the_registered_model_is_read_by_its_alias_over_http(
    record: RunRecord, client: MlflowClient, server: Server, tiny: Tiny, tmp_path: Path
) -> None:
    made = log_and_register_model(record, tiny.content, registered_name="dvt-server")
    assert log_and_register_model(record, tiny.content, registered_name="dvt-server") == made
    version = client.get_model_version_by_alias("dvt-server", "candidate")
    assert (str(version.version), version.run_id) == ("1", record.run_id)
    metrics = {metric.key: metric.value for metric in client.get_logged_model(made.model_id).metrics}
    assert metrics["exit_1/macs"] == tiny.content.report.exits[0].macs

    np.save(tmp_path / "images.npy", tiny.images.numpy())
    done = subprocess.run(
        [sys.executable, "-I", "-c", READER, server.uri, tmp_path / "images.npy"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip().split(",") == [CLASS_NAMES[label] for label in tiny.logits[-1].argmax(-1)]


def test_the_page_is_the_server_s_own(record: RunRecord, server: Server) -> None:
    assert page_command(record).endswith(f" page {record.run_id} --tracking-uri {server.uri}")
    with run_page(server.uri, record.run_id) as (url, started):
        assert started is None
        assert url == f"{server.uri}/#/experiments/{record.experiment_id}/runs/{record.run_id}"
        with urllib.request.urlopen(url) as page:
            assert b"<title>MLflow</title>" in page.read()


def test_nothing_is_lost_while_the_server_is_away_and_nobody_waits(
    record: RunRecord, client: MlflowClient, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    sink = MlflowSinkFactory.of(record)()
    sink.log_metrics({"kept": 0.0}, step=0)
    server.stop()
    away = time.monotonic()
    longest = 0.0
    try:
        with pytest.raises(TrackingError, match="which cannot be reached"):
            check_tracking(server.uri)
        for step in range(1, 1001):
            start = time.monotonic()
            sink.log_metrics({"kept": float(step), "also": 1.0}, step)
            longest = max(longest, time.monotonic() - start)
        time.sleep(1)  # some tries to hand on fail
        with subprocess.Popen([sys.executable, "-c", KILLED, server.uri, record.run_id]) as other:
            assert other.wait(120) == -signal.SIGKILL
    finally:
        server.start()
    assert longest < (time.monotonic() - away) / 10
    sink.close()
    history = client.get_metric_history(record.run_id, "kept")
    assert [(point.step, point.value) for point in history] == [(step, float(step)) for step in range(1001)]
    # What the other process could not hand on, the next of the same run did.
    assert [point.value for point in client.get_metric_history(record.run_id, "killed")] == [1.0, 2.0]


def test_a_server_that_stays_away_is_one_sentence_and_all_is_kept(
    record: RunRecord, client: MlflowClient, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    sink = MlflowSinkFactory.of(record)()
    server.stop()
    try:
        sink.log_metrics({"late": 1.0}, step=0)
        with pytest.raises(TrackingError) as caught:
            sink.close(wait_s=1)
    finally:
        server.start()
    told = str(caught.value)
    assert told.startswith(
        f"MLflow at {server.uri} must take what run {record.run_id} measured within 1 s, got an error ("
    )
    assert f"; 1 reports wait in {Spool(server.uri, record.run_id).path}; run the same command again)" in told
    assert "\n" not in told
    with all_handed_on(record):
        pass
    assert client.get_run(record.run_id).data.metrics["late"] == 1.0
