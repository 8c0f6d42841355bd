"""The checkpoints that a run keeps, as MLflow's logged models: each with its address, and what was measured on it.

Nothing is uploaded: the files stay in the run's folder, whose storage all nodes reach.
"""

from collections.abc import Sequence

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Metric

from dvt.tracking.errors import one_sentence, without_credentials
from dvt.tracking.runs import RunRecord
from dvt.train.past_run import KeptCheckpoint

MODEL_TYPE = "dvt-checkpoint"
ADDRESS_TAG, BEST_TAG = "checkpoint.address", "checkpoint.is_best"


def log_checkpoints(record: RunRecord, checkpoints: Sequence[KeptCheckpoint]) -> None:
    """Make the run's logged checkpoints those that it keeps; logging the same again changes nothing.

    Args:
        record: The run.
        checkpoints: All that it keeps; what was logged of others, which are gone, is removed.

    Raises:
        TrackingError: If MLflow refuses.
    """
    with one_sentence(f"keep the checkpoints of run {record.run_id}", record.tracking_uri):
        client = MlflowClient(tracking_uri=record.tracking_uri)
        known = {model.tags[ADDRESS_TAG]: model for model in _logged(client, record)}
        addresses = {without_credentials(each.address): each for each in checkpoints}
        for address in known.keys() - addresses.keys():
            client.delete_logged_model(known[address].model_id)
        for address, checkpoint in addresses.items():
            tags = {ADDRESS_TAG: address, BEST_TAG: str(checkpoint.is_best).lower()}
            if address in known:
                client.set_logged_model_tags(known[address].model_id, tags)
            else:
                _log(client, record, checkpoint, tags)


def _logged(client: MlflowClient, record: RunRecord) -> list[LoggedModel]:
    condition = f"source_run_id = '{record.run_id}' AND model_type = '{MODEL_TYPE}'"
    return list(client.search_logged_models([record.experiment_id], filter_string=condition))


def _log(client: MlflowClient, record: RunRecord, checkpoint: KeptCheckpoint, tags: dict[str, str]) -> None:
    model = client.create_logged_model(
        record.experiment_id,
        name=f"checkpoint-{checkpoint.step}",
        source_run_id=record.run_id,
        tags=tags,
        params={"step": str(checkpoint.step)},
        model_type=MODEL_TYPE,
    )
    client.log_outputs(record.run_id, [LoggedModelOutput(model.model_id, step=checkpoint.step)])
    measured = {name: value for name, value in checkpoint.metrics.items() if name.startswith("calibration/")}
    now, step = model.creation_timestamp, checkpoint.step
    metrics = [
        Metric(name, value, now, step, model_id=model.model_id, run_id=record.run_id)
        for name, value in measured.items()
    ]
    client.log_batch(record.run_id, metrics=metrics)
    client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
