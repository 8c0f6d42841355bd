"""The cost of a run over tries, worked by hand: two workers with one core each."""

from dataclasses import replace
from pathlib import Path

import pytest
from fsspec.implementations.local import LocalFileSystem

from dvt.config import Recipe
from dvt.train.cost import CostMeter, read_seconds
from dvt.train.storage import RunFolder
from tests.unit.train.tiny import RECIPE


def folder_at(path: Path) -> RunFolder:
    return RunFolder(LocalFileSystem(auto_mkdir=True), str(path), path.name)


def of_two_workers(**cluster: object) -> Recipe:
    return replace(RECIPE, cluster=replace(RECIPE.cluster, num_workers=2, **cluster))


def hours(meter: CostMeter, elapsed_s: float, **more: float) -> float:
    (value,) = meter.add({"train/elapsed_s": elapsed_s, **more}).values()
    return value


def test_hours_go_on_over_workers_and_drivers_that_were_started_again(tmp_path: Path) -> None:
    meter = CostMeter.of(of_two_workers(cpus_per_worker=1), folder_at(tmp_path))
    assert meter.add({"train/elapsed_s": 1800.0}) == {"cost/cpu_hours": 1.0}
    assert hours(meter, 3600.0, epoch=1) == 2.0
    assert hours(meter, 900.0) == 2.5  # the workers began again; what they had done by the last report counts
    assert hours(meter, 1800.0, epoch=2) == 3.0
    hours(meter, 2700.0)  # within an epoch: lost with the driver

    again = CostMeter.of(of_two_workers(cpus_per_worker=1), folder_at(tmp_path))
    assert hours(again, 1800.0, epoch=3) == 4.0
    assert read_seconds(folder_at(tmp_path)) == [3600.0, 1800.0, 1800.0]


def test_gpus_count_where_there_are_any(tmp_path: Path) -> None:
    meter = CostMeter.of(of_two_workers(use_gpu=True), folder_at(tmp_path))
    assert meter.add({"train/elapsed_s": 3600.0}) == {"cost/gpu_hours": 2.0}


def test_a_report_without_time_costs_nothing(tmp_path: Path) -> None:
    assert CostMeter.of(of_two_workers(), folder_at(tmp_path)).add({"epoch": 1.0}) == {}
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("epochs", [1, 12])
def test_tries_are_read_in_any_number(tmp_path: Path, epochs: int) -> None:
    for _ in range(epochs):
        total = hours(CostMeter.of(of_two_workers(cpus_per_worker=1), folder_at(tmp_path)), 1800.0, epoch=1)
    assert total == epochs


def test_a_try_with_fewer_workers_costs_less(tmp_path: Path) -> None:
    meter = CostMeter.of(of_two_workers(cpus_per_worker=1), folder_at(tmp_path))
    assert hours(meter, 3600.0, epoch=1) == 2.0
    assert hours(meter, 1800.0, epoch=2, **{"train/num_workers": 1}) == 2.5
