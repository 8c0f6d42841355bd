"""`dvt promote` and `dvt rollback` on real images and a real registry: who is promoted, what is told and kept."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from dvt.cli.failure import FAILED, TYPED_WRONG
from dvt.cli.main import main
from dvt.data import open_data
from dvt.exits import Confidence, ThresholdTable
from dvt.exits.threshold_table import ThresholdRow
from dvt.models.told_amounts import told_macs
from dvt.tracking import log_and_register_model, open_run
from dvt.tracking.promotion import settle
from tests.unit.cli.gate_models import MACS, MIDDLE, Gate, gate_recipe, images_of, leaving_at, make_gate, register

ALWAYS = f"{MACS[1]:.0f}"  # the largest budget there can be


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Gate:
    """Version 1 of dvt-tiny is poor, 2 good, 3 as good and cheaper."""
    gate = make_gate(tmp_path_factory.mktemp("gate"))
    for seed, exit_index in ((1, 1), (0, 1), (0, 0)):
        register(gate, "dvt-tiny", seed, leaving_at(exit_index))
    return gate


@pytest.fixture
def client(gate: Gate) -> MlflowClient:
    return MlflowClient(tracking_uri=gate.uri)


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def promote(gate: Gate, *words: str, name: str = "dvt-tiny", budget: str = ALWAYS) -> int:
    return main(["promote", name, "--budget-macs", budget, "--tracking-uri", gate.uri, *words])


def digest_of(root: Path) -> str:
    """Of the test images' names and labels."""
    recipe = gate_recipe(root)
    return open_data(recipe.data, recipe.cascade).test.fingerprint()[:12]


def set_champion(client: MlflowClient, version: str | None) -> None:
    if version is None:
        client.delete_registered_model_alias("dvt-tiny", "champion")
    else:
        client.set_registered_model_alias("dvt-tiny", "champion", version)


def champion(client: MlflowClient) -> str:
    return str(client.get_registered_model("dvt-tiny").aliases["champion"])


