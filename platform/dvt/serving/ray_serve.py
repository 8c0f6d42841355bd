"""A Ray Serve application: requests come in at one deployment, and each part of the cascade has one of its own.

The ingress reads requests, prepares images and sends them on in groups; a stage joins the groups of all who send to it
into full batches, answers for the images that leave, and puts what the next stage reads of the others into shared
memory. The ingress then calls the next stage with the address of that alone, so survivors never pass through it, and
images that leave early are answered while the others go on.
"""

import asyncio
import logging
import math
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray
import torch
from ray import ObjectRef, serve
from ray.exceptions import ObjectLostError, RayActorError
from ray.serve import metrics
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from dvt.config import ConfigError, Problem
from dvt.config.logs import chosen_format
from dvt.exits import PLAIN, Thresholds
from dvt.inference import profile_of
from dvt.models import macs_per_exit
from dvt.serving.ask_again import REPEATABLE
from dvt.serving.drift import DriftWatch
from dvt.serving.gathering import Gathering
from dvt.serving.journey import Answer, Journey, LostError, PartReply
from dvt.serving.model import open_model
from dvt.serving.plan import Replicas, ServingPlan
from dvt.serving.request import Asked, Chosen, RefusedError, RequestBudgets, read_body, read_request
from dvt.serving.stage_part import ImageGroup, PartResult, StagePart
from dvt.train.ray_metrics import HeldGauges

logger = logging.getLogger("ray.serve")

INGRESS = "ingress"
_LOST = (RayActorError, ObjectLostError)
_MAX_ONGOING = 10_000  # the batches bound what runs at once; what waits is small
_ASSUMED_CALIBRATION = 1000  # images; where the model does not tell
_CONFIDENCES = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99]
_MILLISECONDS = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0]
_BATCHES = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0]


class StageReplica:
    """Runs some stages of the cascade.

    Args:
        plan: Of the application.
        part_index: Which of its parts this is.
    """

    def __init__(self, plan: ServingPlan, part_index: int) -> None:
        torch.set_num_threads(plan.num_threads)
        part = plan.parts[part_index]
        device = torch.device("cuda" if plan.use_gpu else "cpu")
        model = open_model(model=plan.model, tracking_uri=plan.tracking_uri)
        confidence = PLAIN if model.thresholds is None else model.thresholds.confidence
        profile = profile_of(model.profiles, device)
        self._seconds = None if profile is None else profile.seconds_per_exit()
        for index, stage in enumerate(model.cascade.stages):
            stage.to(device if index in part.stages else "meta")
        self._part = StagePart(model.cascade, confidence, part.stages)
        niceness = plan.niceness(part_index)  # of the thread, and of torch's, which it starts
        self._thread = ThreadPoolExecutor(1, "dvt-stage", os.nice, (niceness,))  # one, as torch's are for one caller
        self._gathering: Gathering[Any, PartReply] = Gathering(
            self._run_batch, max_size=part.max_batch_size, max_wait_s=plan.batch_wait_s, size_of=len
        )
        self._batch_sizes = metrics.Histogram(
            "dvt_batch_size", "Images that a stage ran on at once.", boundaries=_BATCHES
        )

    async def run(self, handed_on: "list[ImageGroup | ObjectRef[ImageGroup]]") -> PartReply:
        """Classify a group, together with others that come at the same time.

        Args:
            handed_on: The group or its address, in a list, as Ray would fetch an address that stands alone itself.
        """
        given = handed_on[0]
        group: ImageGroup = given if isinstance(given, ImageGroup) else await given
        return await self._gathering.submit(group)

    async def seconds_per_exit(self) -> tuple[float, ...] | None:
        """(E,), seconds of an image that leaves at each exit on this device; None where no profile tells."""
        return self._seconds

    async def is_ready(self) -> bool:
        """Whether it answers."""
        return True

    async def _run_batch(self, groups: list[ImageGroup]) -> list[PartReply]:
        self._batch_sizes.observe(float(sum(map(len, groups))))
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._made, groups)

    def _made(self, groups: list[ImageGroup]) -> list[PartReply]:
        return [_reply(result) for result in self._part(groups)]


def _reply(result: PartResult) -> PartReply:
    survivors = None if result.survivors is None else ray.put(result.survivors)
    return PartReply(result.left, result.staying, survivors)


