"""Turns: one at a time, in order, past a holder that died, and never late."""

import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from mlflow import MlflowClient
from mlflow.entities.model_registry import RegisteredModel

from dvt.tracking import RunRecord, TrackingError, open_run
from dvt.tracking.turns import turn_at
from tests.unit.tracking.tiny import tiny_recipe

_names = itertools.count()


@pytest.fixture
def client(store: str) -> MlflowClient:
    return MlflowClient(tracking_uri=store)


@pytest.fixture
def record(store: str) -> RunRecord:
    return open_run(tiny_recipe(), tracking_uri=store, run_name="turns")


@pytest.fixture
def model(client: MlflowClient, record: RunRecord) -> RegisteredModel:
    name = f"turns-{next(_names)}"
    client.create_registered_model(name)
    client.create_model_version(name, source="/nowhere", run_id=record.run_id)
    return client.get_registered_model(name)


def test_turns_have_numbers_and_one_holder_at_a_time(client: MlflowClient, model: RegisteredModel) -> None:
    inside, most, numbers = 0, 0, []
    lock = threading.Lock()

    def hold(_: int) -> None:
        nonlocal inside, most
        with turn_at(client, model) as turn:
            with lock:
                inside += 1
                most = max(most, inside)
                numbers.append(turn.number)
            time.sleep(0.05)
            with lock:
                inside -= 1

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(hold, range(6)))
    assert most == 1
    assert numbers == [1, 2, 3, 4, 5, 6]


def test_a_turn_ends_with_an_error_too(client: MlflowClient, model: RegisteredModel) -> None:
    with pytest.raises(ZeroDivisionError), turn_at(client, model):
        _ = 1 / 0
    with turn_at(client, model) as turn:
        assert turn.number == 2


def test_who_died_is_passed_over(
    client: MlflowClient, model: RegisteredModel, record: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dvt.tracking.turns.PATIENCE_S", 1.0)
    client.log_param(record.run_id, "gate.turn.000001", "a process that is no more")
    began = time.monotonic()
    with turn_at(client, model) as turn:
        assert turn.number == 2
    assert 1 <= time.monotonic() - began < 5


def test_who_was_passed_over_ends_no_later_turn(
    client: MlflowClient, model: RegisteredModel, record: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dvt.tracking.turns.PATIENCE_S", 0.5)
    with turn_at(client, model), turn_at(client, model) as later:
        assert later.number == 2
    assert client.get_run(record.run_id).data.tags["gate.turn.ended"] == "2"


def test_a_write_that_would_come_late_is_not_begun(
    client: MlflowClient, model: RegisteredModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with turn_at(client, model) as turn:
        turn.check()
        monkeypatch.setattr("dvt.tracking.turns.HOLD_S", -1.0)
        with pytest.raises(TrackingError) as caught:
            turn.check()
    assert str(caught.value) == (
        "the registry must take what the gate writes within -1 s, got 0 s so far; nothing more was written, run the "
        "same command again"
    )


def test_a_run_that_is_gone(client: MlflowClient, model: RegisteredModel, record: RunRecord) -> None:
    client.delete_run(record.run_id)
    with pytest.raises(TrackingError) as caught, turn_at(client, model):
        pass
    assert str(caught.value) == (
        f"run {record.run_id}, which keeps the turns at {model.name}, must be there, got a deleted one; restore it "
        f"(mlflow runs restore --run-id {record.run_id})"
    )


def test_a_model_that_came_from_no_run(client: MlflowClient) -> None:
    client.create_registered_model("from-nowhere")
    client.create_model_version("from-nowhere", source="/nowhere")
    with pytest.raises(TrackingError) as caught, turn_at(client, client.get_registered_model("from-nowhere")):
        pass
    assert str(caught.value) == "from-nowhere must have a version that came from a run, got none; use dvt register"
