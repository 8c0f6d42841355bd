"""The serving job from end to end: on a real Ray, over HTTP, with processes killed while clients ask."""

import asyncio
import base64
import io
import json
import math
import random
import signal
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
import torch

from dvt.data.transforms import inference_transform, read_image
from dvt.exits import Thresholds
from dvt.inference import EarlyExit, EarlyExitResult
from dvt.models import macs_per_exit
from dvt.tracking import check_tracking, log_and_register_model, open_run
from tests.infra.dashboard import read_samples, wait_for_answers
from tests.integration.cluster import Driver, RayCluster, driving, free_port
from tests.unit.data.images import write_image
from tests.unit.tracking.tiny import CASCADE, CLASS_NAMES, MEAN, STD, Tiny, make_tiny, tiny_recipe

pytestmark = [pytest.mark.ray, pytest.mark.slow]

JOB = "serve.py"
MACS = macs_per_exit(CASCADE)
NUM_IMAGES = 12


@dataclass(frozen=True)
class Served:
    """A running job, the model behind it and images to ask about."""

    driver: Driver
    address: str
    tiny: Tiny
    images: tuple[bytes, ...]

    def wanted(self, thresholds: Thresholds) -> EarlyExitResult:
        """What the engine says of the images."""
        transform = inference_transform(16, 0.875, "bicubic", (MEAN,), (STD,))
        prepared = torch.stack([transform(read_image(io.BytesIO(image), 1)) for image in self.images])
        return EarlyExit(self.tiny.cascade, thresholds)(prepared)

    def post(self, body: Any, query: str = "") -> tuple[int, Any]:
        return asyncio.run(self._post(body, query))

    async def _post(self, body: Any, query: str) -> tuple[int, Any]:
        data, kind = io.BytesIO(json.dumps(body).encode()), {"Content-Type": "application/json"}
        async with (
            aiohttp.ClientSession() as session,
            session.post(self.address + query, data=data, headers=kind) as reply,
        ):
            return reply.status, await reply.json()


