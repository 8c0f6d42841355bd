import dataclasses
import os
import warnings
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.exceptions import MlflowException

from dvt.models import macs_per_exit
from dvt.tracking import ModelRecord, RunRecord, TrackingError, log_and_register_model, model_package, open_run
from tests.unit.tracking.tiny import CASCADE, Tiny, make_tiny, tiny_recipe


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return make_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def client(store: str) -> MlflowClient:
    return MlflowClient(tracking_uri=store)


@pytest.fixture
def record(store: str) -> RunRecord:
    return open_run(tiny_recipe(), tracking_uri=store, run_name="model")


def versions(client: MlflowClient, name: str) -> list[str]:
    return sorted(str(version.version) for version in client.search_model_versions(f"name = '{name}'"))


def models(client: MlflowClient, record: RunRecord) -> list[str]:
    found = client.search_logged_models([record.experiment_id], f"source_run_id = '{record.run_id}'")
    return [model.model_id for model in found]


def test_the_model_is_registered_under_the_alias(record: RunRecord, client: MlflowClient, tiny: Tiny) -> None:
    made = log_and_register_model(record, tiny.content, registered_name="dvt-first")
    assert made == ModelRecord(
        model_id=made.model_id, model_uri="models:/dvt-first/1", registered_name="dvt-first", version="1"
    )
    version = client.get_model_version_by_alias("dvt-first", "candidate")
    assert (str(version.version), version.run_id, version.status) == ("1", record.run_id, "READY")
    assert version.source == client.get_logged_model(made.model_id).artifact_location


def test_the_logged_model_holds_metrics_and_is_linked_to_run_and_step(
    record: RunRecord, client: MlflowClient, tiny: Tiny
) -> None:
    made = log_and_register_model(record, tiny.content, registered_name=None)
    assert (made.registered_name, made.version) == (None, None)
    assert made.model_uri == f"models:/{made.model_id}"
    model = client.get_logged_model(made.model_id)
    assert (model.name, model.status, model.source_run_id) == ("dvt-tiny", "READY", record.run_id)
    assert model.params["stages.1.token_grid"] == "4"

    metrics = {metric.key: metric.value for metric in model.metrics}
    assert {metric.step for metric in model.metrics} == {7}
    first, last = macs_per_exit(CASCADE)
    assert (metrics["exit_1/macs"], metrics["exit_2/macs"]) == (first, last)
    report = tiny.content.report
    assert metrics["test/exit_1/top1"] == report.exits[0].test_top1
    assert metrics["test/exit_2/top1"] == report.exits[1].test_top1
    assert metrics["test/budget_2/top1"] == report.budgets[1].test.accuracy
    assert metrics["budget_2/macs"] == report.budgets[1].budget_macs
    assert metrics["test/front_optimism"] == report.front_optimism

    outputs = client.get_run(record.run_id).outputs
    assert [(output.model_id, output.step) for output in outputs.model_outputs] == [(made.model_id, 7)]


def test_calling_again_finds_what_was_made(record: RunRecord, client: MlflowClient, tiny: Tiny) -> None:
    first = log_and_register_model(record, tiny.content, registered_name="dvt-again")
    again = log_and_register_model(record, tiny.content, registered_name="dvt-again")
    assert again == first
    assert versions(client, "dvt-again") == ["1"]
    assert models(client, record) == [first.model_id]
    assert len(client.get_run(record.run_id).outputs.model_outputs) == 1
    assert len(client.get_metric_history(record.run_id, "exit_1/macs")) == 1


def test_other_weights_are_another_version(record: RunRecord, client: MlflowClient, tiny: Tiny, tmp_path: Path) -> None:
    log_and_register_model(record, tiny.content, registered_name="dvt-longer")
    later = log_and_register_model(record, make_tiny(tmp_path, seed=1).content, registered_name="dvt-longer")
    assert later.version == "2"
    assert str(client.get_model_version_by_alias("dvt-longer", "candidate").version) == "2"


def test_the_alias_does_not_go_back(record: RunRecord, client: MlflowClient, tiny: Tiny, tmp_path: Path) -> None:
    log_and_register_model(record, tiny.content, registered_name="dvt-back")
    log_and_register_model(record, make_tiny(tmp_path, seed=2).content, registered_name="dvt-back")
    assert log_and_register_model(record, tiny.content, registered_name="dvt-back").version == "1"
    assert str(client.get_model_version_by_alias("dvt-back", "candidate").version) == "2"


