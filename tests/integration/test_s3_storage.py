"""The training job with its runs in a bucket of a real S3 server, as on nodes that have an AWS configuration."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from tests.integration.cluster import RayCluster, driving, running_cluster
from tests.integration.s3_server import S3Server
from tests.integration.test_train_job import tiny

pytestmark = [pytest.mark.ray, pytest.mark.slow]

BUCKET = "dvt-runs"
EPOCHS = 6


class Bucket:
    """A bucket as others see it, with a client that keeps nothing in mind."""

    def __init__(self, server: S3Server) -> None:
        self._client: Any = server.client()
        self._client.create_bucket(Bucket=BUCKET)

    def keys(self, prefix: str = "") -> list[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return [entry["Key"] for page in pages for entry in page.get("Contents", ())]

    def read(self, key: str) -> bytes:
        content: bytes = self._client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return content

    def write(self, key: str, content: bytes) -> None:
        self._client.put_object(Bucket=BUCKET, Key=key, Body=content)

    def close(self) -> None:
        self._client.close()


@pytest.fixture(scope="module")
def s3_cluster(s3: S3Server) -> Iterator[RayCluster]:
    """A cluster of its own: nodes take their AWS configuration from the environment that they are started in."""
    with running_cluster(num_cpus=2, env=s3.env) as started:
        yield started


@pytest.fixture(scope="module")
def bucket(s3: S3Server) -> Iterator[Bucket]:
    opened = Bucket(s3)
    yield opened
    opened.close()


def test_a_killed_driver_goes_on_from_the_bucket(
    s3: S3Server, s3_cluster: RayCluster, bucket: Bucket, tmp_path: Path
) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    where = ["--run.storage-path", f"s3://{BUCKET}/team/runs", "--run.tracking-uri", uri]
    words = tiny("--data.train-images", "2048", *where, epochs=EPOCHS, workers=1)
    run = "team/runs/embedded-001"

    with driving(words, cwd=tmp_path, env=s3_cluster.env, python=s3_cluster.python) as killed:
        killed.wait_for(f"epoch 2/{EPOCHS}")
        killed.process.send_signal(signal.SIGKILL)
        assert killed.finish() == -signal.SIGKILL, killed.text
    begun = json.loads(bucket.read(f"{run}/run.json"))
    assert f"{run}/finished.json" not in bucket.keys(run)
    # What an upload leaves that the driver's death has cut short.
    bucket.write(f"{run}/checkpoints/checkpoint_2026-01-01_00-00-00.000000/model.safetensors", b"half")

    with driving(words, cwd=tmp_path, env=s3_cluster.env, python=s3_cluster.python) as driver:
        assert driver.finish() == 0, driver.text
    assert f"epoch 1/{EPOCHS}" not in driver.text
    assert f"epoch {EPOCHS}/{EPOCHS}" in driver.text
    assert f"s3://{BUCKET}/{run}/checkpoints" in driver.text

    keys = bucket.keys()
    names = {key.removeprefix(f"{run}/") for key in keys}
    assert all(key.startswith(f"{run}/") for key in keys), "one run, and nothing beside it"
    assert names >= {"recipe.yaml", "run.json", "finished.json", "front/front.json", "front/front.csv"}
    assert bucket.read(f"{run}/front/front.png").startswith(b"\x89PNG")
    _only_the_last_and_the_best_are_kept(names)

    assert json.loads(bucket.read(f"{run}/run.json")) == begun
    assert json.loads(bucket.read(f"{run}/finished.json"))["mlflow_run"] == begun["run_id"]
    client = MlflowClient(tracking_uri=uri)
    assert [kept.info.run_id for kept in client.search_runs([begun["experiment_id"]])] == [begun["run_id"]]
    assert client.get_run(begun["run_id"]).info.status == "FINISHED"
    epochs = {point.value for point in client.get_metric_history(begun["run_id"], "epoch")}
    assert epochs == set(range(1, EPOCHS + 1))
    _no_credentials(s3, {key: bucket.read(key) for key in keys} | _files(tmp_path))


def test_a_refused_key_is_told_in_a_sentence(
    s3: S3Server, s3_cluster: RayCluster, bucket: Bucket, tmp_path: Path
) -> None:
    words = tiny("--run.storage-path", f"s3://{BUCKET}/refused", epochs=1, workers=1)
    words += ["--run.tracking-uri", f"sqlite:///{tmp_path / 'mlflow.db'}"]
    env = s3_cluster.env | {"AWS_SECRET_ACCESS_KEY": "wrong"}
    with driving(words, cwd=tmp_path, env=env, python=s3_cluster.python) as driver:
        assert driver.finish() == 2, driver.text
    rule = f"run.storage_path must be a folder or s3:// address that can be written, got s3://{BUCKET}/refused ("
    assert rule in " ".join(driver.text.split())
    assert "Traceback" not in driver.text
    assert bucket.keys("refused") == []
    _no_credentials(s3, _files(tmp_path))


def _only_the_last_and_the_best_are_kept(names: set[str]) -> None:
    """Of checkpoints, the listed ones are there, whole, and no others."""
    files: dict[str, set[str]] = {}
    for name in names:
        folder, _, file = name.removeprefix("checkpoints/").partition("/")
        if name.startswith("checkpoints/checkpoint_2"):  # each is named after its date
            files.setdefault(folder, set()).add(file)
    assert 1 <= len(files) <= 2, sorted(names)
    for found in files.values():
        assert found >= {"model.safetensors", "ema.safetensors", "config.yaml", "training_state.pt"}


def _files(folder: Path) -> dict[str, bytes]:
    """Everything below a folder: what commands printed, MLflow's database and its artifacts."""
    found = {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert any(name.endswith(".log") for name in found)
    assert any(name.endswith("mlflow.db") for name in found)
    return found


def _no_credentials(server: S3Server, texts: dict[str, bytes]) -> None:
    told = {
        name
        for name, text in texts.items()
        for secret in (server.access_key, server.secret_key)
        if secret.encode() in text
    }
    assert not told, "credentials must stay where they are"
