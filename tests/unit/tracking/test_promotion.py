"""Promotions and rollbacks in a real registry: what is kept, what moves, and what is told when others were faster."""

import itertools
import json
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from dvt.exits import FrontPoint
from dvt.exits.gate import BudgetComparison
from dvt.tracking import RunRecord, TrackingError, open_run
from dvt.tracking.moves import Move, RegistryChangedError, roll_back
from dvt.tracking.promotion import Grounds, read_grounds, settle
from dvt.tracking.turns import turn_at
from dvt.tracking.verdict import Verdict, verdict_alone, verdict_beside
from tests.unit.tracking.gate_race import BETTER, NUM_GATES, race
from tests.unit.tracking.tiny import tiny_recipe

WORSE = replace(BETTER, budget_macs=4e6, difference=-0.02, low=-0.035, high=-0.005)
ALONE = FrontPoint(macs=1.9e6, accuracy=0.82, thresholds=(0.5, -float("inf")), exit_shares=(0.5, 0.5))


def verdict(*comparisons: BudgetComparison) -> Verdict:
    return verdict_beside(comparisons, margin=0.005, num_images=1000, data="/images/val")


def changed(alias: str, stood: str, stands: str) -> str:
    """What is told of an alias of NAME that no longer stands where it stood."""
    return (
        f"alias {alias} of NAME must stay on {stood} while the gate measures, got {stands} meanwhile; nothing was "
        "moved, run the same command again"
    )


PASSED, FAILED = verdict(BETTER), verdict(BETTER, WORSE)


@pytest.fixture
def record(store: str) -> RunRecord:
    return open_run(tiny_recipe(), tracking_uri=store, run_name="versions")


@pytest.fixture
def client(store: str) -> MlflowClient:
    return MlflowClient(tracking_uri=store)


_names = itertools.count()


@pytest.fixture
def name(client: MlflowClient, record: RunRecord) -> str:
    """A model with versions 1 to 3: champion is 1, candidate 2. Its files play no part here."""
    name = f"dvt-{next(_names)}"
    client.create_registered_model(name)
    for _ in range(3):
        client.create_model_version(name, source="/nowhere", run_id=record.run_id, description="# The card")
    client.set_registered_model_alias(name, "champion", "1")
    client.set_registered_model_alias(name, "candidate", "2")
    return name


def champion(client: MlflowClient, name: str) -> str:
    return str(client.get_model_version_by_alias(name, "champion").version)


def tags(client: MlflowClient, name: str, version: str) -> dict[str, str]:
    return dict(client.get_model_version(name, version).tags)


def history(client: MlflowClient, name: str, version: str) -> list[dict[str, object]]:
    found = tags(client, name, version)
    return [json.loads(found[key]) for key in sorted(found) if key.startswith("gate.history.")]


def promote(store: str, name: str, version: str) -> None:
    assert settle(store, read_grounds(store, name, version, "champion"), PASSED) is not None


def test_what_passes_moves_the_alias_and_is_kept(store: str, client: MlflowClient, name: str) -> None:
    grounds = read_grounds(store, name, "candidate", "champion")
    assert grounds == Grounds(name, "champion", "1", "2", "candidate")
    assert settle(store, grounds, PASSED) == Move(name, "champion", "1", "2")
    assert champion(client, name) == "2"
    kept = tags(client, name, "2")
    assert json.loads(kept["gate.budget_1"]) == BETTER.to_dict()
    at = kept["gate.at"]
    assert {key: value for key, value in kept.items() if key.count(".") == 1 and "budget" not in key} == {
        "gate.verdict": "passed",
        "gate.reason": "better within 1 of 1 budgets, and within none worse by more than 0.5 points",
        "gate.alias": "champion",
        "gate.champion": "1",
        "gate.margin_points": "0.5",
        "gate.images": "1000",
        "gate.data": "/images/val",
        "gate.at": at,
        "gate.turn": "1",
        "gate.moved": "true",
    }
    (entry,) = history(client, name, "2")
    assert (entry["outcome"], entry["is_moved"], entry["budgets"]) == ("passed", True, [BETTER.to_dict()])
    assert client.get_model_version(name, "2").description == (
        "# The card\n\n## Gate\n\n"
        f"Passed on {at}, beside version 1 for alias champion, on 1,000 test images (/images/val): better within 1 of "
        "1 budgets, and within none worse by more than 0.5 points.\n\n"
        "| budget | champion | candidate | difference, interval | MACs | |\n|---|---|---|---|---|---|\n"
        "| 2 M | 80.00 % | 82.00 % | +2.00 (+0.50 to +3.50) | 1.8 M to 1.9 M | better |"
    )


