"""One Ray cluster for all integration tests."""

from collections.abc import Iterator

import pytest

from tests.integration.cluster import RayCluster, running_cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[RayCluster]:
    with running_cluster(num_cpus=3) as started:
        yield started
