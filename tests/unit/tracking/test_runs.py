import json
import os
import pickle
from pathlib import Path

import mlflow
import pytest
import yaml
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import RunTag

from dvt.config import ConfigError, load_recipe
from dvt.tracking import (
    RunRecord,
    TrackingError,
    closed_as_it_ends,
    finish_run,
    log_artifacts,
    log_front,
    log_tags,
    open_run,
)
from dvt.tracking.runs import _as_param
from tests.unit.tracking.tiny import tiny_recipe


@pytest.fixture
def client(store: str) -> MlflowClient:
    return MlflowClient(tracking_uri=store)


def read_artifact(record: RunRecord, path: str, folder: Path) -> str:
    local = download_artifacts(
        run_id=record.run_id, artifact_path=path, tracking_uri=record.tracking_uri, dst_path=str(folder)
    )
    return Path(local).read_text()


def test_a_new_run_tells_what_is_run(store: str, client: MlflowClient, tmp_path: Path) -> None:
    recipe = tiny_recipe()
    record = open_run(recipe, tracking_uri=store, run_name="first", tags={"data.digest": "abc"})
    run = client.get_run(record.run_id)
    assert (run.info.status, run.info.run_name) == ("RUNNING", "first")
    assert client.get_experiment(record.experiment_id).name == "dvt"

    assert run.data.params["cascade.stages.1.token_grid"] == "4"
    assert run.data.params["cascade.stages.1.feature_reuse_depth"] == "all"
    assert run.data.params["optimizer.clip_grad"] == "null"
    assert run.data.params["exits.static_reference"] == "false"
    assert run.data.params["data.augment.crop_scale"] == "[0.08, 1.0]"

    config = tmp_path / "read.yaml"
    config.write_text(read_artifact(record, "config.yaml", tmp_path))
    assert load_recipe(config) == recipe


def test_tags_tell_the_code_and_the_versions(store: str, client: MlflowClient) -> None:
    record = open_run(tiny_recipe(), tracking_uri=store, run_name="tags", tags={"data.digest": "abc"})
    tags = client.get_run(record.run_id).data.tags
    assert set(tags) >= {"git.commit", "git.dirty", "source.sha256", "mlflow.user", "mlflow.source.name"}
    assert set(tags) >= {f"version.{name}" for name in ("python", "torch", "timm", "ray", "mlflow")}
    assert tags["version.mlflow"] == mlflow.__version__
    assert tags["data.digest"] == "abc"
    assert tags["git.dirty"] in ("true", "false", "unknown")


def test_artifacts_lie_beside_the_database(store: str, client: MlflowClient, tmp_path: Path) -> None:
    record = open_run(tiny_recipe(), tracking_uri=store, run_name="artifacts")
    (tmp_path / "front").mkdir()
    (tmp_path / "front" / "front.csv").write_text("macs,accuracy\n")
    log_front(record, tmp_path / "front")
    log_artifacts(record, tmp_path / "front", "copies")
    beside = Path(store.removeprefix("sqlite:///")).parent / "mlartifacts" / record.run_id / "artifacts"
    assert (beside / "front" / "front.csv").read_text() == "macs,accuracy\n"
    assert {path.path for path in client.list_artifacts(record.run_id)} == {"config.yaml", "copies", "front"}


def test_no_secret_is_kept(store: str, client: MlflowClient, tmp_path: Path) -> None:
    recipe = tiny_recipe(root="s3://KEY:hush@bucket/images")
    record = open_run(recipe, tracking_uri=store, run_name="secret")
    run = client.get_run(record.run_id)
    assert run.data.params["data.root"] == "s3://bucket/images"
    told = json.dumps([run.data.params, run.data.tags]) + read_artifact(record, "config.yaml", tmp_path)
    assert "hush" not in told
    assert yaml.safe_load(read_artifact(record, "config.yaml", tmp_path))["data"]["root"] == "s3://bucket/images"


def test_long_params_are_cut_and_say_so() -> None:
    assert _as_param("x" * 6000) == "x" * 6000
    assert len(_as_param("x" * 6001)) == 6000
    assert _as_param("x" * 6001).endswith("x (cut, see config.yaml)")


def test_the_same_run_is_reopened_after_a_restart(store: str, client: MlflowClient) -> None:
    first = open_run(tiny_recipe(), tracking_uri=store, run_name="restart")
    finish_run(first, "FAILED")
    assert client.get_run(first.run_id).info.status == "FAILED"
    again = open_run(tiny_recipe(), tracking_uri=store, run_name="ignored", resume=RunRecord.from_json(first.to_json()))
    assert again == first
    run = client.get_run(first.run_id)
    assert (run.info.status, run.info.run_name) == ("RUNNING", "restart")
    assert not [name for name in run.data.tags if name.startswith("resumed.")]
    finish_run(again, "FINISHED")
    assert client.get_run(first.run_id).info.status == "FINISHED"


def test_what_a_restart_changes_is_told_and_nothing_is_overwritten(
    store: str, client: MlflowClient, tmp_path: Path
) -> None:
    first = open_run(tiny_recipe(root="/old"), tracking_uri=store, run_name="changed")
    client.log_batch(first.run_id, tags=[RunTag("source.sha256", "old code")])
    open_run(tiny_recipe(root="/new"), tracking_uri=store, run_name="changed", resume=first)
    run = client.get_run(first.run_id)
    assert (run.data.params["data.root"], run.data.tags["resumed.data.root"]) == ("/old", "/new")
    assert run.data.tags["source.sha256"] == "old code"
    assert len(run.data.tags["resumed.source.sha256"]) == 64
    assert "root: /new" in read_artifact(first, "config.yaml", tmp_path)


