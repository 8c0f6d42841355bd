"""What holds for every test."""

import sys

import pytest
import torch

# The models are small, Ray and servers share the cores, and one thread adds up in one order: values repeat to the bit.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_sys_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow leaves a loaded model's part of `dvt` first on `sys.path`, where a process spawned later would find it."""
    monkeypatch.setattr(sys, "path", sys.path)
