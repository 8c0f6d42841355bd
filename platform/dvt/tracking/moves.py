"""Where an alias stood before: moves of it that can be taken back.

The registered model's tag `gate.before.<alias>` lists the versions that the alias stood on, oldest first; a promotion
adds the one that it replaces, a rollback takes the last one off. The list is written before a promotion's move and
after a rollback's, so that a crash between the two leaves the alias' own version at its end, which counts as nothing.
"""

from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities.model_registry import RegisteredModel
from mlflow.exceptions import MlflowException

from dvt.tracking.errors import TrackingError, one_sentence
from dvt.tracking.lookup import find_registered
from dvt.tracking.turns import Turn, turn_at
from dvt.tracking.verdict import Entry, keep_history, now

BEFORE = "gate.before."
ROLLED_BACK = "rolled back"
MAX_REMEMBERED = 500  # versions; a tag of a registered model holds 5,000 characters


class RegistryChangedError(TrackingError):
    """The registry is no longer as it was when work on it began; nothing was moved."""


@dataclass(frozen=True)
class Move:
    """An alias from one version to another."""

    name: str  # of the registered model
    alias: str
    source: str | None  # version; None where it stood on none
    target: str  # version
    passed_over: tuple[str, ...] = ()  # earlier versions that are gone


def stands_on(model: RegisteredModel, alias: str) -> str | None:
    """The version that an alias stands on; None where it stands on none."""
    version = model.aliases.get(alias)
    return None if version is None else str(version)


def move_forward(client: MlflowClient, model: RegisteredModel, turn: Turn, move: Move) -> None:
    """Remember where the alias stands, move it, and look whether it did.

    Args:
        client: Of the registry.
        model: As read in this turn; its alias stands on `move.source`.
        turn: Held.
        move: What to do.

    Raises:
        MlflowException: If MLflow refuses.
        RegistryChangedError: If something else moved the alias at the same moment.
        TrackingError: If the turn is over.
    """
    before = _before(model, move.alias)
    if move.source is not None and before[-1:] != [move.source]:
        _keep_before(client, turn, move, [*before, move.source])
    _set(client, turn, move)


def roll_back(uri: str, name: str, alias: str) -> Move:
    """Move an alias back to the version that it stood on before the last promotion.

    Args:
        uri: The tracking address.
        name: Of the registered model.
        alias: The alias.

    Returns:
        What was done; the history of the version that lost the alias keeps it too.

    Raises:
        RegistryChangedError: If the alias was moved while this waited for its turn.
        TrackingError: If there is no such model or alias, or nothing to go back to.
    """
    asked = stands_on(find_registered(uri, name), alias)
    with one_sentence(f"move {alias} of {name} back", uri):
        client = MlflowClient(tracking_uri=uri)
        with turn_at(client, client.get_registered_model(name)) as turn:
            model = client.get_registered_model(name)
            check_alias(model, alias, asked, "while it waited to go back")
            if asked is None:
                told = ", ".join(sorted(model.aliases)) or "none"
                raise TrackingError(f"alias {alias} of {name} must stand on a version, got none; its aliases: {told}")
            target, passed_over, rest = _last_before(client, model, alias, asked)
            if target is None:
                raise TrackingError(
                    f"alias {alias} of {name} must have stood on another version before version {asked}, got none that "
                    "is known and still there; promote one"
                )
            move = Move(name, alias, asked, target, passed_over)
            _set(client, turn, move)
            _keep_before(client, turn, move, rest)
            entry = Entry(
                turn=turn.number, alias=alias, champion=target, candidate=asked, outcome=ROLLED_BACK, at=now()
            )
            keep_history(client, name, entry, None)
    return move


def check_alias(model: RegisteredModel, alias: str, expected: str | None, when: str) -> None:
    """Make sure that an alias stands where it stood.

    Raises:
        RegistryChangedError: If it does not.
    """
    found = stands_on(model, alias)
    if found != expected:
        raise RegistryChangedError(
            f"alias {alias} of {model.name} must stay on {_told(expected)} {when}, got {_told(found)} meanwhile; "
            "nothing was moved, run the same command again"
        )


def _told(version: str | None) -> str:
    return "no version" if version is None else f"version {version}"


def _before(model: RegisteredModel, alias: str) -> list[str]:
    return str(model.tags.get(f"{BEFORE}{alias}", "")).split()


def _keep_before(client: MlflowClient, turn: Turn, move: Move, versions: list[str]) -> None:
    turn.check()
    client.set_registered_model_tag(move.name, f"{BEFORE}{move.alias}", " ".join(versions[-MAX_REMEMBERED:]))


def _set(client: MlflowClient, turn: Turn, move: Move) -> None:
    turn.check()
    client.set_registered_model_alias(move.name, move.alias, move.target)
    found = stands_on(client.get_registered_model(move.name), move.alias)
    if found != move.target:
        raise RegistryChangedError(
            f"alias {move.alias} of {move.name} must stand on version {move.target} after its move, got "
            f"{_told(found)}; something that takes no turns moved it at the same moment, "
            "see that it stands where it should"
        )


def _last_before(
    client: MlflowClient, model: RegisteredModel, alias: str, current: str
) -> tuple[str | None, tuple[str, ...], list[str]]:
    """The last version before the current one that is still there, those after it that are gone, and what is left."""
    versions = _before(model, alias)
    gone: list[str] = []
    while versions:
        version = versions.pop()
        if version == current:
            continue
        if _is_there(client, model.name, version):
            return version, tuple(gone), versions
        gone.append(version)
    return None, tuple(gone), versions


def _is_there(client: MlflowClient, name: str, version: str) -> bool:
    try:
        client.get_model_version(name, version)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"):
            raise
        return False
    return True