def test_what_fails_moves_nothing_and_is_kept(store: str, client: MlflowClient, name: str) -> None:
    assert settle(store, read_grounds(store, name, "2", "champion"), FAILED) is None
    assert champion(client, name) == "1"
    kept = tags(client, name, "2")
    assert (kept["gate.verdict"], kept["gate.moved"]) == ("failed", "false")
    assert kept["gate.reason"] == "within 4 M it may be 3.50 points worse, more than the margin of 0.5 points"
    assert json.loads(kept["gate.budget_2"]) == WORSE.to_dict()
    assert [entry["outcome"] for entry in history(client, name, "2")] == ["failed"]


def test_the_first_champion(store: str, client: MlflowClient, name: str) -> None:
    client.delete_registered_model_alias(name, "champion")
    first = verdict_alone([ALONE], num_images=1000, data="/images/val")
    assert settle(store, read_grounds(store, name, "2", "champion"), first) == Move(name, "champion", None, "2")
    assert champion(client, name) == "2"
    kept = tags(client, name, "2")
    assert kept["gate.champion"] == "none"
    assert kept["gate.reason"] == "there was no champion to compare it with, and it can be measured"
    with pytest.raises(TrackingError) as caught:
        roll_back(store, name, "champion")
    assert str(caught.value) == (
        f"alias champion of {name} must have stood on another version before version 2, got none that is known and "
        "still there; promote one"
    )


def test_a_later_verdict_takes_the_place_of_the_one_before(store: str, client: MlflowClient, name: str) -> None:
    settle(store, read_grounds(store, name, "2", "champion"), FAILED)
    settle(store, read_grounds(store, name, "2", "champion"), PASSED)
    kept = tags(client, name, "2")
    assert (kept["gate.verdict"], kept["gate.turn"]) == ("passed", "2")
    assert "gate.budget_2" not in kept
    assert [entry["outcome"] for entry in history(client, name, "2")] == ["failed", "passed"]
    description = client.get_model_version(name, "2").description
    assert description.startswith("# The card\n\n## Gate\n\nPassed on ")
    assert description.count("## Gate") == 1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda client, name: client.set_registered_model_alias(name, "champion", "3"),
            changed("champion", "version 1", "version 3"),
        ),
        (
            lambda client, name: client.delete_registered_model_alias(name, "champion"),
            changed("champion", "version 1", "no version"),
        ),
        (
            lambda client, name: client.set_registered_model_alias(name, "candidate", "3"),
            changed("candidate", "version 2", "version 3"),
        ),
        (
            lambda client, name: client.delete_model_version(name, "2"),
            (
                "version 2 of NAME must stay there while the gate measures, got a deleted one meanwhile; nothing was "
                "moved, choose another candidate"
            ),
        ),
    ],
)
def test_a_registry_that_changed_under_the_gate(
    store: str, client: MlflowClient, name: str, change: Callable[[MlflowClient, str], None], sentence: str
) -> None:
    grounds = read_grounds(store, name, "candidate", "champion")
    change(client, name)
    before = client.get_registered_model(name).aliases
    with pytest.raises(RegistryChangedError) as caught:
        settle(store, grounds, PASSED)
    assert str(caught.value) == sentence.replace("NAME", name)
    assert client.get_registered_model(name).aliases == before
    if "deleted" not in sentence:
        assert [entry["outcome"] for entry in history(client, name, "2")] == ["registry changed"]
        assert "gate.verdict" not in tags(client, name, "2")


