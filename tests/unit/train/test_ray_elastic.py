"""Which number of workers is taken of a range."""

import pytest
from ray.train import ScalingConfig

from dvt.train.ray_elastic import FittingWorkers


@pytest.mark.parametrize(
    ("cores", "taken"), [({"a": 8}, 8), ({"a": 4, "b": 3}, 4), ({"a": 3}, 2), ({"a": 1}, 1), ({}, 0), ({"a": 20}, 8)]
)
def test_the_largest_number_that_fits_is_taken(cores: dict[str, int], taken: int) -> None:
    policy = FittingWorkers(ScalingConfig(num_workers=(2, 8)), (1, 2, 4, 8))
    reserved = {node: {"CPU": float(count)} for node, count in cores.items()}
    assert policy._count_possible_workers(reserved) == taken