def test_from_the_first_champion_to_a_better_to_a_cheaper_one_and_back(
    gate: Gate, client: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    assert promote(gate, "--candidate", "1") == 0
    out = capsys.readouterr().out
    assert out.startswith(f"scoring {gate.num_images} version 1's test images\n")
    assert "verdict         passed: there was no champion to compare it with, and it can be measured\n" in out
    assert "alias champion  set on version 1\n" in out

    assert promote(gate, "--candidate", "2") == 0
    out = capsys.readouterr().out
    images = f"{gate.num_images} test images ({gate.root}/val, digest {digest_of(gate.root)})"
    assert f"dvt-tiny version 2 beside champion, version 1, on {images}\n" in out
    assert "│ better " in out
    assert (
        "verdict         passed: better within 1 of 1 budgets, and within none worse by more than 0.5 points\n" in out
    )
    assert "alias champion  from version 1 to version 2\n" in out
    assert "kept in         tags gate.* and description of dvt-tiny version 2\n" in out
    told = json.loads(client.get_model_version("dvt-tiny", "2").tags["gate.budget_1"])
    assert told["candidate_top1"] == pytest.approx(gate.share)  # prepared as where it serves, or it would differ
    assert told["champion_top1"] < 0.4
    assert (told["candidate_macs"], told["champion_macs"]) == (MACS[1], MACS[1])

    assert promote(gate) == 0  # the candidate is version 3
    out = capsys.readouterr().out
    assert "passed: cheaper within 1 of 1 budgets, and within none worse by more than 0.5 points\n" in out
    told = json.loads(client.get_model_version("dvt-tiny", "3").tags["gate.budget_1"])
    assert (told["difference"], told["candidate_macs"], told["macs_high"]) == (0, MACS[0], MACS[0] - MACS[1])

    assert main(["rollback", "dvt-tiny", "--tracking-uri", gate.uri]) == 0
    assert capsys.readouterr().out == "alias champion  from version 3 back to version 2 of dvt-tiny\n"
    assert main(["rollback", "dvt-tiny", "--tracking-uri", gate.uri]) == 0
    assert capsys.readouterr().out == "alias champion  from version 2 back to version 1 of dvt-tiny\n"
    assert main(["rollback", "dvt-tiny", "--tracking-uri", gate.uri]) == FAILED
    assert capsys.readouterr().err == (
        "dvt: alias champion of dvt-tiny must have stood on another version before version 1, got none that is "
        "known and still there; promote one\n"
    )


def test_the_worse_one_stays_out(gate: Gate, client: MlflowClient, capsys: pytest.CaptureFixture[str]) -> None:
    set_champion(client, "2")
    assert promote(gate, "--candidate", "1") == FAILED
    out = capsys.readouterr().out
    assert "│ may be worse " in out
    assert re.search(
        rf"verdict         failed: within {told_macs(MACS[1])} it may be \d+\.\d\d points worse, more", out
    )
    assert "alias champion  stays on version 2\n" in out
    assert champion(client) == "2"
    version = client.get_model_version("dvt-tiny", "1")
    assert version.tags["gate.verdict"] == "failed"
    assert version.description.startswith("# tiny\n\nA Dynamic Vision Transformer")
    assert "\n\n## Gate\n\nFailed on " in version.description


def test_every_budget_has_a_say(gate: Gate, client: MlflowClient, capsys: pytest.CaptureFixture[str]) -> None:
    set_champion(client, "3")  # leaves at the first exit, whatever the budget
    assert promote(gate, "--budget-macs", f"{MIDDLE:.0f}", "--candidate", "2", "--margin", "100") == FAILED
    out = capsys.readouterr().out
    assert "│ over budget " in out  # at the middle budget it costs the last exit
    assert (
        f"failed: within {told_macs(MIDDLE)} it costs {told_macs(MACS[1])} on the test images, more than 5 % over the "
        "budget and more than the champion\n"
    ) in out


def test_each_leaves_by_its_own_thresholds_of_its_own_confidence(gate: Gate, client: MlflowClient) -> None:
    margin = Confidence("margin")
    with torch.inference_mode():
        first = gate.tinies[0].cascade(images_of(gate))[0]
    thresholds = (float(margin(first, 0).median()), -math.inf)
    table = ThresholdTable((ThresholdRow(MACS[0], thresholds, (0.5, 0.5)),), margin)
    register(gate, "dvt-own", 0, leaving_at(1))
    client.set_registered_model_alias("dvt-own", "champion", "1")
    register(gate, "dvt-own", 0, table)
    assert promote(gate, name="dvt-own") == 0
    told = json.loads(client.get_model_version("dvt-own", "2").tags["gate.budget_1"])
    left = int((margin(first, 0) >= thresholds[0]).sum())
    expected = (left * MACS[0] + (gate.num_images - left) * MACS[1]) / gate.num_images
    assert (told["candidate_macs"], told["champion_macs"]) == (pytest.approx(expected), MACS[1])


def test_images_that_are_elsewhere(gate: Gate, client: MlflowClient, capsys: pytest.CaptureFixture[str]) -> None:
    elsewhere = gate.root.rename(gate.root.with_name("moved"))
    try:
        set_champion(client, "1")
        assert promote(gate, "--candidate", "2") == TYPED_WRONG
        assert capsys.readouterr().err == (
            f"dvt: data.root must name an image folder, got {gate.root}, which is not there; tell where they are with "
            "--data.root FOLDER\n"
        )
        assert champion(client) == "1"
        assert promote(gate, "--candidate", "2", "--data.root", str(elsewhere)) == 0
        assert f"test images ({elsewhere}/val, digest {digest_of(elsewhere)})\n" in capsys.readouterr().out
    finally:
        elsewhere.rename(gate.root)


def test_two_models_of_other_classes(gate: Gate, client: MlflowClient, capsys: pytest.CaptureFixture[str]) -> None:
    register(gate, "dvt-other", 1, leaving_at(1), class_names=("ant", "bee", "cow", "dog", "emu"))
    client.set_registered_model_alias("dvt-other", "champion", "1")
    register(gate, "dvt-other", 0, leaving_at(1))
    assert promote(gate, name="dvt-other") == FAILED
    assert capsys.readouterr().err == (
        f"dvt: version 1 of dvt-other must tell the classes of {gate.root}/val, got 'cow' instead of 'cat' as class 2; "
        "two models of other data cannot be compared\n"
    )


def test_a_run_that_tells_no_recipe(gate: Gate, client: MlflowClient, capsys: pytest.CaptureFixture[str]) -> None:
    run = client.create_run("0")
    record = replace(open_run(gate_recipe(gate.root), tracking_uri=gate.uri, run_name="x"), run_id=run.info.run_id)
    log_and_register_model(replace(record, experiment_id="0"), gate.tinies[0].content, registered_name="dvt-untold")
    assert promote(gate, name="dvt-untold") == FAILED
    assert capsys.readouterr().err == (
        f"dvt: version 1 of dvt-untold must come from a run that tells its recipe, got run {run.info.run_id} without "
        "config.yaml; register its checkpoint with dvt register\n"
    )


def test_a_registry_that_changed_under_the_gate(
    gate: Gate, client: MlflowClient, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_champion(client, "1")

    def settle_late(*args: object) -> object:
        set_champion(client, "3")  # while the images were scored
        return settle(*args)  # type: ignore[arg-type]

    monkeypatch.setattr("dvt.cli.promote.settle", settle_late)
    assert promote(gate, "--candidate", "2") == FAILED
    assert capsys.readouterr().err == (
        "dvt: alias champion of dvt-tiny must stay on version 1 while the gate measures, got version 3 meanwhile; "
        "nothing was moved, run the same command again\n"
    )
    assert champion(client) == "3"


@pytest.mark.parametrize(
    ("words", "code", "sentences"),
    [
        (
            ["--budget-macs", "1", "--candidate", "2"],
            TYPED_WRONG,
            [
                f"--budget-macs must be at least {MACS[0]:.12g}, the cost of leaving at the first exit, got 1, of "
                f"version {number}"
                for number in (2, 1)
            ],
        ),
        (
            ["--budget-macs", "1G", "--candidate", "2"],
            TYPED_WRONG,
            [
                f"--budget-macs must be at most {MACS[1]:.12g}, the cost of the last exit, got 1000000000, of version "
                f"{number}"
                for number in (2, 1)
            ],
        ),
        (
            ["--budget-macs", "much", "2M", "2000k", "--margin", "-1", "--to", "v1", "--candidate", "a b"],
            TYPED_WRONG,
            [
                "--budget-macs must be multiply-adds above 0 such as 1.2G, 300M or 12e6, got 'much'",
                "--budget-macs must name each budget once, got 2000k twice",
                "--margin must be points of accuracy from 0 to 100, got -1",
                "--to must be an alias of letters, digits, - and _, not latest and no version as v1, got 'v1'",
                "--candidate must be an alias of letters, digits, - and _, not latest and no version as v1, got 'a b'",
            ],
        ),
        (
            ["--budget-macs", "1M", "--marge", "2", "--data.root", "x", "y"],
            TYPED_WRONG,
            [
                f"{word} must be an option of dvt promote or a field below --data; dvt promote --help tells them"
                for word in ("--marge", "2", "y")
            ],
        ),
        (
            ["--budget-macs", "1M", "--candidate", "1"],
            FAILED,
            [
                (
                    "candidate and champion of dvt-tiny must be two versions, got version 1 for both; there is "
                    "nothing to promote"
                )
            ],
        ),
    ],
)
def test_what_was_asked_wrong(
    gate: Gate,
    client: MlflowClient,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    sentences: list[str],
) -> None:
    set_champion(client, "1")
    assert main(["promote", "dvt-tiny", *words, "--tracking-uri", gate.uri]) == code
    assert capsys.readouterr().err.splitlines() == [f"dvt: {sentence}" for sentence in sentences]
    assert champion(client) == "1"


def test_a_rollback_of_what_is_no_alias(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rollback", "dvt-tiny", "--alias", "latest"]) == TYPED_WRONG
    assert capsys.readouterr().err == (
        "dvt: --alias must be an alias of letters, digits, - and _, not latest and no version as v1, got 'latest'\n"
    )