class Ingress:
    """Answers requests over HTTP.

    Args:
        plan: Of the application.
        parts: Handles of the parts' deployments, in their order.
    """

    def __init__(self, plan: ServingPlan, *parts: DeploymentHandle[Any]) -> None:
        torch.set_num_threads(1)
        model = open_model(plan.model, plan.tracking_uri)
        config, table = model.cascade.config, model.thresholds
        self._macs = tuple(map(float, macs_per_exit(config)))
        self._budgets = RequestBudgets(table, self._macs, model.default_budget_macs)
        self._class_names = model.class_names
        self._prepare = model.preparation
        self._parts = parts
        self._seconds: tuple[float, ...] | None = None
        self._journey = Journey([_caller(part) for part in parts], _LOST)
        self._gathering: Gathering[tuple[Any, Thresholds], asyncio.Future[Answer]] = Gathering(
            self._set_out, max_size=min(part.max_batch_size for part in plan.parts), max_wait_s=plan.batch_wait_s
        )
        self._under_way: set[asyncio.Task[None]] = set()
        promise = None if table is None else table.guarantee
        seen = _ASSUMED_CALIBRATION if promise is None else 2 * promise.num_tested  # the other half chose them
        self._record = _Record(len(self._macs), plan.num_calibration or seen)

    async def __call__(self, request: Request) -> Response:
        """Answer a request."""
        path = request.url.path.removeprefix(request.scope.get("root_path", "")).rstrip("/")
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=dict([REPEATABLE, ("allow", "GET, POST")]))
        if request.method == "GET" and path == "/healthz":
            return JSONResponse({"status": "ok"})
        if request.method == "GET" and path == "/readyz":
            return await self._readiness()
        if path:
            return _refusal(404, f"the address must end with /, /healthz or /readyz behind the route, got {path}")
        if request.method != "POST":
            return _refusal(405, f"the method must be POST, got {request.method}")
        arrived = time.perf_counter()
        try:
            content_type = request.headers.get("content-type", "")
            asked = read_request(content_type, await read_body(request.stream()), dict(request.query_params))
            return JSONResponse({"predictions": await self._predictions(asked, arrived)})
        except ConfigError as error:
            return _refusal(400, "; ".join(map(str, error.problems)))
        except RefusedError as error:
            return _refusal(error.status, str(error))
        except LostError as error:
            return _refusal(503, str(error))

    async def _predictions(self, asked: Asked, arrived: float) -> list[dict[str, Any]]:
        seconds = None
        if asked.budget is not None and asked.budget.budget_ms is not None:
            seconds = await self._seconds_per_exit()
        chosen = self._budgets.chosen(asked.budget, seconds)
        images = await asyncio.to_thread(self._prepare, asked.images)
        each = (self._prediction(image, chosen, arrived) for image in images.numpy())
        return list(await asyncio.gather(*each))

    async def _prediction(self, image: Any, chosen: Chosen, arrived: float) -> dict[str, Any]:
        answer = await (await self._gathering.submit((image, chosen.thresholds)))
        self._record.note(answer, chosen.exit_shares, 1000 * (time.perf_counter() - arrived))
        return {
            "label": answer.label,
            "class_name": self._class_names[answer.label],
            "prob": _number(answer.prob),
            "confidence": _number(answer.confidence),
            "exit_index": answer.exit_index + 1,
            "macs": self._macs[answer.exit_index],
        }

    async def _set_out(self, asked: list[tuple[Any, Thresholds]]) -> "list[asyncio.Future[Answer]]":
        """Send images on their way together; returns what will be their answers."""
        images, thresholds = zip(*asked, strict=True)
        group = ImageGroup(torch.stack([torch.from_numpy(each) for each in images]).numpy(), _rows(thresholds))
        answers = [asyncio.get_running_loop().create_future() for _ in asked]
        task = asyncio.create_task(self._journey.follow(group, answers))
        self._under_way.add(task)  # asyncio itself would forget it
        task.add_done_callback(self._under_way.discard)
        return answers

    async def _seconds_per_exit(self) -> tuple[float, ...]:
        """What stages take where they run; asked of a stage, as the ingress may run on another kind of node."""
        if self._seconds is None:
            self._seconds = await self._parts[0].seconds_per_exit.remote()
        if self._seconds is None:
            rule = "must come with a model whose latency was measured on this device, and this one's was not"
            raise ConfigError([Problem("budget_ms", f"{rule}; run dvt profile, or send budget_macs")])
        return self._seconds

    async def _readiness(self) -> Response:
        try:
            async with asyncio.timeout(5):
                await asyncio.gather(*(part.is_ready.remote() for part in self._parts))
        except (TimeoutError, *_LOST):
            return JSONResponse({"status": "a stage does not answer"}, 503)
        return JSONResponse({"status": "ok"})


