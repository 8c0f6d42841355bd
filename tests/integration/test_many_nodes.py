"""Jobs on a cluster of three hosts that have nothing but Ray and its packages: data and results are in a bucket.

What is submitted carries the project; the hosts' Python does not find it, nor do they see the repository's files.
"""

import json
from collections.abc import Iterator

import pandas as pd
import pytest
import s3fs
from mlflow import MlflowClient

from tests.integration.cluster import submitted
from tests.integration.site import BUCKET, DATA, DIGITS, Site, Watch, running_site

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
