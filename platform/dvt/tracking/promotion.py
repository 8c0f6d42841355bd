"""A promotion: what it stands on, and settling it once the gate has its verdict.

Measuring takes minutes, in which the registry may change. So a gate notes what it stands on (`Grounds`), measures
without holding anybody up, then takes a turn (`turns.py`), looks whether all is as it was, keeps its verdict and moves
the alias. Of several gates on the same grounds one moves the alias, and each other one is told what has changed. A
verdict that came too late is kept too, in the candidate's history.
"""

from dataclasses import dataclass, replace

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException

from dvt.tracking.errors import TrackingError, one_sentence
from dvt.tracking.lookup import find_registered
from dvt.tracking.moves import Move, RegistryChangedError, check_alias, move_forward, stands_on
from dvt.tracking.turns import turn_at
from dvt.tracking.verdict import FAILED, PASSED, Entry, Verdict, keep_history, keep_newest, now

CHANGED = "registry changed"
_MEANWHILE = "while the gate measures"


@dataclass(frozen=True)
class Grounds:
    """What a gate stands on."""

    name: str  # of the registered model
    alias: str  # to move
    champion: str | None  # version that the alias stands on; None where it stands on none
    candidate: str  # version that is to have it
    candidate_alias: str | None  # by which the candidate was named; None where it was by its number


def read_grounds(uri: str, name: str, candidate: str, alias: str) -> Grounds:
    """Look up what a promotion would stand on.

    Args:
        uri: The tracking address.
        name: Of the registered model.
        candidate: An alias, or a version's number.
        alias: The alias to move.

    Raises:
        TrackingError: If there is no such model, alias or version, or the candidate has the alias already.
    """
    model = find_registered(uri, name)
    champion = stands_on(model, alias)
    if candidate.isdecimal():
        found, by_alias = _version(uri, name, candidate), None
    else:
        aliased, by_alias = stands_on(model, candidate), candidate
        if aliased is None:
            told = ", ".join(sorted(model.aliases)) or "none"
            raise TrackingError(
                f"--candidate must be an alias or a version of {name}, got {candidate!r}; its aliases: {told}"
            )
        found = aliased
    if found == champion:
        raise TrackingError(
            f"candidate and {alias} of {name} must be two versions, got version {found} for both; there is nothing to "
            "promote"
        )
    return Grounds(name, alias, champion, found, by_alias)


def settle(uri: str, grounds: Grounds, verdict: Verdict) -> Move | None:
    """Keep a verdict with the candidate, and move the alias if it passed.

    Args:
        uri: The tracking address.
        grounds: What the gate stood on when it began.
        verdict: What it found.

    Returns:
        The move; None if the verdict let none happen.

    Raises:
        RegistryChangedError: If something changed under the gate; nothing was moved.
        TrackingError: If MLflow refuses, or was too slow.
    """
    with one_sentence(f"settle the promotion of {grounds.name} version {grounds.candidate}", uri):
        client = MlflowClient(tracking_uri=uri)
        with turn_at(client, client.get_registered_model(grounds.name)) as turn:
            entry = Entry(
                turn=turn.number,
                alias=grounds.alias,
                champion=grounds.champion,
                candidate=grounds.candidate,
                outcome=PASSED if verdict.is_passed else FAILED,
                at=now(),
            )
            model = client.get_registered_model(grounds.name)
            version = _candidate_of(client, grounds)
            try:
                _check(model, grounds)
            except RegistryChangedError:
                keep_history(client, grounds.name, replace(entry, outcome=CHANGED), verdict)
                raise
            keep_history(client, grounds.name, entry, verdict)
            if not verdict.is_passed:
                keep_newest(client, version, entry, verdict)
                return None
            move = Move(grounds.name, grounds.alias, grounds.champion, grounds.candidate)
            move_forward(client, model, turn, move)
            moved = replace(entry, is_moved=True)
            keep_history(client, grounds.name, moved, verdict)
            keep_newest(client, version, moved, verdict)
    return move


def _check(model: RegisteredModel, grounds: Grounds) -> None:
    check_alias(model, grounds.alias, grounds.champion, _MEANWHILE)
    if grounds.candidate_alias is not None:
        check_alias(model, grounds.candidate_alias, grounds.candidate, _MEANWHILE)


def _candidate_of(client: MlflowClient, grounds: Grounds) -> ModelVersion:
    """The candidate as it is now."""
    try:
        return client.get_model_version(grounds.name, grounds.candidate)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"):
            raise
        raise RegistryChangedError(
            f"version {grounds.candidate} of {grounds.name} must stay there {_MEANWHILE}, got a deleted one meanwhile; "
            "nothing was moved, choose another candidate"
        ) from error


def _version(uri: str, name: str, number: str) -> str:
    """A version that is there."""
    with one_sentence(f"find version {number} of {name}", uri):
        client = MlflowClient(tracking_uri=uri)
        try:
            return str(client.get_model_version(name, number).version)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND", "INVALID_PARAMETER_VALUE"):
                raise
            found = client.search_model_versions(f"name = '{name}'", order_by=["version_number ASC"])
            told = ", ".join(str(version.version) for version in found) or "none"
            raise TrackingError(
                f"--candidate must be an alias or a version of {name}, got {number!r}; its versions: {told}"
            ) from error
