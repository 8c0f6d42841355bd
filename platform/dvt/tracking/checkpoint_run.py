"""The MLflow run of a checkpoint that no run of ours made: found again by the digest of its weights."""

from mlflow import MlflowClient

from dvt.config import Recipe
from dvt.tracking.address import check_tracking
from dvt.tracking.errors import one_sentence
from dvt.tracking.runs import RunRecord, finish_run, open_run

DIGEST_TAG = "checkpoint.sha256"


def run_of_checkpoint(uri: str, recipe: Recipe, digest: str) -> RunRecord:
    """The run that stands for a checkpoint, made if there is none yet.

    Args:
        uri: The tracking address.
        recipe: Of the checkpoint; names the run and its experiment.
        digest: SHA-256 of the weights.

    Raises:
        ConfigError: If the experiment is deleted.
        TrackingError: If MLflow refuses.
    """
    check_tracking(uri)
    with one_sentence("find the run of the checkpoint", uri):
        client = MlflowClient(tracking_uri=uri)
        experiment = client.get_experiment_by_name(recipe.run.experiment)
        if experiment is not None:
            wanted = f"tags.`{DIGEST_TAG}` = '{digest}'"
            found = client.search_runs([experiment.experiment_id], wanted, max_results=1)
            if found:
                return RunRecord(uri, str(experiment.experiment_id), str(found[0].info.run_id))
    record = open_run(recipe, tracking_uri=uri, run_name=recipe.name, tags={DIGEST_TAG: digest})
    finish_run(record, "FINISHED")
    return record
