"""A training job against MLflow's server as `infra/mlflow` runs it: PostgreSQL, a bucket, users by name."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import psycopg
import pytest
import requests
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.exceptions import MlflowException
from PIL import Image

from dvt.cli.main import main
from dvt.tracking import TrackingError, check_tracking
from dvt.tracking.moves import roll_back
from tests.integration.cluster import RayCluster, submitted
from tests.integration.mlflow_server import ADMIN, TeamServer, as_user
from tests.integration.postgres_server import running_postgres
from tests.integration.s3_server import S3Server
from tests.integration.test_train_job import TINY, tiny
from tests.unit.tracking.gate_race import NUM_GATES, race

pytestmark = [pytest.mark.ray, pytest.mark.slow]

BUCKET = "dvt-team"
ANN, BOB = ("ann", "a long password of ann"), ("bob", "a long password of bob")


@pytest.fixture(scope="module")
def bucket(s3: S3Server) -> Iterator[Any]:
    client: Any = s3.client()
    client.create_bucket(Bucket=BUCKET)
    yield client
    client.close()


@pytest.fixture(scope="module")
def server(s3: S3Server, bucket: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TeamServer]:
    with running_postgres() as postgres:
        server = TeamServer(postgres, s3, BUCKET, tmp_path_factory.mktemp("mlflow"))
        try:
            server.start()
            yield server
        finally:
            server.stop()


@pytest.fixture
def user(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes this process a user of the server."""

    def become(name: str, password: str) -> None:
        for variable, value in as_user(name, password).items():
            monkeypatch.setenv(variable, value)

    return become


def keys(bucket: Any) -> list[str]:
    pages = bucket.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    return [entry["Key"] for page in pages for entry in page.get("Contents", ())]


