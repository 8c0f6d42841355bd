"""Requests per second of a deployment for each stage beside one of the whole cascade, taking turns in one run.

By hand: PYTHONPATH=platform python -m tests.benchmarks.serving_speed [--clients 64] [--images 1] [--rounds 3].

Thresholds let 60, 25 and 15 % of the images leave at the three exits of T2T-ViT-12 at 224 pixels. Clients send JPEGs
over HTTP to the application of `jobs/serve.py`, each the next request as soon as the last is answered. Rivals on the
same cores are one deployment that runs the cascade on the batch of each request, and one that first gathers requests
into batches as large as ours; each with a process a core, and the latter also with one process of all cores. Label and
exit of every image must be the same everywhere, so accuracy is equal.
"""

import argparse
import asyncio
import base64
import io
import json
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import aiohttp
import numpy as np
import torch
from PIL import Image
from ray import serve

from dvt.cli.cluster import connected
from dvt.config import ClusterConfig, DataConfig, Recipe, TrainConfig
from dvt.exits import Thresholds, ThresholdTable, exit_indices, max_probability, thresholds_for_shares
from dvt.exits.threshold_table import ThresholdRow
from dvt.models import VARIANTS, macs_per_exit
from dvt.serving.ask_again import CONTROLLER_OPTIONS
from dvt.serving.model import open_model
from dvt.serving.plan import Replicas, ServingPlan, plan_parts
from dvt.serving.ray_serve import build_application
from dvt.train.checkpoint import save_checkpoint
from dvt.train.state import TrainingState
from tests.integration.cluster import free_port

VARIANT = "dvt_t2t_vit_12"
SHARES = (0.60, 0.25, 0.15)
MACS = sum(share * macs for share, macs in zip(SHARES, macs_per_exit(VARIANTS[VARIANT]), strict=True))
NUM_IMAGES = 240
BATCH_SIZE = 32
BAR = 1.3
WARM_UP_S = 8


@dataclass(frozen=True)
class Layout:
    """How the cascade is laid out over processes."""

    name: str
    is_split: bool
    replicas: str
    cpus: float  # of a process
    max_batch_size: int


@dataclass(frozen=True)
class Seen:
    """What the clients saw."""

    images_per_s: float
    p50_s: float
    p99_s: float


def layouts(cores: int, images: int) -> list[Layout]:
    """Ours, and what it is measured against."""
    return [
        Layout("a deployment a stage", True, "1", cores / 3, BATCH_SIZE),
        Layout(f"one deployment, each request's batch, {cores} processes", False, str(cores), 1, images),
        Layout(f"one deployment, gathered batches, {cores} processes", False, str(cores), 1, BATCH_SIZE),
        Layout("one deployment, gathered batches, 1 process", False, "1", cores, BATCH_SIZE),
    ]


def make_images() -> list[bytes]:
    """JPEGs of smooth random colours with some grain."""
    random = np.random.Generator(np.random.Philox(1))
    encoded = []
    for _ in range(NUM_IMAGES):
        smooth = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((256, 256))
        pixels = np.asarray(smooth, dtype=np.int16) + random.integers(-12, 13, (256, 256, 3))
        file = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
        encoded.append(file.getvalue())
    return encoded


@torch.inference_mode()
def make_checkpoint(folder: Path, images: list[bytes]) -> None:
    """A cascade of random weights, with thresholds that give these images the shares."""
    torch.manual_seed(0)
    recipe = Recipe(
        name="speed",
        cascade=VARIANTS[VARIANT],
        data=DataConfig(root=str(folder / "none")),
        train=TrainConfig(ema_decay=None),
    )
    save_checkpoint(folder, TrainingState.create(recipe, 1, torch.device("cpu")), recipe)
    model = open_model(str(folder), None)
    logits = torch.cat([model.cascade(part) for part in model.preparation(images).split(BATCH_SIZE)], dim=1)
    table = ThresholdTable((ThresholdRow(MACS, _thresholds(max_probability(logits).numpy()), SHARES),))
    (folder / "thresholds.json").write_text(json.dumps(table.to_dict()))


def _thresholds(confidence: np.ndarray) -> Thresholds:
    """Thresholds of the shares; between two images' confidences, where rounding cannot decide."""
    wanted = thresholds_for_shares(confidence, SHARES)
    undecided = exit_indices(confidence, wanted)
    below = (confidence[index][(undecided > index)].max() for index in range(len(SHARES) - 1))
    return (*((threshold + float(most)) / 2 for threshold, most in zip(wanted, below, strict=False)), wanted[-1])


