"""Jobs on a cluster of three hosts that have nothing but Ray and its packages: data and results are in a bucket.

What is submitted carries the project; the hosts' Python does not find it, nor do they see the repository's files.
"""

import json
import re
import subprocess
from collections.abc import Iterator

import pandas as pd
import pytest
import s3fs
from mlflow import MlflowClient

from tests.integration.cluster import ROOT, submitted
from tests.integration.site import BUCKET, DATA, DIGITS, RUNS, Site, Watch, running_site

pytestmark = [pytest.mark.ray, pytest.mark.slow]

NUM_HOSTS, NUM_TEST_IMAGES = 3, 300


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with running_site(NUM_HOSTS) as started:
        yield started


@pytest.fixture
def files(site: Site) -> s3fs.S3FileSystem:
    return s3fs.S3FileSystem(
        key=site.s3.access_key,
        secret=site.s3.secret_key,
        endpoint_url=site.s3.endpoint,
        use_listings_cache=False,
        skip_instance_cache=True,
    )


def test_the_nodes_are_hosts_of_their_own(site: Site) -> None:
    print(site.hosts.told)
    if site.hosts.network is None:
        pytest.skip(site.hosts.told)
    for host in site.hosts.hosts:
        assert host.host is not None
        assert host.host.run("hostname").strip() == host.host.name
        assert host.address in host.host.run("ip", "-o", "addr")
        assert host.host.run("ls", str(site.hosts.cluster.folder / "node" / "ray")).count("session_2") == 1
        told = host.host.run(
            str(site.hosts.cluster.python), "-c", "import importlib.util as u; print(u.find_spec('dvt'))"
        )
        assert told.strip() == "None"


def test_three_hosts_train_one_model(site: Site, files: s3fs.S3FileSystem) -> None:
    words = ["--recipe", "jobs/recipes/embedded.yaml", *DIGITS, "--exits.static-reference", "false"]
    with Watch(site.hosts, "ray::RayTrainWorker") as seen:
        told = submitted(site.hosts.cluster, "jobs/train_imagenet.py", *words, "--cluster.num-workers", str(NUM_HOSTS))
    assert seen.addresses == {host.address for host in site.hosts.hosts}
    assert "dvt-embedded version 1, alias candidate" in told
    names = {path.removeprefix(f"{BUCKET}/runs/embedded-001/") for path in files.find(f"{BUCKET}/runs/embedded-001")}
    assert names >= {"recipe.yaml", "run.json", "finished.json", "front/front.json"}
    assert {name.rpartition("/")[2] for name in names} >= {"model.safetensors", "ema.safetensors", "training_state.pt"}

    record = json.loads(files.cat_file(f"{BUCKET}/runs/embedded-001/run.json"))
    run = MlflowClient(tracking_uri=site.tracking_uri).get_run(record["run_id"])
    assert run.info.status == "FINISHED"
    nodes = {name.split("/")[1] for name in run.data.metrics if name.startswith("system/")}
    assert nodes == {f"node_{rank}" for rank in range(NUM_HOSTS)}


def test_hosts_search_side_by_side(site: Site, files: s3fs.S3FileSystem) -> None:
    words = ["--space", "search_spaces/embedded.yaml", "--trials", "2", *DIGITS, "--search.is-pruned", "false"]
    words += ["--optimizer.epochs", "1", "--cascade.depth", "3"]  # the space's reuse goes three blocks deep
    # Only the driver, on the head's host, opens the study.
    words += ["--search.study-uri", f"sqlite:///{site.hosts.cluster.folder}/study.db"]
    with Watch(site.hosts, "ray::ImplicitFunc") as seen:
        told = submitted(site.hosts.cluster, "jobs/search_architecture.py", *words)
    assert len(seen.addresses) == 2
    assert "alias candidate" in told
    assert files.find(f"{BUCKET}/runs/embedded-search-001/report/recipes")


def test_hosts_predict_side_by_side(site: Site, files: s3fs.S3FileSystem) -> None:
    """With the model that the hosts have trained."""
    words = ["--model", "models:/dvt-embedded/1", "--tracking-uri", site.tracking_uri, "--input", f"{DATA}/val"]
    with Watch(site.hosts, "ray::MapWorker") as seen:
        submitted(site.hosts.cluster, "jobs/predict.py", *words, "--output", f"s3://{BUCKET}/predictions")
    assert seen.addresses == {host.address for host in site.hosts.hosts}
    parts = [path for path in files.find(f"{BUCKET}/predictions") if "/part-" in path]
    rows = pd.concat([pd.read_parquet(files.open(path)) for path in parts])
    assert len(rows) == NUM_TEST_IMAGES
    assert rows.error.isna().all()


def looked_at(site: Site, *words: str) -> tuple[int, list[str]]:
    """The exit code of `jobs/doctor.py` for a job on all hosts, and its lines."""
    cluster, options = site.hosts.cluster, ("--run.storage-path", RUNS, "--min-free-gib", "1", *words)
    job = (str(cluster.python), "-m", "ray.scripts.scripts", "job", "submit", "--address", cluster.jobs_address)
    command = [*job, "--working-dir", ".", "--", "python", "jobs/doctor.py", *options]
    done = subprocess.run(command, cwd=ROOT, env=cluster.env, capture_output=True, text=True, timeout=300, check=False)
    checks = re.findall(r"(?m)^(?:checking|pass|fail|skip)\b.*", done.stdout)
    assert checks, done.stdout + done.stderr
    return done.returncode, checks


def test_the_doctor_finds_the_hosts_fit_or_not(site: Site, files: s3fs.S3FileSystem) -> None:
    code, told = looked_at(site, "--cluster.num-workers", str(NUM_HOSTS))
    print(*told, sep="\n")
    assert code == 0, told
    assert told[0] == f"checking {NUM_HOSTS} nodes"
    assert [line.split()[:2] for line in told[1:-1]] == [
        ["pass", "versions"],
        ["pass", "clocks"],
        ["pass", "disks"],
        ["skip", "gpus"],
        ["pass", "storage"],
        ["pass", "mlflow"],
        ["pass", "all-reduce"],
    ]
    assert f"{NUM_HOSTS} workers by gloo: " in told[-2]
    assert told[-1] == "pass: the cluster is fit for the job"
    assert not [path for path in files.find(RUNS) if "/.doctor-" in path]
    # Everything is looked at, though much is wrong.
    wrong = ("--min-free-gib", "1e6", "--run.tracking-uri", "http://127.0.0.1:1", "--cluster.num-workers", "9")
    code, told = looked_at(site, *wrong)
    assert (code, told[-1]) == (1, "fail: disks, mlflow, all-reduce"), told
    assert told[-2] == f"fail  all-reduce  9 workers need 9 CPU, of which {NUM_HOSTS} are free now"
