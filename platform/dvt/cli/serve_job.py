"""`jobs/serve.py`: serves a model over HTTP on a Ray cluster, each stage a deployment of its own, until told to end.

Nothing is kept in the job: the deployments open the model themselves, by its version, wherever they run.
"""

import argparse
import logging
import math
import threading
from collections.abc import Sequence

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from rich.console import Console

from dvt.cli.cluster import connected
from dvt.cli.summary import print_places
from dvt.cli.train import home_folder
from dvt.config import ClusterConfig, ConfigError, Problem
from dvt.serving.ask_again import CONTROLLER_OPTIONS
from dvt.serving.errors import ServingError
from dvt.serving.model import open_model
from dvt.serving.plan import Replicas, ServingPlan, plan_parts
from dvt.serving.ray_serve import build_application
from dvt.tracking import resolve_tracking_uri
from dvt.tracking.lookup import ModelAddress, find_version


def main(words: Sequence[str]) -> int:
    """Run the job; returns its exit code when it was told to end.

    Args:
        words: The command line behind `jobs/serve.py`.
    """
    asked = _parse(words)
    _check(asked)
    model, uri = _address(asked)
    opened = open_model(model, uri)
    num_exits = opened.cascade.config.num_exits
    parts = plan_parts(num_exits, asked.split == "stages", asked.max_batch_size, asked.replicas)
    console = Console(highlight=False)
    with connected(ClusterConfig()):
        plan = ServingPlan(
            model=model,
            tracking_uri=uri,
            parts=parts,
            ingress_replicas=Replicas.parse("--ingress-replicas", asked.ingress_replicas),
            batch_wait_s=asked.batch_wait_ms / 1000,
            cpus_per_replica=_cpus(asked.cpus_per_replica, sum(part.replicas.least for part in parts)),
            use_gpu=asked.use_gpu,
            num_calibration=asked.calibration_images,
        )
        _serve(plan, asked, console)
    return 0


def _serve(plan: ServingPlan, asked: argparse.Namespace, console: Console) -> None:
    """Deploy, tell where, and take it away again when told to end."""
    _tell_room(plan, console)
    try:
        _deploy(plan, asked)
        address = f"http://{asked.host}:{asked.port}{asked.route}"
        print_places(console, {"model": plan.model, "address": address})
        console.print("Serving; Ctrl-C ends it.", style="bold")
        threading.Event().wait()
    except KeyboardInterrupt:
        console.print("Ending: requests that were taken are answered first.")
    serve.delete(asked.name)
    if not serve.status().applications:  # else another job's still run here
        serve.shutdown()


def _deploy(plan: ServingPlan, asked: argparse.Namespace) -> None:
    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # what a person needs is printed here
    try:
        serve.start(http_options={"host": asked.host, "port": asked.port}, controller_options=CONTROLLER_OPTIONS)
        serve.run(build_application(plan), name=asked.name, route_prefix=asked.route)
    # Ray 2.60 says with a RuntimeError that a deployment did not come up, and with a ValueError that a route is taken.
    except (RayServeException, RayError, RuntimeError, ValueError) as error:
        rule = f"the application must come up on the cluster, got: {error}; see Ray Serve's log on the dashboard"
        raise ServingError(" ".join(rule.split())) from error


def _tell_room(plan: ServingPlan, console: Console) -> None:
    """Say what is waited for; a cluster that grows may still give it."""
    wanted = {"CPU": plan.num_replicas * plan.cpus_per_replica, "GPU": float(plan.num_replicas * plan.use_gpu)}
    found = ray.cluster_resources()
    for name, count in wanted.items():
        has = float(found.get(name, 0))
        if count > has:
            told = f"{plan.num_replicas} replicas need {count:g} {name}s"
            console.print(f"Waiting for the cluster to grow: {told}, it has {has:g} now.")


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="jobs/serve.py",
        description="Serve a model over HTTP on a Ray cluster, spending on each image no more than it needs.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--model", required=True, help="models:/NAME@ALIAS, models:/NAME/VERSION or a checkpoint folder"
    )
    parser.add_argument(
        "--tracking-uri", help="MLflow server or SQLite file; without it MLFLOW_TRACKING_URI, else runs/mlflow.db"
    )
    parser.add_argument(
        "--split", choices=("stages", "none"), default="stages", help="a deployment for each stage, or one for all"
    )
    parser.add_argument(
        "--max-batch-size", type=_numbers, default=(32,), metavar="N[,N]", help="images a run, of all or each; 32"
    )
    parser.add_argument("--batch-wait-ms", type=float, default=5, metavar="MS", help="for others to come; 5")
    parser.add_argument(
        "--replicas", type=_words, default=("1",), metavar="N[,N]", help="of all or each deployment, 2 or 1-4; 1"
    )
    parser.add_argument("--ingress-replicas", default="1", metavar="N", help="that read requests, 2 or 1-4; 1")
    parser.add_argument(
        "--cpus-per-replica", type=float, metavar="N", help="CPU cores of a replica; without it 1, or what there is"
    )
    parser.add_argument("--use-gpu", action="store_true", help="give each replica of a stage a GPU")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; 127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="8000")
    parser.add_argument("--route", default="/", help="path that requests come to; /")
    parser.add_argument("--name", default="dvt", help="of the application, in Ray's dashboard; dvt")
    parser.add_argument(
        "--calibration-images", type=int, metavar="N", help="that thresholds were chosen on, for the drift warning"
    )
    return parser.parse_args(words)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _check(asked: argparse.Namespace) -> None:
    """Refuse what can be seen to be wrong before anything is loaded."""
    problems = []
    if not 0 <= asked.batch_wait_ms < math.inf:
        problems.append(Problem("--batch-wait-ms", f"must be at least 0, got {asked.batch_wait_ms:g}"))
    if asked.cpus_per_replica is not None and not 0 < asked.cpus_per_replica < math.inf:
        problems.append(Problem("--cpus-per-replica", f"must be above 0, got {asked.cpus_per_replica:g}"))
    if asked.calibration_images is not None and asked.calibration_images < 1:
        problems.append(Problem("--calibration-images", f"must be at least 1, got {asked.calibration_images}"))
    if not 0 < asked.port < 2**16:
        problems.append(Problem("--port", f"must be from 1 to 65535, got {asked.port}"))
    if not asked.route.startswith("/") or (asked.route != "/" and asked.route.endswith("/")):
        problems.append(Problem("--route", f"must begin with a slash and not end with one, got {asked.route!r}"))
    if problems:
        raise ConfigError(problems)


def _address(asked: argparse.Namespace) -> tuple[str, str | None]:
    """The model by its version, as an alias may be moved at any time, and where it is registered."""
    try:
        address = ModelAddress.parse(asked.model)
    except ValueError:
        return str((home_folder() / asked.model).resolve()), asked.tracking_uri
    uri = resolve_tracking_uri(asked.tracking_uri, str(home_folder() / "runs"))
    version = find_version(uri, address)
    return asked.model if version is None else f"models:/{version.name}/{version.version}", uri


def _cpus(asked: float | None, num_replicas: int) -> float:
    """Cores of a replica: as typed, else one, or an even share where there are fewer."""
    if asked is not None:
        return asked
    share = float(ray.cluster_resources().get("CPU", 0)) / num_replicas
    return min(1.0, math.floor(100 * share) / 100)
