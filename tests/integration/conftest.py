"""One Ray cluster and one S3 server for all integration tests."""

from collections.abc import Iterator

import pytest

from tests.integration.cluster import RayCluster, running_cluster
from tests.integration.s3_server import S3Server, running_s3


@pytest.fixture(scope="session")
def cluster() -> Iterator[RayCluster]:
    # Metrics every second, so that no test waits for them as long as Prometheus would.
    with running_cluster(num_cpus=3, env={"RAY_metrics_report_interval_ms": "1000"}) as started:
        yield started


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    with running_s3() as started:
        yield started


@pytest.fixture
def s3_settings(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """What finds the server, in this process's environment."""
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
