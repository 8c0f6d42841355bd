"""What a run was made from and on, kept with it: its data by fingerprint, the installed packages, the nodes."""

import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag

from dvt.config import DataConfig, to_dict
from dvt.tracking.errors import one_sentence, without_credentials
from dvt.tracking.runs import RunRecord

ENVIRONMENT_FILE, HARDWARE_FILE = "environment.txt", "hardware.json"
_DIGEST = 32  # characters of a fingerprint; MLflow takes 36
_CONTEXT = "mlflow.data.context"  # the tag by which MLflow's page says what a data set was for


def log_data(record: RunRecord, data: DataConfig, sizes: Mapping[str, int], fingerprints: Mapping[str, str]) -> None:
    """Keep which images a run saw, as inputs of the run; logging the same again changes nothing.

    Args:
        record: The run.
        data: Where the images are from.
        sizes: Number of images by part: train, calibration, test.
        fingerprints: SHA-256 by part, in hex.

    Raises:
        TrackingError: If MLflow refuses.
    """
    source = without_credentials(data.root) if data.root is not None else data.source
    inputs = [
        DatasetInput(
            Dataset(
                name=f"{data.source}-{part}",
                digest=fingerprints[part][:_DIGEST],
                source_type=data.source,
                source=json.dumps({"uri": source}),
                profile=json.dumps({"num_rows": size, "seed": to_dict(data)["seed"]}),
            ),
            [InputTag(_CONTEXT, part)],
        )
        for part, size in sizes.items()
    ]
    with one_sentence(f"keep the data of run {record.run_id}", record.tracking_uri):
        MlflowClient(tracking_uri=record.tracking_uri).log_inputs(record.run_id, inputs)


def log_environment(record: RunRecord, nodes: Sequence[Mapping[str, Any]]) -> None:
    """Keep what is installed here, and the cluster's nodes, as files of the run; the newest try's replace older ones.

    Args:
        record: The run.
        nodes: What there is of each node.

    Raises:
        TrackingError: If MLflow refuses.
    """
    head = f"# Python {platform.python_version()} on {platform.platform()}"
    packages = sorted({f"{each.name}=={each.version}" for each in importlib.metadata.distributions()}, key=str.lower)
    with one_sentence(f"keep the environment of run {record.run_id}", record.tracking_uri):
        client = MlflowClient(tracking_uri=record.tracking_uri)
        client.log_text(record.run_id, "\n".join([head, *packages]) + "\n", ENVIRONMENT_FILE)
        client.log_text(record.run_id, json.dumps({"nodes": list(nodes)}, indent=1) + "\n", HARDWARE_FILE)
