"""What holds for every test."""

import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from xdist.scheduler import LoadScopeScheduling

# The models are small, Ray and servers share the cores, and one thread adds up in one order: values repeat to the bit.
torch.set_num_threads(1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with what starts Ray where several processes share the tests, as it takes longest."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.get_closest_marker("ray") is None)


class _ByFile(LoadScopeScheduling):
    """Gives a process whole files, whose fixtures are made once, and one of them all that start Ray, on one cluster."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "ray" if _starts_ray(self.config.rootpath / file) else file


@cache
def _starts_ray(file: Path) -> bool:
    return "pytest.mark.ray" in file.read_text()


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _ByFile:
    return _ByFile(config, log)


@pytest.fixture(autouse=True)
def _own_sys_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow leaves a loaded model's part of `dvt` first on `sys.path`, where a process spawned later would find it."""
    monkeypatch.setattr(sys, "path", sys.path)