@pytest.fixture(scope="module")
def served(cluster: RayCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("serving")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    check_tracking(uri)
    tiny = make_tiny(folder)
    log_and_register_model(
        open_run(tiny_recipe(), tracking_uri=uri, run_name="tiny"), tiny.content, registered_name="dvt-tiny"
    )
    port = free_port()
    words = [
        "--cpus-per-replica",
        "0.5",
        "--model",
        "models:/dvt-tiny@candidate",
        "--tracking-uri",
        uri,
        "--port",
        str(port),
        "--route",
        "/dvt",
    ]
    images = tuple(write_image(folder / f"{index}.png", index).read_bytes() for index in range(NUM_IMAGES))
    with driving(words, cwd=folder, env=cluster.env, python=cluster.python, job=JOB) as driver:
        driver.wait_for("Serving; Ctrl-C ends it.")
        yield Served(driver, f"http://127.0.0.1:{port}/dvt", tiny, images)


def texts(images: tuple[bytes, ...]) -> list[str]:
    return [base64.b64encode(image).decode() for image in images]


def test_each_request_gets_what_its_budget_pays_for(served: Served) -> None:
    exits = set()
    for share in (0.0, 0.5, 1.0):
        budget = MACS[0] + share * (MACS[1] - MACS[0])
        thresholds = served.tiny.content.thresholds.at_budget(budget).thresholds
        status, told = served.post({"images": texts(served.images), "budget_macs": budget})
        assert status == 200, told
        wanted = served.wanted(thresholds)
        assert [each["label"] for each in told["predictions"]] == wanted.label.tolist()
        assert [each["class_name"] for each in told["predictions"]] == [CLASS_NAMES[each] for each in wanted.label]
        assert [each["exit_index"] - 1 for each in told["predictions"]] == wanted.exit_index.tolist()
        assert [each["macs"] for each in told["predictions"]] == [MACS[index] for index in wanted.exit_index]
        confidence = [each["confidence"] for each in told["predictions"]]
        assert confidence == pytest.approx(wanted.confidence.tolist(), rel=1e-3)
        exits |= set(wanted.exit_index.tolist())
    assert exits == {0, 1}, "images must leave at both exits for this to tell anything"


def test_bad_requests_get_one_sentence(served: Served) -> None:
    image = texts(served.images)[0]
    bad: list[tuple[Any, str, str]] = [
        ({"image": image, "budget_macs": 1}, "", "budget_macs must be at least"),
        ({"image": "AAAA"}, "", "images[0] must be an image file such as PNG or JPEG, got 3 bytes that cannot be read"),
        ({"image": image, "budget_ms": 1}, "", "budget_ms must come with a model whose latency was measured on this"),
        ({"image": image}, "?budget=1", "budget must be one of budget_macs, budget_ms, thresholds"),
        ([], "", "the body must be a JSON object with images, got list"),
    ]
    for body, query, sentence in bad:
        status, told = served.post(body, query)
        assert (status, told["error"].startswith(sentence)) == (400, True), told
    assert served.post({}, "/elsewhere")[0] == 404
    for path in ("/healthz", "/readyz"):
        with urllib.request.urlopen(served.address + path) as reply:
            assert json.load(reply) == {"status": "ok"}


async def ask_until(served: Served, end: asyncio.Event, wanted: EarlyExitResult) -> int:
    """Ask for one image after the other; every answer must come, and be right. Returns how many."""
    count, turn = 0, random.Random(0)
    async with aiohttp.ClientSession() as session:
        while not end.is_set():
            index = turn.randrange(NUM_IMAGES)
            body = {"image": texts(served.images)[index], "budget_macs": (MACS[0] + MACS[1]) / 2}
            async with session.post(served.address, json=body) as reply:
                told = await reply.json()
            assert reply.status == 200, told
            answer = told["predictions"][0]
            assert answer["label"] == int(wanted.label[index])
            assert answer["exit_index"] == int(wanted.exit_index[index]) + 1
            count += 1
    return count


def test_no_request_is_lost_while_replicas_are_killed(cluster: RayCluster, served: Served) -> None:
    wanted = served.wanted(served.tiny.content.thresholds.at_budget((MACS[0] + MACS[1]) / 2).thresholds)

    async def kill(title: str) -> None:
        processes = cluster.processes(title)
        assert processes, f"there must be a {title}"
        for process in processes:
            process.send_signal(signal.SIGKILL)
        end = time.monotonic() + 60
        while any(process.is_running() for process in processes) or not cluster.processes(title):
            assert time.monotonic() < end, f"{title} must come back"
            await asyncio.sleep(0.2)

    async def run() -> list[int]:
        end = asyncio.Event()
        clients = [asyncio.create_task(ask_until(served, end, wanted)) for _ in range(8)]
        try:
            await asyncio.sleep(1)
            for deployment in ("stage-2", "stage-1", "ingress"):
                await kill(f"ray::ServeReplica:dvt:{deployment}")
                await asyncio.sleep(1)
        finally:
            end.set()
        return list(await asyncio.gather(*clients))

    counts = asyncio.run(run())
    assert min(counts) > 0
    status, _ = served.post({"images": texts(served.images)})
    assert status == 200


def test_prometheus_is_told_of_exits(cluster: RayCluster, served: Served) -> None:
    """Ray exports metrics every few seconds, from each node's agent."""
    many = texts(served.images) * 60
    for _ in range(3):  # as many as exit shares are told of
        assert served.post({"images": many, "budget_macs": (MACS[0] + MACS[1]) / 2})[0] == 200
    wait_for_answers(cluster, "Serving")
    samples = read_samples(cluster.folder)
    names = ("dvt_images", "dvt_confidence_bucket", "dvt_latency_ms_bucket", "dvt_batch_size_bucket", "dvt_drift")
    assert {f"ray_{name}" for name in names} <= {sample.name.removesuffix("_total") for sample in samples}
    images = [sample for sample in samples if sample.name.removesuffix("_total") == "ray_dvt_images"]
    assert {sample.labels["exit"] for sample in images} == {"1", "2"}
    assert math.fsum(sample.value for sample in images) >= 3 * NUM_IMAGES


def test_the_job_takes_the_application_away(cluster: RayCluster, served: Served) -> None:
    served.driver.process.send_signal(signal.SIGTERM)
    assert served.driver.finish() == 0
    assert "Ending: requests that were taken are answered first." in served.driver.text
    assert not cluster.processes("ray::ServeReplica:dvt:")
