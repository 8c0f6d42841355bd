"""What a run was made from, read back from a real SQLite store."""

import importlib.metadata
import json
from pathlib import Path

import mlflow.artifacts
import pytest
from mlflow import MlflowClient

from dvt.config import DataConfig
from dvt.tracking import RunRecord, log_data, log_environment, open_run
from tests.unit.tracking.tiny import tiny_recipe

SIZES = {"train": 90, "test": 10}
FINGERPRINTS = {"train": "a" * 64, "test": "b" * 64}


@pytest.fixture
def record(store: str) -> RunRecord:
    return open_run(tiny_recipe(), tracking_uri=store, run_name="inputs")


def test_the_data_are_inputs_of_the_run_once_and_without_credentials(record: RunRecord) -> None:
    data = DataConfig(source="folder", root="s3://ann:pa55@bucket/images")
    for _ in range(2):
        log_data(record, data, SIZES, FINGERPRINTS)
    client = MlflowClient(tracking_uri=record.tracking_uri)
    inputs = client.get_run(record.run_id).inputs.dataset_inputs
    told = {each.dataset.name: each for each in inputs}
    assert len(inputs) == len(told) == 2
    train = told["folder-train"]
    assert (train.dataset.digest, train.dataset.source_type) == ("a" * 32, "folder")
    assert json.loads(train.dataset.source) == {"uri": "s3://bucket/images"}
    assert json.loads(train.dataset.profile) == {"num_rows": 90, "seed": data.seed}
    assert {tag.key: tag.value for tag in train.tags} == {"mlflow.data.context": "train"}

    log_data(record, data, {"test": 11}, {"test": "c" * 64})  # went on with other images
    assert len(client.get_run(record.run_id).inputs.dataset_inputs) == 3


def test_packages_and_nodes_are_files_of_the_run(record: RunRecord, tmp_path: Path) -> None:
    log_environment(record, [{"host": "one", "num_gpus": 8.0}])
    files = {
        name: Path(
            mlflow.artifacts.download_artifacts(
                run_id=record.run_id, artifact_path=name, dst_path=str(tmp_path), tracking_uri=record.tracking_uri
            )
        ).read_text()
        for name in ("environment.txt", "hardware.json")
    }
    lines = files["environment.txt"].splitlines()
    assert lines[0].startswith("# Python 3.")
    assert f"torch=={importlib.metadata.version('torch')}" in lines
    assert lines[1:] == sorted(lines[1:], key=str.lower)
    assert json.loads(files["hardware.json"]) == {"nodes": [{"host": "one", "num_gpus": 8.0}]}