class _Record:
    """What is told to Prometheus, and to the log when images leave elsewhere than they did."""

    def __init__(self, num_exits: int, num_calibration: int) -> None:
        tags = ("exit",)
        self._watch = DriftWatch(num_exits, num_calibration)
        self._images = metrics.Counter("dvt_images", "Images that left at an exit.", tags)
        self._confidence = metrics.Histogram(
            "dvt_confidence", "Confidence of images at the exit they took.", boundaries=_CONFIDENCES, tag_keys=tags
        )
        self._latency = metrics.Histogram(
            "dvt_latency_ms", "From request to answer, by the exit taken.", boundaries=_MILLISECONDS, tag_keys=tags
        )
        self._gauges = HeldGauges(metrics.Gauge)
        self._is_drifting = False

    def note(self, answer: Answer, expected: tuple[float, ...], milliseconds: float) -> None:
        """Note an image; `expected` shares are empty where none are known for its thresholds."""
        tags = {"exit": str(answer.exit_index + 1)}
        self._images.inc(1, tags)
        if math.isfinite(answer.confidence):  # one that is no number would spoil the histogram's sum for good
            self._confidence.observe(answer.confidence, tags)
        self._latency.observe(milliseconds, tags)
        self._gauges.hold("dvt_drift", float(self._is_drifting), {})
        check = self._watch.add(expected, answer.exit_index) if expected else None
        if check is None:
            return
        for index, (seen, meant) in enumerate(zip(check.observed, check.expected, strict=True), start=1):
            self._gauges.hold("dvt_exit_share", seen, {"exit": str(index)})
            self._gauges.hold("dvt_exit_share_expected", meant, {"exit": str(index)})
        self._is_drifting = check.is_drifting
        if check.is_new:
            logger.warning("drift: %s; calibrate again on images such as those that come now", check)


def _number(value: float) -> float | None:
    """JSON has no word for what is no number, as of an image that made the model overflow."""
    return value if math.isfinite(value) else None


def _rows(thresholds: Sequence[Thresholds]) -> Any:
    return torch.tensor(thresholds, dtype=torch.float64).numpy()


def _caller(part: DeploymentHandle[Any]) -> Callable[[Any], Awaitable[PartReply]]:
    async def call(handed_on: Any) -> PartReply:
        reply: PartReply = await part.run.remote([handed_on])
        return reply

    return call


def _refusal(status: int, sentence: str) -> Response:
    return JSONResponse({"error": sentence}, status)


def build_application(plan: ServingPlan) -> serve.Application:
    """The deployments of a plan, ready for `serve.run`."""
    resources = {"num_cpus": plan.cpus_per_replica, "num_gpus": int(plan.use_gpu)}
    parts = [
        _deployment(StageReplica, part.name, part.replicas, resources).bind(plan, index)
        for index, part in enumerate(plan.parts)
    ]
    front: serve.Application = _deployment(Ingress, INGRESS, plan.ingress_replicas, {"num_cpus": 0}).bind(plan, *parts)
    return front


def _deployment(kind: type, name: str, replicas: Replicas, resources: dict[str, float]) -> Any:
    return serve.deployment(name=name, **_options(replicas, resources))(kind)


def _options(replicas: Replicas, resources: dict[str, float]) -> dict[str, Any]:
    """What all deployments have alike."""
    scale: dict[str, Any] = {"num_replicas": replicas.least}
    if replicas.least < replicas.most:
        scale = {"autoscaling_config": {"min_replicas": replicas.least, "max_replicas": replicas.most}}
    return scale | {
        "ray_actor_options": resources,
        "max_ongoing_requests": _MAX_ONGOING,
        "health_check_period_s": 2,
        "graceful_shutdown_timeout_s": 10,
        # Serve's own format, which tells deployment, replica and request; a line a request costs more than the request.
        "logging_config": {"encoding": chosen_format().upper(), "enable_access_log": False},
    }
