"""infra/monitoring: what Prometheus is told to read, and a dashboard without a panel that asks in vain.

That the metrics are exported is seen by tests of real runs: tests/integration/test_train_job.py, test_search_job.py and
test_serve_job.py ask `tests.infra.dashboard` what is missing.
"""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE
from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

from tests.infra import dashboard
from tests.infra.shell import ROOT

FOLDER = ROOT / "infra" / "monitoring"


@pytest.fixture(scope="module")
def scraped() -> dict[str, dict[str, Any]]:
    """The scrape jobs by name."""
    config = yaml.safe_load((FOLDER / "prometheus.yaml").read_text())
    return {job["job_name"]: job for job in config["scrape_configs"]}


def test_nodes_are_found_where_ray_lists_them(scraped: dict[str, dict[str, Any]]) -> None:
    (found,) = scraped["ray-nodes"]["file_sd_configs"]
    assert found["files"] == [f"/tmp/ray/{PROMETHEUS_SERVICE_DISCOVERY_FILE}"]
    assert dashboard.LIST == PROMETHEUS_SERVICE_DISCOVERY_FILE


def test_the_metrics_ports_of_rays_pods_are_read(scraped: dict[str, dict[str, Any]]) -> None:
    job = scraped["ray-pods"]
    assert job["kubernetes_sd_configs"] == [{"role": "pod", "namespaces": {"names": ["dvt"]}}]
    rules = {rule["source_labels"][0].removeprefix("__meta_kubernetes_pod_"): rule for rule in job["relabel_configs"]}
    assert rules["label_ray_io_is_ray_node"]["regex"] == "yes"
    (cluster,) = yaml.safe_load_all((ROOT / "infra/kuberay/cluster.yaml").read_text())
    ports = cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["ports"]
    read = {p["containerPort"] for p in ports if re.fullmatch(rules["container_port_name"]["regex"], p["name"])}
    assert read == {8080, 44217, 44227}
    network = yaml.safe_load_all((ROOT / "infra/kuberay/network.yaml").read_text())
    (policy,) = (each for each in network if each["metadata"]["name"] == "prometheus")
    (rule,) = policy["spec"]["ingress"]
    assert {port["port"] for port in rule["ports"]} == read


def test_panels_are_whole_and_do_not_overlap() -> None:
    board = dashboard.whole()
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        columns, rows = (range(place[start], place[start] + place[size]) for start, size in (("x", "w"), ("y", "h")))
        cells = {(x, y) for x in columns for y in rows}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
        if panel["type"] != "row":
            assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])
            assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]) > 0


def test_variables_are_defined_by_what_they_choose_among() -> None:
    board = dashboard.whole()
    variables = {each["name"]: each for each in board["templating"]["list"]}
    text = dashboard.FILE.read_text()
    assert set(re.findall(r"=~\\\"\$(\w+)", text)) == {"run", "search"} <= set(variables)
    for name in ("run", "search"):
        metric = re.fullmatch(rf"label_values\((\w+), {name}\)", variables[name]["query"]["query"])
        assert metric
        asked = [*dashboard.queries("Training"), *dashboard.queries("Search")]
        assert any(metric[1] in dashboard.metrics_of(query) for query in asked)


def test_rays_own_metrics_are_ones_that_it_has() -> None:
    for query in dashboard.queries("Nodes"):
        for name in dashboard.metrics_of(query):
            assert name.removeprefix("ray_") in METRICS_GAUGES


def test_a_query_is_taken_apart() -> None:
    query = (
        'histogram_quantile(0.5, sum by (le, exit) (rate(ray_a_bucket{run=~"$run"}[5m]))) / max by (instance) (ray_b)'
    )
    assert dashboard.metrics_of(query) == {"ray_a_bucket": {"le", "exit", "run"}, "ray_b": {"le", "exit"}}


def test_metrics_are_told_in_a_page() -> None:
    pages = (FOLDER / "README.md").read_text() + (ROOT / "docs" / "serving_cluster.md").read_text()
    for row in ("Training", "Search", "Serving"):
        for query in dashboard.queries(row):
            for name in dashboard.metrics_of(query):
                assert re.sub(r"_(bucket|sum|count|total)$", "", name) in pages, name


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool; install Debian's package prometheus")
def test_prometheus_understands_queries(tmp_path: Path) -> None:
    every = [query for row in ("Training", "Search", "Serving", "Nodes") for query in dashboard.queries(row)]
    asked = [re.sub(r"\$\w+", "all", query) for query in every]
    rules = [{"record": f"panel_{number}", "expr": query} for number, query in enumerate(asked)]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", tmp_path / "rules.yaml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
