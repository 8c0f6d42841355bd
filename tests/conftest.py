"""What holds for every test."""

import sys

import pytest
import torch

# The models are small, Ray and servers share the cores, and one thread adds up in one order: values repeat to the bit.
torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run what starts Ray in one process, on one cluster, where several processes share the tests (`make test`)."""
    for item in items:
        if item.get_closest_marker("ray"):
            item.add_marker(pytest.mark.xdist_group("ray"))


@pytest.fixture(autouse=True)
def _own_sys_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow leaves a loaded model's part of `dvt` first on `sys.path`, where a process spawned later would find it."""
    monkeypatch.setattr(sys, "path", sys.path)
