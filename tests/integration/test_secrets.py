"""Secrets planted in the environment and in options stand nowhere in what real commands write; logs tell their writer.

A cluster whose every process has the secrets in its environment trains by a submitted job, searches and predicts, and
fails for wrong credentials. Then each byte is looked at that was written: Ray's session with all of its logs, the runs'
folders, MLflow's database and artifacts, what was printed, and what Ray tells of the job.
"""

import json
import os
import secrets
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.cluster import ROOT, RayCluster, driving, free_port, running_cluster, submitted
from tests.integration.test_search_job import tiny as tiny_search
from tests.integration.test_train_job import tiny
from tests.unit.data.images import write_image

pytestmark = [pytest.mark.ray, pytest.mark.slow]

PLANTED = {name: f"planted{secrets.token_hex(12)}" for name in ("id", "key", "session", "mlflow", "option", "database")}
ENV = {
    "AWS_ACCESS_KEY_ID": PLANTED["id"],
    "AWS_SECRET_ACCESS_KEY": PLANTED["key"],
    "AWS_SESSION_TOKEN": PLANTED["session"],
    "MLFLOW_TRACKING_USERNAME": "ann",
    "MLFLOW_TRACKING_PASSWORD": PLANTED["mlflow"],
    "DVT_STUDY_URI": f"postgresql://ann:{PLANTED['database']}@127.0.0.1/study",
    "DVT_LOG_FORMAT": "json",
}


@dataclass(frozen=True)
class Ran:
    """What the commands left and said."""

    cluster: RayCluster
    folder: Path  # runs, MLflow's store
    printed: dict[str, str]  # by command
    jobs: str  # what Ray tells of its jobs


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    asked, folder = tmp_path_factory.mktemp("asked"), tmp_path_factory.mktemp("left")
    uri = f"sqlite:///{folder / 'runs' / 'mlflow.db'}"
    with running_cluster(num_cpus=2, env=ENV) as cluster:
        places = ["--run.storage-path", str(folder / "runs"), "--run.tracking-uri", uri]
        job = ["python", "jobs/train_imagenet.py", *tiny(*places, epochs=1, workers=2)]
        printed = {"train": submitted(cluster, *job)}
        words = tiny_search("--optimizer.epochs", "1", trials=1)
        printed["search"] = run(cluster, words, folder, "search_architecture.py", 0)
        printed["refused"] = run(
            cluster, ["--recipe", str(recipe_with_password(asked))], folder, "train_imagenet.py", 1
        )
        image = write_image(asked / "image.png", 1)
        dvt = [sys.executable, "-m", "dvt.cli.main", "predict", str(image), "--tracking-uri", uri]
        env = cluster.env | {"PYTHONPATH": str(ROOT / "platform")}
        done = subprocess.run(
            [*dvt, "--model", "models:/dvt-embedded@candidate", "--output", str(folder / "out.csv")],
            env=env, cwd=folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        printed["predict"] = done.stdout + done.stderr
        request = urllib.request.Request(
            f"{cluster.jobs_address}/api/jobs/", headers={"Authorization": f"Bearer {cluster.env['RAY_AUTH_TOKEN']}"}
        )
        with urllib.request.urlopen(request) as reply:
            jobs = reply.read().decode()
        yield Ran(cluster, folder, printed, jobs)


def run(cluster: RayCluster, words: list[str], folder: Path, job: str, code: int) -> str:
    with driving(words, cwd=folder, env=cluster.env, python=cluster.python, job=job) as driver:
        assert driver.finish() == code, driver.text
    return driver.text


def recipe_with_password(asked: Path) -> Path:
    """A recipe whose MLflow is not there, by an address with a password."""
    tree = yaml.safe_load((ROOT / "jobs" / "recipes" / "embedded.yaml").read_text())
    tree["run"] = {"tracking_uri": f"http://ann:{PLANTED['option']}@127.0.0.1:{free_port()}"}
    (asked / "recipe.yaml").write_text(yaml.safe_dump(tree))
    return asked / "recipe.yaml"


def files(folder: Path) -> Iterator[Path]:
    for place, _, names in os.walk(folder):
        yield from (path for name in names if (path := Path(place, name)).is_file() and not path.is_symlink())


def test_no_secret_stands_in_anything_written(ran: Ran) -> None:
    sought = {name: value.encode() for name, value in {**PLANTED, "ray": ran.cluster.env["RAY_AUTH_TOKEN"]}.items()}
    written = {str(path): path.read_bytes() for folder in (ran.cluster.folder, ran.folder) for path in files(folder)}
    names = " ".join(written)
    for place in ("recipe.yaml", "mlflow.db", "search.yaml", "study.db", "training_state.pt", "MLmodel", "raylet.out"):
        assert place in names, f"{place} must be among what is looked at"
    told = {**{what: text.encode() for what, text in ran.printed.items()}, "Ray's jobs": ran.jobs.encode()}
    found = [
        f"{name} in {place}" for place, text in {**written, **told}.items() for name in sought if sought[name] in text
    ]
    assert found == []


def test_wrong_credentials_are_told_without_them(ran: Ran) -> None:
    (line,) = [line for line in ran.printed["refused"].splitlines() if line.startswith("dvt: ")]
    assert line.startswith("dvt: run.tracking_uri (or MLFLOW_TRACKING_URI) must be an MLflow server that answers, got ")
    assert "http://127.0.0.1:" in line


def records(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith('{"time"')]


def worker_records(ran: Ran) -> list[dict[str, Any]]:
    found = []
    for path in (ran.cluster.folder / "ray").glob("session_2*/logs/worker-*.err"):
        found += records(path.read_text(errors="replace"))
    return found


def test_workers_tell_rank_world_size_step_and_run(ran: Ran) -> None:
    run_id = json.loads((ran.folder / "runs" / "embedded-001" / "run.json").read_text())["run_id"]
    begun = [
        each for each in worker_records(ran) if each.get("run_id") == run_id and each["logger"] == "dvt.train.loop"
    ]
    assert sorted(each["rank"] for each in begun) == [0, 1]
    assert {(each["world_size"], each["step"], each["level"]) for each in begun} == {(2, 0, "INFO")}
    assert all(each["node"] for each in begun)
    assert {each["message"] for each in begun} == {f"training goes from step 0 to {num_steps(ran)}"}
    told = [each["message"] for each in records(ran.printed["train"]) if each.get("run_id") == run_id]
    assert f"run embedded-001 is kept in {ran.folder / 'runs' / 'embedded-001'}" in told


def num_steps(ran: Ran) -> int:
    recipe = yaml.safe_load((ran.folder / "runs" / "embedded-001" / "recipe.yaml").read_text())
    train, data = recipe["train"], recipe["data"]
    per_step = 2 * train["micro_batch_size"] * train["grad_accum_steps"]
    return int(data["train_images"] // per_step)


def test_a_trial_tells_its_number_and_its_run(ran: Ran) -> None:
    place = ran.folder / "runs" / "embedded-search-001" / "trials" / "0000" / "run.json"
    run_id = json.loads(place.read_text())["run_id"]
    of_trial = [each for each in worker_records(ran) if each.get("trial") == 0]
    assert {each["run_id"] for each in of_trial} == {run_id}
    assert {each["logger"] for each in of_trial} >= {"dvt.search.trial", "dvt.train.loop"}
    driver = [each for each in records(ran.printed["search"]) if each.get("trial") == 0]
    assert [each["message"] for each in driver] == ["the trial begins or goes on", "the trial is finished"]
    assert {each["run_id"] for each in driver} == {run_id}
