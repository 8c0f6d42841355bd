"""`dvt doctor`: looks at a cluster before a long job, and says pass or fail, a line a check."""

import argparse
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from dvt.cli.cluster import ClusterError, connected
from dvt.cli.doctor_links import measure_links
from dvt.cli.doctor_node import NodeProbe, local_folders
from dvt.cli.doctor_rules import (
    ClockOffset,
    Verdict,
    judge_clocks,
    judge_disks,
    judge_gpus,
    judge_links,
    judge_storage,
    judge_tracking,
    judge_versions,
)
from dvt.cli.train import at_home
from dvt.config import ConfigError, Problem, Recipe, load_recipe
from dvt.tracking import TrackingError, check_tracking, resolve_tracking_uri
from dvt.tracking.errors import without_credentials

_NUM_PINGS = 9  # of which the quickest tells the time best
_STORED_BYTES = 32 * 2**20
_ANY_JOB = {"name": "doctor", "data": {"root": "."}}  # where no recipe is named


def main(words: Sequence[str]) -> int:
    """Run the command; returns its exit code: 1 where a check failed.

    Args:
        words: The command line behind `dvt doctor`.
    """
    asked, recipe = _parse(words)
    uri = resolve_tracking_uri(recipe.run.tracking_uri, recipe.run.storage_path)
    verdicts = []
    with connected(recipe.cluster):
        cluster = _Cluster(asked.timeout)
        print(f"checking {len(cluster.probes)} {'node' if len(cluster.probes) == 1 else 'nodes'}", flush=True)
        for verdict in _checks(cluster, recipe, uri, asked):
            print(f"{verdict.state}  {verdict.check:10}  {verdict.told}", flush=True)
            verdicts.append(verdict)
    failed = [verdict.check for verdict in verdicts if verdict.state == "fail"]
    print(f"fail: {', '.join(failed)}" if failed else "pass: the cluster is fit for the job")
    return 1 if failed else 0


def _parse(words: Sequence[str]) -> tuple[argparse.Namespace, Recipe]:
    parser = argparse.ArgumentParser(
        prog="dvt doctor",
        description="Look at a cluster before a long job. Fields of the recipe can be overridden, as for `dvt train`.",
        allow_abbrev=False,
    )
    parser.add_argument("--recipe", type=Path, metavar="FILE", help="the job's; else one worker without a GPU")
    parser.add_argument("--min-free-gib", type=float, default=10, metavar="GIB", help="free disk a folder; 10")
    parser.add_argument("--min-storage-mib-s", type=float, default=0, metavar="RATE", help="of each node; any")
    parser.add_argument("--min-all-reduce-gb-s", type=float, default=0, metavar="RATE", help="on each link; any")
    parser.add_argument("--timeout", type=float, default=120, metavar="S", help="seconds a node may take; 120")
    asked, overrides = parser.parse_known_args(words)
    options = ("min_free_gib", "min_storage_mib_s", "min_all_reduce_gb_s", "timeout")
    problems = [
        Problem(f"--{name.replace('_', '-')}", f"must be at least 0, got {value:g}")
        for name in options
        if not (value := getattr(asked, name)) >= 0
    ]
    if problems:
        raise ConfigError(problems)
    return asked, at_home(load_recipe(asked.recipe or _ANY_JOB, overrides))


def _checks(cluster: "_Cluster", recipe: Recipe, uri: str, asked: argparse.Namespace) -> Iterator[Verdict]:
    """One check after the other; a node that does not answer ends them."""
    try:
        yield from _all_checks(cluster, recipe, uri, asked)
    except ClusterError as error:
        yield Verdict("nodes", "fail", str(error))


