"""What the Grafana dashboard of infra/monitoring asks Prometheus for, and what a node of Ray answers."""

import functools
import json
import re
import time
import urllib.request
from pathlib import Path
from typing import Any
from urllib.error import URLError

from prometheus_client.parser import text_string_to_metric_families

from tests.infra.shell import ROOT
from tests.integration.cluster import RayCluster

FILE = ROOT / "infra" / "monitoring" / "dashboard.json"
LIST = "prom_metrics_service_discovery.json"  # Ray's, of all nodes
_SELECTOR = re.compile(r"(ray_\w+)(?:\{([^}]*)\})?")
_GROUP = re.compile(r"\bby \(([^)]*)\)")
SCRAPED = {"instance"}  # labels that Prometheus itself adds

Exported = dict[str, set[str]]  # names, each with the labels that it came with


@functools.cache
def whole() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FILE.read_text())
    return found


def queries(row: str) -> list[str]:
    """The queries of the panels below a row."""
    found: dict[str, list[str]] = {}
    for panel in whole()["panels"]:
        if panel["type"] == "row":
            below = found.setdefault(panel["title"], [])
        else:
            below += [target["expr"] for target in panel["targets"]]
    return found[row]


def metrics_of(query: str) -> dict[str, set[str]]:
    """The metrics that a query reads, each with the labels that it must have."""
    groups = {label.strip() for part in _GROUP.findall(query) for label in part.split(",")} - SCRAPED
    return {
        name: groups | set(re.findall(r"(\w+)\s*=~?", selector or "")) for name, selector in _SELECTOR.findall(query)
    }


def read_samples(folder: Path) -> list[Any]:
    """What all nodes of the Ray below a folder export now, found as Prometheus finds it."""
    samples = []
    for entry in json.loads(next(folder.rglob(LIST)).read_text()):
        for address in entry["targets"]:
            try:
                with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as reply:
                    text = reply.read().decode()
            except URLError:  # a target that is down, as Prometheus says
                continue
            samples += [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return samples


def read_exported(folder: Path) -> Exported:
    """The names that are exported now, each with its labels."""
    exported: Exported = {}
    for sample in read_samples(folder):
        exported.setdefault(sample.name, set()).update(sample.labels)
    return exported


def unanswered(row: str, exported: Exported) -> list[str]:
    """The queries of a row that name a metric, or a label of it, that was not exported."""
    return [
        query
        for query in queries(row)
        for name, labels in metrics_of(query).items()
        if not (name in exported and labels <= exported[name])
    ]


def wait_for_answers(cluster: RayCluster, row: str, timeout_s: float = 60) -> None:
    """Wait until every query of a row finds what it asks for among what the cluster exports."""
    end = time.monotonic() + timeout_s
    while missing := unanswered(row, read_exported(cluster.folder)):
        assert time.monotonic() < end, f"these find nothing after {timeout_s:g} s: {missing}"
        time.sleep(0.5)