def test_a_start_that_was_cut_short_is_completed(store: str, client: MlflowClient) -> None:
    whole = open_run(tiny_recipe(), tracking_uri=store, run_name="whole")
    bare = client.create_run(whole.experiment_id, run_name="bare")
    open_run(
        tiny_recipe(), tracking_uri=store, run_name="", resume=RunRecord(store, whole.experiment_id, bare.info.run_id)
    )
    completed = client.get_run(bare.info.run_id).data
    assert completed.params == client.get_run(whole.run_id).data.params
    assert completed.tags["source.sha256"] == client.get_run(whole.run_id).data.tags["source.sha256"]


def test_a_deleted_run_is_told(store: str, client: MlflowClient) -> None:
    record = open_run(tiny_recipe(), tracking_uri=store, run_name="deleted")
    client.delete_run(record.run_id)
    with pytest.raises(TrackingError) as caught:
        open_run(tiny_recipe(), tracking_uri=store, run_name="deleted", resume=record)
    assert str(caught.value) == (
        f"the MLflow run to go on with must exist, got {record.run_id}, which was deleted at {store}; "
        f"restore it (mlflow runs restore --run-id {record.run_id}) or start a new run under another run.name"
    )


def test_a_run_of_another_store_is_told(store: str) -> None:
    elsewhere = RunRecord("http://ann:pa55@old:5000", "1", "0123456789abcdef0123456789abcdef")
    with pytest.raises(TrackingError) as caught:
        open_run(tiny_recipe(), tracking_uri=store, run_name="x", resume=elsewhere)
    assert str(caught.value) == (
        f"the MLflow run to go on with must exist, got {elsewhere.run_id}, which is not at {store}; "
        "give the tracking address that it was started with (http://old:5000) "
        "or start a new run under another run.name"
    )


def test_a_deleted_experiment_is_told(store: str, client: MlflowClient) -> None:
    client.delete_experiment(client.create_experiment("gone"))
    with pytest.raises(ConfigError) as caught:
        open_run(tiny_recipe(experiment="gone"), tracking_uri=store, run_name="x")
    assert str(caught.value) == (
        "run.experiment must be an active MLflow experiment, got 'gone', which is deleted; "
        "restore it or choose another name"
    )


def test_a_run_may_stand_under_another(store: str, client: MlflowClient) -> None:
    search = open_run(tiny_recipe(), tracking_uri=store, run_name="search")
    trial = open_run(tiny_recipe(), tracking_uri=store, run_name="trial", parent=search)
    assert client.get_run(trial.run_id).data.tags["mlflow.parentRunId"] == search.run_id


def test_tags_can_be_added_later(store: str, client: MlflowClient) -> None:
    record = open_run(tiny_recipe(), tracking_uri=store, run_name="later")
    log_tags(record, {"skipped_images": "3"})
    log_tags(record, {"skipped_images": "4"})
    assert client.get_run(record.run_id).data.tags["skipped_images"] == "4"


class TestRunRecord:
    record = RunRecord("http://ann:pa55@host:5000", "7", "abc")

    def test_it_pickles_and_goes_through_json_without_its_password(self) -> None:
        assert pickle.loads(pickle.dumps(self.record)) == self.record  # noqa: S301  our own bytes
        assert json.loads(self.record.to_json()) == {
            "tracking_uri": "http://host:5000",
            "experiment_id": "7",
            "run_id": "abc",
        }
        assert RunRecord.from_json(self.record.to_json()) == RunRecord("http://host:5000", "7", "abc")
        assert "pa55" not in repr(self.record) + self.record.address

    def test_its_page(self) -> None:
        assert self.record.page_path == "#/experiments/7/runs/abc"

    @pytest.mark.parametrize("text", ["", "[]", '{"run_id": "abc"}'])
    def test_a_broken_record_is_told(self, text: str) -> None:
        with pytest.raises(TrackingError) as caught:
            RunRecord.from_json(text)
        assert str(caught.value) == (
            "the record of the MLflow run must be JSON with tracking_uri, experiment_id and run_id, "
            f"got {text!r}; start a new run under another run.name"
        )


def test_no_global_state_is_touched(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (mlflow.get_tracking_uri(), mlflow.get_registry_uri(), dict(os.environ))
    finish_run(open_run(tiny_recipe(), tracking_uri=store, run_name="state"), "FINISHED")
    assert (mlflow.get_tracking_uri(), mlflow.get_registry_uri(), dict(os.environ)) == before
    assert mlflow.active_run() is None


@pytest.mark.parametrize(
    ("ending", "status"), [(None, "FINISHED"), (KeyboardInterrupt(), "KILLED"), (ValueError("no"), "FAILED")]
)
def test_a_run_is_closed_as_it_ends(
    store: str, client: MlflowClient, ending: BaseException | None, status: str
) -> None:
    record = open_run(tiny_recipe(), tracking_uri=store, run_name="ending")
    try:
        with closed_as_it_ends(record):
            if ending is not None:
                raise ending
    except (KeyboardInterrupt, ValueError) as raised:
        assert raised is ending  # noqa: PT017  what ended it is told
    assert client.get_run(record.run_id).info.status == status
