"""`jobs/doctor.py` on a cluster of two nodes without the project."""

import subprocess
from pathlib import Path

import pytest

from tests.integration.cluster import ROOT, RayCluster, joining_node

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def looked_at(cluster: RayCluster, folder: Path, *words: str) -> tuple[int, list[str], str]:
    """Exit code and lines of the job, and the errors it told."""
    command = [str(cluster.python), str(ROOT / "jobs/doctor.py"), "--run.storage-path", str(folder / "runs"), *words]
    done = subprocess.run(
        command, cwd=folder, env=cluster.env, capture_output=True, text=True, timeout=200, check=False
    )
    return done.returncode, done.stdout.splitlines(), done.stderr


def test_two_nodes_are_fit_or_not(cluster: RayCluster, tmp_path: Path) -> None:
    with joining_node(cluster, num_cpus=1):
        code, told, errors = looked_at(cluster, tmp_path, "--cluster.num-workers", "2")
        assert code == 0, [*told, errors]
        assert told[0] == "checking 2 nodes"
        assert [line.split()[:2] for line in told[1:-1]] == [
            ["pass", "versions"],
            ["pass", "clocks"],
            ["pass", "disks"],
            ["skip", "gpus"],
            ["pass", "storage"],
            ["pass", "mlflow"],
            ["pass", "all-reduce"],
        ]
        assert "2 workers by gloo: " in told[-2]
        assert told[-1] == "pass: the cluster is fit for the job"
        assert list((tmp_path / "runs").glob(".doctor-*")) == []
        # Everything is looked at, though much is wrong.
        wrong = ("--min-free-gib", "1e6", "--run.tracking-uri", "http://127.0.0.1:1", "--cluster.num-workers", "9")
        code, told, errors = looked_at(cluster, tmp_path, *wrong)
        assert (code, told[-1]) == (1, "fail: disks, mlflow, all-reduce"), [*told, errors]
        assert told[-2] == "fail  all-reduce  9 workers need 9 CPU, of which 4 are free now"
