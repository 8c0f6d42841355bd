"""The embedded recipe keeps its promise: a data set on which looking closer pays, and leaving early too."""

import json
from pathlib import Path

import pytest

from tests.integration.cluster import ROOT, RayCluster, driving

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.mark.timeout(1500)
def test_looking_closer_pays(cluster: RayCluster, tmp_path: Path) -> None:
    recipe = str(ROOT / "jobs" / "recipes" / "embedded.yaml")
    words = ["--recipe", recipe, "--exits.static-reference", "false"]  # the cascade alone is what is promised
    words += ["--exits.budgets-macs", "[4.1e6]"]
    with driving(words, cwd=tmp_path, env=cluster.env, python=cluster.python) as driver:
        assert driver.finish(timeout_s=1400) == 0, driver.text
    report = json.loads((tmp_path / "runs" / "embedded-001" / "front" / "front.json").read_text())
    top1 = [row["test_top1"] for row in report["exits"]]
    assert top1[0] < 0.90
    assert top1[-1] > 0.95
    assert top1 == sorted(top1)
    # A budget of less than half of the last exit's cost costs at most one image in a hundred. The thresholds spend all
    # of it on the calibration images; the test images cost a few percent more or less.
    (largest,) = report["budgets"]
    assert largest["test"]["macs"] < 0.5 * report["exits"][-1]["macs"]
    assert largest["test"]["accuracy"] > top1[-1] - 0.01
