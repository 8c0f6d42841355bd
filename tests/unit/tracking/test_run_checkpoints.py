"""The logged checkpoints of a run are those that it keeps, with what was measured on them, in a real SQLite store."""

import pytest
from mlflow import MlflowClient

from dvt.tracking import RunRecord, log_checkpoints, open_run
from dvt.train.past_run import KeptCheckpoint
from tests.unit.tracking.tiny import tiny_recipe


@pytest.fixture
def record(store: str) -> RunRecord:
    return open_run(tiny_recipe(), tracking_uri=store, run_name="checkpoints")


def kept(step: int, *, is_best: bool = False) -> KeptCheckpoint:
    metrics = {"calibration/top1_mean": step / 100, "calibration/exit_1/top1": step / 200, "train/loss": 1.0}
    return KeptCheckpoint(address=f"s3://bucket/run/checkpoints/{step}", step=step, is_best=is_best, metrics=metrics)


def logged(record: RunRecord) -> dict[str, tuple[str, dict[str, tuple[int, float]]]]:
    """By address whether it is the best, and its metrics as (step, value)."""
    models = MlflowClient(tracking_uri=record.tracking_uri).search_logged_models(
        [record.experiment_id], filter_string=f"source_run_id = '{record.run_id}'"
    )
    assert all(model.status == "READY" for model in models)
    return {
        model.tags["checkpoint.address"]: (
            model.tags["checkpoint.is_best"],
            {metric.key: (metric.step, metric.value) for metric in model.metrics or []},
        )
        for model in models
    }


def test_each_has_its_address_and_what_was_measured_on_it(record: RunRecord) -> None:
    for _ in range(2):
        log_checkpoints(record, [kept(40, is_best=True), kept(60)])
    assert logged(record) == {
        "s3://bucket/run/checkpoints/40": (
            "true",
            {"calibration/top1_mean": (40, 0.4), "calibration/exit_1/top1": (40, 0.2)},
        ),
        "s3://bucket/run/checkpoints/60": (
            "false",
            {"calibration/top1_mean": (60, 0.6), "calibration/exit_1/top1": (60, 0.3)},
        ),
    }
    outputs = MlflowClient(tracking_uri=record.tracking_uri).get_run(record.run_id).outputs.model_outputs
    assert sorted(output.step for output in outputs) == [40, 60]


def test_what_is_kept_no_more_is_removed(record: RunRecord) -> None:
    log_checkpoints(record, [kept(40, is_best=True), kept(60)])
    log_checkpoints(record, [kept(60), kept(80, is_best=True)])
    assert {address: best for address, (best, _) in logged(record).items()} == {
        "s3://bucket/run/checkpoints/60": "false",
        "s3://bucket/run/checkpoints/80": "true",
    }