def test_a_crash_before_the_alias_is_mended(record: RunRecord, client: MlflowClient, tiny: Tiny) -> None:
    log_and_register_model(record, tiny.content, registered_name="dvt-mended")
    client.delete_registered_model_alias("dvt-mended", "candidate")
    log_and_register_model(record, tiny.content, registered_name="dvt-mended")
    assert str(client.get_model_version_by_alias("dvt-mended", "candidate").version) == "1"


@pytest.mark.parametrize("step", ["log_outputs", "log_model_artifacts", "log_batch", "finalize_logged_model"])
def test_nothing_is_registered_before_all_is_kept_and_the_next_call_goes_on(
    record: RunRecord, client: MlflowClient, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise MlflowException("the disk is full")

    name = f"dvt-{step.replace('_', '-')}"
    with monkeypatch.context() as patched:
        patched.setattr(MlflowClient, step, refuse)
        with pytest.raises(TrackingError) as caught:
            log_and_register_model(record, tiny.content, registered_name=name)
    assert str(caught.value) == (
        f"MLflow at {record.tracking_uri} must keep the model, got an error (the disk is full)"
    )
    assert client.search_registered_models(f"name = '{name}'") == []
    made = log_and_register_model(record, tiny.content, registered_name=name)
    assert models(client, record) == [made.model_id]
    assert client.get_logged_model(made.model_id).status == "READY"
    assert len(client.get_run(record.run_id).outputs.model_outputs) == 1
    assert versions(client, name) == ["1"]


def test_a_model_that_was_not_measured_here_has_costs_and_what_was_published(
    record: RunRecord, client: MlflowClient, tiny: Tiny, tmp_path: Path
) -> None:
    content = dataclasses.replace(tiny.content, report=None, published_top1=(0.625, 0.75))
    made = log_and_register_model(record, content, registered_name=None)
    model = client.get_logged_model(made.model_id)
    first, last = macs_per_exit(CASCADE)
    assert {metric.key: metric.value for metric in model.metrics} == {
        "exit_1/macs": first,
        "exit_2/macs": last,
        "published/exit_1/top1": 0.625,
        "published/exit_2/top1": 0.75,
    }
    local = Path(download_artifacts(artifact_uri=model.artifact_location, dst_path=str(tmp_path)))
    names = {path.name for path in (local / "artifacts").iterdir()}
    files = {"cascade.yaml", "model.safetensors", "serving.json", "thresholds.json"}
    assert names == files | {"latency.json", "model_card.md", "checksums.json"}
    assert content.default_budget_macs == last


def test_a_model_that_would_take_long_to_measure_is_registered_without_a_profile(
    record: RunRecord, client: MlflowClient, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_package, "MEASURED_MACS", 26 * macs_per_exit(CASCADE)[-1])  # of 27 images
    made = log_and_register_model(record, make_tiny(tmp_path, seed=3).content, registered_name=None)
    location = client.get_logged_model(made.model_id).artifact_location
    names = {path.name for path in (Path(download_artifacts(artifact_uri=location)) / "artifacts").iterdir()}
    assert "latency.json" not in names
    assert "checksums.json" in names


def test_without_budgets_a_request_may_spend_all(tiny: Tiny) -> None:
    content = dataclasses.replace(tiny.content, report=dataclasses.replace(tiny.content.report, budgets=()))
    assert content.default_budget_macs == macs_per_exit(CASCADE)[-1]
    assert tiny.content.default_budget_macs == max(point.budget_macs for point in tiny.content.report.budgets)


def test_it_is_quiet_and_touches_no_global_state(
    record: RunRecord,
    tiny: Tiny,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = (mlflow.get_tracking_uri(), mlflow.get_registry_uri(), dict(os.environ))
    filters = list(warnings.filters)
    log_and_register_model(record, tiny.content, registered_name="dvt-quiet")
    assert (mlflow.get_tracking_uri(), mlflow.get_registry_uri(), dict(os.environ)) == before
    assert mlflow.active_run() is None
    assert list(warnings.filters) == filters
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []
