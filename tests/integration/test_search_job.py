"""The search job from end to end: on a real Ray, with trials' processes and drivers killed under it."""

import csv
import json
import re
import signal
from collections import Counter
from pathlib import Path

import optuna
import psutil
import pytest
import yaml
from mlflow import MlflowClient
from optuna.trial import TrialState

from dvt.config import load_recipe
from dvt.search.record import read_result, read_search
from dvt.search.trial import read_epochs, trial_folder
from dvt.train.checkpoint import load_checkpoint
from tests.infra.dashboard import wait_for_answers
from tests.integration.cluster import ROOT, RayCluster, driving, joining_node, running_cluster, submitted

pytestmark = [pytest.mark.ray, pytest.mark.slow]

JOB = "search_architecture.py"
EPOCHS = 3


def tiny(*words: str, trials: int, workers: int = 1) -> list[str]:
    return [
        "--space", str(ROOT / "search_spaces" / "embedded.yaml"), "--trials", str(trials),
        "--cascade.embed-dim", "16", "--cascade.depth", "3", "--cluster.num-workers", str(workers),
        "--data.train-images", "512", "--data.calibration-images", "128", "--data.test-images", "64",
        "--train.micro-batch-size", "32", "--train.ema-decay", "0.9",
        "--optimizer.epochs", str(EPOCHS), "--optimizer.warmup-epochs", "0",
        "--search.grace-epochs", "1", "--search.reduction-factor", "2", *words,
    ]  # fmt: skip


def search_folder(folder: Path) -> Path:
    return folder / "runs" / "embedded-search-001"


def title(process: psutil.Process) -> str:
    """What a process is called; empty if it has gone."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def given_out(folder: Path) -> dict[int, TrialState]:
    """How the trials ended that were trained, by number."""
    storage = f"sqlite:///{search_folder(folder) / 'study.db'}"
    study = optuna.load_study(study_name="embedded-search-001", storage=storage)
    return {trial.number: trial.state for trial in study.trials if "given" in trial.user_attrs}


def started(text: str) -> Counter[int]:
    """How often each trial was begun, or gone on with, in a driver's log."""
    return Counter(int(number) for number in re.findall(r"trial (\d+): \d+x\d+", text))


def measured(text: str) -> list[tuple[int, int]]:
    """Trial and epoch of each measurement in a driver's log."""
    return [(int(trial), int(epoch)) for trial, epoch in re.findall(rf"trial (\d+): epoch (\d+)/{EPOCHS} ", text)]


def test_a_search_is_submitted_and_goes_on_with_more_trials(cluster: RayCluster, tmp_path: Path) -> None:
    def submit(trials: int) -> str:
        words = tiny("--run.storage-path", str(tmp_path / "runs"), trials=trials)
        words[1] = "search_spaces/embedded.yaml"
        return submitted(cluster, "python", f"jobs/{JOB}", *words)

    told = submit(trials=3)
    states = given_out(tmp_path)
    assert len(states) == 3
    assert TrialState.COMPLETE in states.values()
    folder = search_folder(tmp_path)

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    record = json.loads((folder / "run.json").read_text())
    children = client.search_runs(
        [record["experiment_id"]], f"tags.`mlflow.parentRunId` = '{record['run_id']}'", max_results=100
    )
    assert {int(run.data.tags["trial"]) for run in children} == set(states)
    for run in children:
        number = int(run.data.tags["trial"])
        epochs = read_epochs(trial_folder(read_search(str(folder))[1], number))
        history = client.get_metric_history(run.info.run_id, "search/hypervolume")
        assert [point.value for point in history] == [epoch.hypervolume for epoch in epochs]
        assert run.data.tags["search.state"] == {"COMPLETE": "finished", "PRUNED": "stopped"}[states[number].name]
    version = client.get_model_version_by_alias("dvt-embedded", "candidate")
    assert version.run_id in {run.info.run_id for run in children}
    assert "dvt-embedded version 1, alias candidate" in told
    recipes = sorted((folder / "report" / "recipes").glob("*.yaml"))
    assert recipes
    for path in recipes:
        number = int(path.stem.rpartition("-")[2])
        assert states[number] == TrialState.COMPLETE
        assert load_recipe(path).cascade.embed_dim == 16
    assert (folder / "report" / "front.png").read_bytes().startswith(b"\x89PNG")

    again = submit(trials=4)
    assert set(started(again)) == set(given_out(tmp_path)) - set(states)
    assert not set(started(again)) & set(started(told))
    assert len(client.search_runs([record["experiment_id"]], "tags.search LIKE 'embedded-search-%'")) == 4


def test_killed_trials_and_drivers_lose_nothing_but_what_was_in_flight(cluster: RayCluster, tmp_path: Path) -> None:
    words = tiny("--max-parallel", "2", "--search.is-pruned", "false", trials=5)
    with driving(words, cwd=tmp_path, env=cluster.env, python=cluster.python, job=JOB) as driver:
        driver.wait_for(f"epoch 1/{EPOCHS}")
        cluster.processes("ray::ImplicitFunc")[0].send_signal(signal.SIGKILL)
        driver.wait_for(f"trial 0: epoch 2/{EPOCHS}")
        driver.process.send_signal(signal.SIGTERM)  # as `ray job stop` does
        assert driver.finish() == 75, driver.text
        assert "ended by SIGTERM, resumable; run the same command again to go on" in driver.text
        first = driver.text
    with driving(words, cwd=tmp_path, env=cluster.env, python=cluster.python, job=JOB) as driver:
        driver.wait_for("trial 2: epoch 1")
        driver.process.send_signal(signal.SIGKILL)
        driver.finish()
        first += driver.text
    ended = {number for number, state in given_out(tmp_path).items() if state == TrialState.COMPLETE}
    with driving(words, cwd=tmp_path, env=cluster.env, python=cluster.python, job=JOB) as driver:
        assert driver.finish() == 0, driver.text
        second = driver.text
    states = given_out(tmp_path)
    assert list(states.values()) == [TrialState.COMPLETE] * 5
    assert not set(started(second)) & ended
    _space, folder = read_search(str(search_folder(tmp_path)))
    for number in states:
        epochs = [epoch.epoch for epoch in read_epochs(trial_folder(folder, number))]
        assert epochs == list(range(1, EPOCHS + 1))
    # A trial that goes on tells its last epoch again; none before that was trained again.
    times = Counter(measured(first) + measured(second))
    assert all(count <= 3 for count in times.values())
    assert sum(count - 1 for count in times.values()) <= 4  # two endings of the driver, two trials in flight


def test_a_killed_raylet_costs_only_its_own_trials(tmp_path: Path) -> None:
    """Three nodes of one core; a node with a running trial goes, and the trial goes on from its checkpoint."""
    words = tiny("--search.is-pruned", "false", trials=5)
    with (
        running_cluster(num_cpus=1) as own,
        joining_node(own, 1) as second,
        joining_node(own, 1),
        driving(words, cwd=tmp_path, env=own.env, python=own.python, job=JOB) as driver,
    ):
        driver.wait_for(f"epoch 1/{EPOCHS}")
        node = psutil.Process(second.pid)
        while not any("ImplicitFunc.train" in title(process) for process in node.children(recursive=True)):
            assert driver.process.poll() is None, driver.text
        (raylet,) = (process for process in node.children() if "raylet" in process.name())
        raylet.send_signal(signal.SIGKILL)
        assert driver.finish() == 0, driver.text
    assert list(given_out(tmp_path).values()) == [TrialState.COMPLETE] * 5
    assert set(started(driver.text).values()) == {1}
    assert max(Counter(measured(driver.text)).values()) == 1


def test_a_search_with_shared_weights_goes_on_where_it_was_killed(cluster: RayCluster, tmp_path: Path) -> None:
    """Told to end while two workers train, then killed while cascades are measured: nothing is done again.

    Then trials of two workers each on three cores: one at a time, whatever is asked for.
    """
    words = tiny(
        *("--search.mode", "supernet", "--search.supernet.num-measured", "20", "--search.supernet.epochs", "20"),
        *("--search.supernet.num-images", "64", "--search.supernet.finetune-epochs", "1"),
        *("--max-parallel", "4"),
        trials=2,
        workers=2,
    )
    folder = search_folder(tmp_path)
    with driving(words, cwd=tmp_path, env=cluster.env, python=cluster.python, job=JOB) as driver:
        driver.wait_for("shared weights: epoch 1/20")
        driver.process.send_signal(signal.SIGTERM)
        assert driver.finish() == 75, driver.text
        assert "dvt: ended by SIGTERM, resumable" in driver.text
    with driving(words, cwd=tmp_path, env=cluster.env, python=cluster.python, job=JOB) as driver:
        driver.wait_for("10 of 20 cascades measured")
        driver.process.send_signal(signal.SIGKILL)
        driver.finish()
        assert "shared weights: epoch 20/20" in driver.text
        assert "shared weights: epoch 1/20" not in driver.text
    known = {path.name: path.read_text() for path in (folder / "inherited").iterdir()}
    assert len(known) >= 10
    with driving(words, cwd=tmp_path, env=cluster.env, python=cluster.python, job=JOB) as driver:
        assert driver.finish() == 0, driver.text
    assert "shared weights: epoch" not in driver.text
    assert all((folder / "inherited" / name).read_text() == text for name, text in known.items())
    assert list(given_out(tmp_path).values()) == [TrialState.COMPLETE] * 2

    space, place = read_search(str(folder))
    result = read_result(space, place)
    assert result.shared is not None
    assert len(result.shared.inherited) == 20
    assert result.shared.train_s > 0
    for trial in result.trials:
        start = load_checkpoint(folder / "trials" / f"{trial.number:04d}" / "start")
        assert start.recipe.cascade == trial.recipe.cascade
    with (folder / "report" / "inherited.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 20
    for path in (folder / "report" / "recipes").glob("*.yaml"):
        assert load_recipe(path).optimizer == space.base.optimizer


def test_trials_that_fail_are_told_and_the_search_goes_on(cluster: RayCluster, tmp_path: Path) -> None:
    """Half of the learning rates leave no number of the loss."""
    tree = yaml.safe_load((ROOT / "search_spaces" / "embedded.yaml").read_text())
    tree["base"] = {**tree["base"], "recipe": str(ROOT / "jobs" / "recipes" / "embedded.yaml")}
    tree["training"] = {"optimizer.lr": [4e-3, 1e30]}
    place = tmp_path / "space.yaml"
    place.write_text(yaml.safe_dump(tree))
    words = tiny("--search.sampler", "random", "--search.is-pruned", "false", "--search.seed", "1", trials=4)
    words += ["--train.max-skipped-steps", "0"]
    words[1] = str(place)
    with driving(words, cwd=tmp_path, env=cluster.env, python=cluster.python, job=JOB) as driver:
        driver.wait_for(f"epoch 1/{EPOCHS}")
        wait_for_answers(cluster, "Search")
        assert driver.finish() == 0, driver.text
    states = list(given_out(tmp_path).values())
    assert set(states) == {TrialState.COMPLETE, TrialState.FAIL}
    assert len(states) == 4
    told = driver.text.count(": failed: at most 0 steps in a row may have a loss or gradients that are no numbers ")
    assert told == states.count(TrialState.FAIL)

    tree["base"]["optimizer"] = {"lr": 1e30}
    place.write_text(yaml.safe_dump({name: value for name, value in tree.items() if name != "training"}))
    with driving([*words, "--trials", "1"], cwd=tmp_path, env=cluster.env, python=cluster.python, job=JOB) as driver:
        assert driver.finish() == 1, driver.text
    assert "embedded-search-002 must be trained, got none; mend that, and search again with another" in driver.text


def test_a_bad_space_is_told_before_anything_is_started(tmp_path: Path) -> None:
    tree = yaml.safe_load((ROOT / "search_spaces" / "embedded.yaml").read_text())
    tree["base"] = {**tree["base"], "recipe": str(ROOT / "jobs" / "recipes" / "embedded.yaml")}
    tree["cascade"] = {**tree.get("cascade", {}), "token_gridz": [2]}
    place = tmp_path / "space.yaml"
    place.write_text(yaml.safe_dump(tree))
    with driving(["--space", str(place)], cwd=tmp_path, env={"PATH": "", "HOME": str(tmp_path)}, job=JOB) as driver:
        assert driver.finish() == 2
    assert "cascade.token_gridz must be a known field, got 'token_gridz'" in driver.text
    assert not (tmp_path / "runs").exists()
