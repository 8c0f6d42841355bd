"""The core runs where only torch and timm are installed: no Ray, no MLflow, no pydantic at import time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE_ROOT = Path(__file__).resolve().parents[2] / "platform"
CORE = ("dvt.config", "dvt.models", "dvt.exits", "dvt.inference")
BLOCKED = ("ray", "mlflow", "pydantic", "optuna", "tyro")

PRELUDE = f"""
import importlib, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED!r}:
            raise ModuleNotFoundError(f"{{name}} is blocked here", name=name)

sys.meta_path.insert(0, Blocker())
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(SOURCE_ROOT)}
    return subprocess.run(
        [sys.executable, "-c", PRELUDE + code], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("package", CORE)
def test_core_imports_without_the_cluster(package: str) -> None:
    done = run(f"importlib.import_module({package!r})")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", BLOCKED)
def test_the_blocker_blocks(name: str) -> None:
    done = run(f"importlib.import_module({name!r})")
    assert f"ModuleNotFoundError: {name} is blocked here" in done.stderr
