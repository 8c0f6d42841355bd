"""Training batches through Ray Data on a real cluster are those of the local loader, and nothing is left behind."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.cluster import ROOT, RayCluster, driving
from tests.integration.test_train_job import tiny

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def told(cluster: RayCluster) -> dict[str, Any]:
    """What `ray_reading.py` found on the cluster of three cores, whose nodes do not have the project."""
    env = cluster.env | {"PYTHONPATH": f"{ROOT / 'platform'}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "tests.integration.ray_reading"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_batches_are_those_of_the_local_loader_bit_for_bit(told: dict[str, Any]) -> None:
    found = told["same_batches"]
    assert found["cifar"]
    assert found["folder"]
    assert found["slow and fast"]  # 13 batches, of which a third take forty times as long
    assert (found["cifar batches"], found["folder batches"]) == (2, 3)  # 30 // 8 - 1 and 36 // 8 - 1
    assert found["folder skipped"] > 0


def test_an_error_in_a_task_stays_one_sentence(told: dict[str, Any]) -> None:
    local, ray = told["errors"]
    assert ray == local
    assert ray.endswith("cannot be read as images; replace or remove them")


def test_what_is_ahead_of_a_worker_is_bounded(told: dict[str, Any]) -> None:
    """Batches of 8 MiB, of which 64 MiB wait; besides two at hand, two in tasks, and the one that was sized up."""
    found = told["back_pressure"]
    assert found["same"]
    assert 3 <= found["reads"] <= 8 + 2 + 2 + 1  # of 50


def test_a_worker_that_stops_leaves_no_task_behind(told: dict[str, Any]) -> None:
    found = told["back_pressure"]
    assert found["after closing"] == 0
    assert found["free cores"] == 3


def test_tasks_run_outside_of_the_placement_group_of_those_who_wait_for_them(told: dict[str, Any]) -> None:
    assert told["within_a_placement_group"]


def test_a_cluster_without_a_core_to_read_is_refused(told: dict[str, Any]) -> None:
    assert told["without_a_core"] == (
        "data.engine must be local where no core is left to read images, got ray on a cluster whose training workers "
        "reserve 3 of 3 cores; add nodes, or lower cluster.cpus_per_worker"
    )


def test_a_run_trains_on_what_the_cluster_reads(cluster: RayCluster, tmp_path: Path) -> None:
    """Two workers reserve two of the three cores; the third reads for both."""
    words = tiny("--data.engine", "ray", "--data.loader-workers", "1", epochs=1, workers=2)
    words += ["--run.is-registered", "false"]
    with driving(words, cwd=tmp_path, env=cluster.env, python=cluster.python) as driver:
        code = driver.finish()
    assert code == 0, driver.text
    assert "epoch 1/1 · step 8" in driver.text