def test_a_job_trains_registers_and_is_read_back_by_its_user_alone(
    cluster: RayCluster, server: TeamServer, bucket: Any, user: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, password in (ANN, BOB):
        _make_user(server, name, password)

    words = [word if word != TINY[1] else "jobs/recipes/embedded.yaml" for word in tiny(epochs=1, workers=2)]
    words += ["--run.storage-path", str(tmp_path / "runs"), "--run.tracking-uri", server.uri]
    told = submitted(cluster, "python", "jobs/train_imagenet.py", *words, env=as_user(*ANN))
    assert "dvt-embedded version 1, alias candidate" in told
    assert ANN[1] not in told
    for process in cluster.processes("ray::"):
        assert not [name for name in process.environ() if name.startswith("AWS_")]
    assert not [name for name in cluster.env if name.startswith("AWS_")]

    record = json.loads((tmp_path / "runs" / "embedded-001" / "run.json").read_text())
    run_id = record["run_id"]
    with psycopg.connect(server.postgres.uri) as database:
        rows = database.execute("SELECT status FROM runs WHERE run_uuid = %s", (run_id,)).fetchall()
    assert rows == [("FINISHED",)]
    stored = keys(bucket)
    assert all(key.startswith("team/") for key in stored)
    assert any(key.endswith(f"{run_id}/artifacts/front/front.json") for key in stored)
    assert any(key.endswith("/artifacts/artifacts/model.safetensors") for key in stored)

    server.stop()
    server.start()
    user(*ANN)
    monitor = MlflowClient(tracking_uri=server.uri)
    run = monitor.get_run(run_id)
    assert run.data.params["optimizer.epochs"] == "1"
    assert run.data.metrics["epoch"] == 1
    front = download_artifacts(
        run_id=run_id, artifact_path="front/front.json", tracking_uri=server.uri, dst_path=str(tmp_path)
    )
    assert json.loads(Path(front).read_text()) == json.loads(
        (tmp_path / "runs/embedded-001/front/front.json").read_text()
    )
    _predicts_as_ann(server, tmp_path, capsys)

    user(*BOB)
    for forbidden in (monitor.get_run, monitor.delete_run):
        with pytest.raises(MlflowException, match="Permission denied"):
            forbidden(run_id)
    assert main(["front", run_id, "--tracking-uri", server.uri]) == 1
    assert "Permission denied" in _sentence(capsys)
    user(ANN[0], BOB[1])
    with pytest.raises(TrackingError) as caught:
        check_tracking(server.uri)
    assert str(caught.value) == (
        f"run.tracking_uri (or MLFLOW_TRACKING_URI) must be an MLflow server that lets you in, got {server.uri}, "
        f"which refuses access (HTTP 401); set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
        f"MLFLOW_TRACKING_TOKEN"
    )
    secrets = (ANN[1], BOB[1], server.password, server.secret_key, server.postgres.password, server.s3.secret_key)
    assert not [secret for secret in secrets if secret in server.log.read_text()]


def test_gates_that_race_move_an_alias_once(server: TeamServer, user: Any) -> None:
    """As with a SQLite file in tests/unit/tracking/test_promotion.py, but through HTTP, users and PostgreSQL."""
    user(ADMIN, server.password)
    client = MlflowClient(tracking_uri=server.uri)
    run = client.create_run("0")
    client.create_registered_model("raced")
    for alias in ("champion", "candidate"):
        version = client.create_model_version("raced", run.info.artifact_uri, run.info.run_id)
        client.set_registered_model_alias("raced", alias, version.version)
    too_late = (
        "alias champion of raced must stay on version 1 while the gate measures, got version 2 meanwhile; nothing was "
        "moved, run the same command again"
    )
    assert sorted(race(server.uri, "raced")) == ["2"] + [too_late] * (NUM_GATES - 1)
    tags = client.get_model_version("raced", "2").tags
    assert len([key for key in tags if key.startswith("gate.history.")]) == NUM_GATES
    assert roll_back(server.uri, "raced", "champion").target == "1"


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("mlflow.example", "https://mlflow.example", 200),  # a browser on the server's own pages, through a proxy
        ("mlflow.example", "https://elsewhere.example", 403),
        ("elsewhere.example", "https://mlflow.example", 403),
    ],
)
def test_browsers_get_in_from_the_servers_own_pages_alone(
    server: TeamServer, host: str, origin: str, status: int
) -> None:
    answer = requests.post(
        f"{server.uri}/ajax-api/2.0/mlflow/runs/search",
        json={"experiment_ids": ["0"]},
        headers={"Host": host, "Origin": origin},
        auth=(ADMIN, server.password),
        timeout=30,
    )
    assert answer.status_code == status, answer.text


def _make_user(server: TeamServer, name: str, password: str) -> None:
    """As the administrator does it; MLflow's own client of this would import its whole server."""
    answer = requests.post(
        f"{server.uri}/api/2.0/mlflow/users/create",
        json={"username": name, "password": password},
        auth=(ADMIN, server.password),
        timeout=30,
    )
    assert answer.status_code == 200, answer.text


def _predicts_as_ann(server: TeamServer, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The registered model, through MLflow alone and by `dvt predict`."""
    pixels = np.random.default_rng(0).integers(0, 255, (28, 28), dtype=np.uint8)
    address = "models:/dvt-embedded@candidate"
    mlflow.set_tracking_uri(server.uri)
    try:
        model = mlflow.pyfunc.load_model(address)
        told = model.predict(np.zeros((1, 1, 28, 28), dtype=np.float32), params={"budget_macs": -1})
        assert told["exit_index"].tolist() == [3]
    finally:
        mlflow.set_tracking_uri(None)
    Image.fromarray(pixels).save(folder / "image.png")
    assert main(["predict", str(folder / "image.png"), "--model", address, "--tracking-uri", server.uri]) == 0
    assert "1 image · mean" in capsys.readouterr().out


def _sentence(capsys: pytest.CaptureFixture[str]) -> str:
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]
