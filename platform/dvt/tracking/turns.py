"""Turns at a registered model: whoever changes where its aliases stand does so while nobody else does.

MLflow sets tags and aliases whatever they were before, so that two who read, think and write lose one another's work.
What it never changes is a run's param: of several processes that log one under the same name, the first keeps it and
all others are refused, by a SQLite file and by a server's database alike. So turn n belongs to who is the first to log
the param `gate.turn.<n>` at one run, that of the model's oldest version, which the model's tag `gate.run` names; the
run's tag `gate.turn.ended` tells the last turn that is over.

A turn whose process died is passed over once it has been watched for `PATIENCE_S` seconds. The time is the watcher's
own, so clocks need not agree; who holds a turn moves nothing after `HOLD_S` of its own seconds, so that none is under
way when it is passed over.

What this cannot do: stop a write that travels for longer than the difference of the two; stop those who set an alias by
other means, which take no turns (the registry is read again right before and after a move, which leaves them
milliseconds); help a person who may not write to that run.
"""

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities.model_registry import RegisteredModel
from mlflow.exceptions import MlflowException

from dvt.tracking.errors import TrackingError

PATIENCE_S = 60.0  # how long a turn is watched before it is passed over
HOLD_S = 30.0  # how long after its beginning the holder of a turn may begin a write
RUN_TAG = "gate.run"  # of the registered model: the run that keeps its turns
ENDED_TAG = "gate.turn.ended"  # of that run
_PARAM = "gate.turn."
_POLL_S = 0.1
_REFUSED = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS")  # the database's refusal is the second


@dataclass(frozen=True)
class Turn:
    """The right to change a registered model, for a while."""

    number: int  # from 1; every later turn has a higher one
    began: float  # by `time.monotonic`, before the turn was asked for

    def check(self) -> None:
        """To be called before a write that must not come late.

        Raises:
            TrackingError: If the turn may soon be passed over.
        """
        taken = time.monotonic() - self.began
        if taken > HOLD_S:
            raise TrackingError(
                f"the registry must take what the gate writes within {HOLD_S:g} s, got {taken:.0f} s so far; "
                "nothing more was written, run the same command again"
            )


@contextmanager
def turn_at(client: MlflowClient, model: RegisteredModel) -> Iterator[Turn]:
    """Wait for a turn at a registered model and hold it while the context lasts.

    Args:
        client: Of the registry.
        model: The model, as read a moment ago.

    Raises:
        MlflowException: If MLflow refuses something else than a turn that another has.
        TrackingError: If the run that keeps the turns is gone, or no version came from a run.
    """
    run_id = _run_of(client, model)
    owner = uuid.uuid4().hex
    watched, since = 0, time.monotonic()
    while True:
        began = time.monotonic()
        newest, ended = _state(client, run_id, model.name)
        if newest != watched:
            watched, since = newest, time.monotonic()
        if newest > ended and time.monotonic() - since < PATIENCE_S:
            time.sleep(_POLL_S)
        elif _is_taken(client, run_id, newest + 1, owner):
            break
    try:
        yield Turn(newest + 1, began)
    finally:
        if time.monotonic() - began < PATIENCE_S:  # later turns may have ended meanwhile
            client.set_tag(run_id, ENDED_TAG, str(newest + 1))


def _run_of(client: MlflowClient, model: RegisteredModel) -> str:
    """The run that keeps the turns; all who find none in the model's tag choose the same."""
    if RUN_TAG in model.tags:
        return str(model.tags[RUN_TAG])
    versions = client.search_model_versions(f"name = '{model.name}'", order_by=["version_number ASC"])
    runs = [version.run_id for version in versions if version.run_id]
    if not runs:
        raise TrackingError(f"{model.name} must have a version that came from a run, got none; use dvt register")
    try:
        client.set_registered_model_tag(model.name, RUN_TAG, runs[0])
    except MlflowException as error:  # MLflow 3.17 looks before it writes, so that of two at once one is refused
        kept = client.get_registered_model(model.name).tags.get(RUN_TAG)
        if error.error_code not in _REFUSED or kept is None:
            raise
        return str(kept)
    return str(runs[0])


def _state(client: MlflowClient, run_id: str, name: str) -> tuple[int, int]:
    """The newest turn that was taken, and the last that ended; 0 where there was none."""
    run = client.get_run(run_id)
    if run.info.lifecycle_stage != "active":
        raise TrackingError(
            f"run {run_id}, which keeps the turns at {name}, must be there, got a deleted one; "
            f"restore it (mlflow runs restore --run-id {run_id})"
        )
    taken = [int(param.removeprefix(_PARAM)) for param in run.data.params if param.startswith(_PARAM)]
    return max(taken, default=0), int(run.data.tags.get(ENDED_TAG, "0"))


def _is_taken(client: MlflowClient, run_id: str, number: int, owner: str) -> bool:
    """Take a turn; whether it is ours."""
    param = f"{_PARAM}{number:06d}"
    try:
        client.log_param(run_id, param, owner)
    except MlflowException as error:
        if error.error_code not in _REFUSED:
            raise
        held_by = client.get_run(run_id).data.params.get(param)
        if held_by is None:
            raise
        return bool(held_by == owner)
    return True
