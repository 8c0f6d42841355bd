"""Latency profiles of a registered model: a tag of its version, since they are measured after it was registered."""

import json
from dataclasses import asdict

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from dvt.inference import LatencyProfile
from dvt.tracking.errors import TrackingError, one_sentence
from dvt.tracking.lookup import ModelAddress, find_version

LATENCY_TAG = "latency_profiles"


def read_version_profiles(uri: str, address: ModelAddress) -> tuple[LatencyProfile, ...]:
    """The profiles that a registered version carries, one a device; none of a model that is not registered.

    Args:
        uri: The tracking address.
        address: The model.

    Raises:
        TrackingError: If MLflow does not know the model, or its tag holds something else.
    """
    version = find_version(uri, address)
    return () if version is None else _profiles(version, address)


def keep_version_profile(uri: str, address: ModelAddress, profile: LatencyProfile) -> str:
    """Tag a registered version with a profile, in place of an earlier one of the same device; returns its number.

    Args:
        uri: The tracking address.
        address: The model.
        profile: What was measured.

    Raises:
        TrackingError: If MLflow does not know the model, it is not registered, or the tag is refused.
    """
    version = find_version(uri, address)
    if version is None:
        raise TrackingError(f"{address} must be a registered model, got one that is not; give a checkpoint folder")
    profiles = {known.device: known for known in _profiles(version, address)} | {profile.device: profile}
    text = json.dumps([asdict(each) for each in profiles.values()])
    with one_sentence(f"keep the latency profile of {address}", uri):
        MlflowClient(tracking_uri=uri).set_model_version_tag(version.name, version.version, LATENCY_TAG, text)
    return str(version.version)


def _profiles(version: ModelVersion, address: ModelAddress) -> tuple[LatencyProfile, ...]:
    try:
        return tuple(map(LatencyProfile.from_dict, json.loads(version.tags.get(LATENCY_TAG, "[]"))))
    except (KeyError, TypeError, ValueError) as error:
        raise TrackingError(
            f"tag {LATENCY_TAG} of {address} must hold latency profiles, got others ({error}); delete the tag and run "
            f"dvt profile again"
        ) from error