def _all_checks(cluster: "_Cluster", recipe: Recipe, uri: str, asked: argparse.Namespace) -> Iterator[Verdict]:
    storage = recipe.run.storage_path
    nodes = cluster.health(local_folders(storage, recipe.data.cache_dir))
    yield judge_versions(nodes)
    yield judge_clocks(cluster.clocks())
    yield judge_disks(nodes, asked.min_free_gib)
    wanted = recipe.cluster.most_workers * recipe.cluster.worker_resources.get("GPU", 0)
    yield judge_gpus(nodes, wanted)
    yield _storage(cluster, storage, asked.min_storage_mib_s)
    yield _tracking(cluster, uri)
    with tempfile.TemporaryDirectory(prefix="dvt-doctor-") as folder:
        yield judge_links(measure_links(recipe.cluster, folder, asked.timeout), asked.min_all_reduce_gb_s)


def _storage(cluster: "_Cluster", storage: str, min_mib_s: float) -> Verdict:
    told = without_credentials(storage)
    names = {node: f".doctor-{uuid.uuid4().hex}" for node in cluster.probes}
    try:
        rates = cluster.ask(lambda node, probe: probe.store.remote(storage, names[node], _STORED_BYTES))
        stored = [node for node, rate in rates.items() if not isinstance(rate, str)]
        wanted = [names[node] for node in stored]
        seen = cluster.ask(lambda _, probe: probe.missing.remote(storage, wanted))
    finally:
        cluster.ask(lambda node, probe: probe.remove.remote(storage, names[node]))
    owner = {names[node]: node for node in stored}
    missing = {
        node: found if isinstance(found, str) else [owner[name] for name in found] for node, found in seen.items()
    }
    return judge_storage(told, rates, missing, min_mib_s)


def _tracking(cluster: "_Cluster", uri: str) -> Verdict:
    problem, unreached = None, {}
    try:
        check_tracking(uri)
    except TrackingError as error:
        problem = str(error)
    parts = urlsplit(uri)
    if parts.scheme in ("http", "https") and parts.hostname:
        host, port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
        unreached = cluster.ask(lambda _, probe: probe.reach.remote(host, port))
    return judge_tracking(without_credentials(uri), problem, unreached)


class _Cluster:
    """A probe on every node."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        probe: Any = ray.remote(NodeProbe)
        alive = [node for node in ray.nodes() if node["Alive"]]
        names = [f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})" for node in alive]
        if len(set(names)) < len(names):  # several nodes on one machine
            names = [f"{name} {node['NodeID'][:6]}" for name, node in zip(names, alive, strict=True)]
        self._nodes = dict(zip(names, alive, strict=True))
        self.probes = {
            told: probe.options(
                num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote()
            for told, node in self._nodes.items()
        }

    def ask(self, request: Any) -> dict[str, Any]:
        """Every node at once; the answers by node.

        Raises:
            ClusterError: If a node does not answer.
        """
        answers = {node: request(node, probe) for node, probe in self.probes.items()}
        return {node: self._get(node, answer) for node, answer in answers.items()}

    def health(self, folders: Sequence[str]) -> list[Any]:
        """What each node tells of itself."""

        def request(told: str, probe: Any) -> Any:
            node = self._nodes[told]
            return probe.health.remote(node["NodeManagerAddress"], node["Resources"].get("GPU", 0.0), folders)

        return list(self.ask(request).values())

    def clocks(self) -> list[ClockOffset]:
        """How far each node's clock is ahead of this one's, as Cristian's algorithm tells it."""
        offsets = []
        for node, probe in self.probes.items():
            pings = []
            for _ in range(_NUM_PINGS):
                before = time.time()
                told = self._get(node, probe.now.remote())
                after = time.time()
                pings.append(ClockOffset(node, told - (before + after) / 2, (after - before) / 2))
            offsets.append(min(pings, key=lambda ping: ping.uncertain_s))
        return offsets

    def _get(self, node: str, answer: Any) -> Any:
        try:
            return ray.get(answer, timeout=self._timeout_s)
        except GetTimeoutError as error:
            raise ClusterError(
                f"node {node} must answer within {self._timeout_s:g} s, got nothing; look at its logs, or take it out"
            ) from error
        except RayError as error:
            first = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise ClusterError(f"node {node} must answer, got: {first}; look at its logs, or take it out") from error