def test_what_takes_no_turns_is_noticed_after_the_move(
    store: str, client: MlflowClient, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = MlflowClient.set_registered_model_alias

    def overtaken(self: MlflowClient, name: str, alias: str, version: str) -> None:
        really(self, name, alias, version)
        really(self, name, alias, "3")

    monkeypatch.setattr(MlflowClient, "set_registered_model_alias", overtaken)
    with pytest.raises(RegistryChangedError) as caught:
        settle(store, read_grounds(store, name, "2", "champion"), PASSED)
    assert str(caught.value) == (
        f"alias champion of {name} must stand on version 2 after its move, got version 3; something that takes no "
        "turns moved it at the same moment, see that it stands where it should"
    )


def test_going_back_as_far_as_history_goes(store: str, client: MlflowClient, name: str) -> None:
    promote(store, name, "2")
    promote(store, name, "3")
    assert roll_back(store, name, "champion") == Move(name, "champion", "3", "2")
    assert roll_back(store, name, "champion") == Move(name, "champion", "2", "1")
    with pytest.raises(TrackingError, match=r"must have stood on another version before version 1, got none"):
        roll_back(store, name, "champion")
    assert [entry["outcome"] for entry in history(client, name, "3")] == ["passed", "rolled back"]
    promote(store, name, "3")  # what was gone back from is no part of what stood before
    assert roll_back(store, name, "champion") == Move(name, "champion", "3", "1")
    assert champion(client, name) == "1"


def test_a_deleted_version_is_passed_over(store: str, client: MlflowClient, name: str) -> None:
    promote(store, name, "2")
    promote(store, name, "3")
    client.delete_model_version(name, "2")
    assert roll_back(store, name, "champion") == Move(name, "champion", "3", "1", passed_over=("2",))


def test_a_crash_before_the_move_leaves_history_right(
    store: str, client: MlflowClient, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*args: object) -> None:
        raise MlflowException("the machine is gone")

    promote(store, name, "2")
    with monkeypatch.context() as patched:
        patched.setattr(MlflowClient, "set_registered_model_alias", die)
        with pytest.raises(TrackingError, match="the machine is gone"):
            settle(store, read_grounds(store, name, "3", "champion"), PASSED)
    assert champion(client, name) == "2"
    assert [(entry["outcome"], entry["is_moved"]) for entry in history(client, name, "3")] == [("passed", False)]
    assert roll_back(store, name, "champion") == Move(name, "champion", "2", "1")


def test_an_alias_that_was_moved_while_a_rollback_waited(store: str, client: MlflowClient, name: str) -> None:
    promote(store, name, "2")
    with ThreadPoolExecutor(1) as pool:
        with turn_at(client, client.get_registered_model(name)):
            waiting = pool.submit(roll_back, store, name, "champion")
            time.sleep(1)
            client.set_registered_model_alias(name, "champion", "3")
        with pytest.raises(RegistryChangedError) as caught:
            waiting.result()
    assert str(caught.value) == (
        f"alias champion of {name} must stay on version 2 while it waited to go back, got version 3 meanwhile; nothing "
        "was moved, run the same command again"
    )
    assert champion(client, name) == "3"


def test_of_many_gates_on_the_same_grounds_one_moves_the_alias(store: str, client: MlflowClient, name: str) -> None:
    told = race(store, name)
    too_late = changed("champion", "version 1", "version 2").replace("NAME", name)
    assert sorted(told) == ["2"] + [too_late] * (NUM_GATES - 1)
    assert champion(client, name) == "2"
    entries = history(client, name, "2")
    assert sorted(entry["turn"] for entry in entries) == list(range(1, NUM_GATES + 1))  # no verdict was lost
    assert [entry["outcome"] for entry in entries] == ["passed"] + ["registry changed"] * (NUM_GATES - 1)
    assert tags(client, name, "2")["gate.turn"] == "1"
    assert roll_back(store, name, "champion") == Move(name, "champion", "2", "1")


@pytest.mark.parametrize(
    ("model", "candidate", "sentence"),
    [
        (
            "NAMF",
            "candidate",
            "the registered model must be known to MLflow at STORE, got 'NAMF'; did you mean NAME?",
        ),
        (
            "NAME",
            "challenger",
            "--candidate must be an alias or a version of NAME, got 'challenger'; its aliases: candidate, champion",
        ),
        ("NAME", "9", "--candidate must be an alias or a version of NAME, got '9'; its versions: 1, 2, 3"),
        (
            "NAME",
            "1",
            "candidate and champion of NAME must be two versions, got version 1 for both; there is nothing to promote",
        ),
    ],
)
def test_what_is_not_there(store: str, name: str, model: str, candidate: str, sentence: str) -> None:
    if model == "NAMF":
        model = name.replace("dvt-", "dbt-")
    with pytest.raises(TrackingError) as caught:
        read_grounds(store, model.replace("NAME", name), candidate, "champion")
    told = sentence.replace("NAMF", name.replace("dvt-", "dbt-")).replace("NAME", name).replace("STORE", store)
    assert str(caught.value) == told


def test_an_alias_to_take_back_that_is_not_there(store: str, name: str) -> None:
    with pytest.raises(TrackingError) as caught:
        roll_back(store, name, "winner")
    assert str(caught.value) == (
        f"alias winner of {name} must stand on a version, got none; its aliases: candidate, champion"
    )


def test_a_long_card_gives_way_to_the_verdict(store: str, client: MlflowClient, name: str) -> None:
    client.update_model_version(name, "2", "# The card\n\n" + "A line of the card.\n" * 300)
    settle(store, read_grounds(store, name, "2", "champion"), PASSED)
    description = client.get_model_version(name, "2").description
    assert 4900 < len(description) <= 5000
    assert re.search(r"A line of the card\.\n\n\(cut\)\n\n## Gate\n\nPassed on .*\| better \|$", description, re.DOTALL)