@contextmanager
def served(layout: Layout, folder: Path) -> Iterator[None]:
    """The application while the context lasts."""
    plan = ServingPlan(
        model=str(folder),
        tracking_uri=None,
        parts=plan_parts(len(SHARES), layout.is_split, (layout.max_batch_size,), (layout.replicas,)),
        ingress_replicas=Replicas(1, 1),
        batch_wait_s=0.005,
        cpus_per_replica=layout.cpus,
        use_gpu=False,
        num_calibration=None,
    )
    serve.run(build_application(plan), name="speed", route_prefix="/")
    try:
        yield
    finally:
        serve.delete("speed")


class Clients:
    """Ask for images, and keep what was answered of each."""

    def __init__(self, port: int, images: list[bytes], number: int, images_a_request: int) -> None:
        self.address = f"http://127.0.0.1:{port}/?budget_macs={MACS}"
        self.texts = [base64.b64encode(image).decode() for image in images]
        self.number = number
        self.images_a_request = images_a_request
        self.answers: dict[int, set[tuple[int, int]]] = {}

    def ask(self, seconds: float) -> Seen:
        """Ask for so long."""
        return asyncio.run(self._ask(seconds))

    async def _ask(self, seconds: float) -> Seen:
        latencies: list[float] = []
        turn = count()
        began = time.perf_counter()

        async def client(session: aiohttp.ClientSession) -> None:
            while time.perf_counter() < began + seconds:
                first = next(turn) * self.images_a_request
                chosen = [index % len(self.texts) for index in range(first, first + self.images_a_request)]
                sent = time.perf_counter()
                async with session.post(self.address, json={"images": [self.texts[row] for row in chosen]}) as reply:
                    told = await reply.json()
                    assert reply.status == 200, told
                latencies.append(time.perf_counter() - sent)
                for row, answer in zip(chosen, told["predictions"], strict=True):
                    self.answers.setdefault(row, set()).add((answer["label"], answer["exit_index"]))

        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            await asyncio.gather(*(client(session) for _ in range(self.number)))
        took = time.perf_counter() - began
        p50, p99 = np.quantile(latencies, (0.5, 0.99)).tolist()
        return Seen(len(latencies) * self.images_a_request / took, p50, p99)


def tell(seen: dict[str, list[Seen]], clients: Clients) -> None:
    """Print what came of it."""
    ours, *rivals = seen
    different = sum(len(answers) > 1 for answers in clients.answers.values())
    exits = np.bincount([index for answers in clients.answers.values() for _, index in answers], minlength=4)[1:]
    print(f"{different} of {len(clients.answers)} images were answered differently; by exit: {exits.tolist()}")
    for name, runs in seen.items():
        told = (statistics.median(getattr(run, field) for run in runs) for field in ("images_per_s", "p50_s", "p99_s"))
        print("  {}: {:.1f} images/s, p50 {:.2f} s, p99 {:.2f} s".format(name, *told))
    for name in rivals:
        faster = [our.images_per_s / run.images_per_s for our, run in zip(seen[ours], seen[name], strict=True)]
        slower = [our.p99_s / run.p99_s for our, run in zip(seen[ours], seen[name], strict=True)]
        spread = f"{min(faster):.2f} to {max(faster):.2f}"
        bar = f" (bar {BAR})" if name == rivals[0] else ""
        told = f"{statistics.median(faster):.2f} times the rate, {spread}{bar}; p99 {statistics.median(slower):.2f} of"
        print(f"  than {name}: {told} its")


def main() -> None:
    """Measure on the CPU."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--images", type=int, default=1, help="of a request")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=30)
    asked = parser.parse_args()
    cores, port, images = os.cpu_count() or 1, free_port(), make_images()
    clients = Clients(port, images, asked.clients, asked.images)
    seen: dict[str, list[Seen]] = {}
    with tempfile.TemporaryDirectory() as scratch, connected(ClusterConfig()):
        folder = Path(scratch) / "model"
        make_checkpoint(folder, images)
        serve.start(http_options={"host": "127.0.0.1", "port": port}, controller_options=CONTROLLER_OPTIONS)
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        for _ in range(asked.rounds):
            for layout in layouts(cores, asked.images):
                with served(layout, folder):
                    clients.ask(WARM_UP_S)
                    seen.setdefault(layout.name, []).append(clients.ask(asked.seconds))
        serve.shutdown()
    print(f"torch {torch.__version__}, {cores} cores, {asked.clients} clients, {asked.images} images a request")
    tell(seen, clients)


if __name__ == "__main__":
    main()
