"""`mlflow models serve` of a registered model, on loopback: images as JSON, fewer multiply-adds at a smaller budget."""

import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from dvt.models import macs_per_exit
from dvt.tracking import check_tracking, log_and_register_model, open_run
from tests.integration.cluster import free_port
from tests.unit.tracking.tiny import CASCADE, CLASS_NAMES, Tiny, make_tiny, tiny_recipe

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Server:
    """A served model that answers."""

    url: str
    log: Path

    def post(self, **body: Any) -> tuple[int, Any]:
        """Status and answer; the rows of predictions as a table."""
        data = json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/invocations", data=data, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, pd.DataFrame(json.load(answer)["predictions"])
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return make_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def server(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("model_server")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    check_tracking(uri)
    record = open_run(tiny_recipe(), tracking_uri=uri, run_name="tiny")
    log_and_register_model(record, tiny.content, registered_name="dvt-tiny", alias="champion")
    port = free_port()
    # MLflow 3.17 looks for uvicorn there, as in an environment that was activated.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/dvt-tiny@champion"]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=os.environ | {"MLFLOW_TRACKING_URI": uri, "PATH": path},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    server = Server(f"http://127.0.0.1:{port}", folder / "log")
    try:
        wait_for(server, process)
        yield server
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(server: Server, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        assert process.poll() is None, server.log.read_text()
        try:
            with urllib.request.urlopen(f"{server.url}/ping", timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(server.log.read_text())


@pytest.fixture(scope="module")
def texts(tiny: Tiny) -> list[str]:
    """Base64 text of a PNG file of each image."""
    return [base64.b64encode(png(image)).decode() for image in tiny.images]


def png(image: torch.Tensor) -> bytes:
    buffer = BytesIO()
    Image.fromarray((image[0] * 255).round().to(torch.uint8).numpy()).resize((20, 20)).save(buffer, "PNG")
    return buffer.getvalue()


def test_arrays_cost_less_at_a_smaller_budget(server: Server, tiny: Tiny) -> None:
    first, last = macs_per_exit(CASCADE)
    middle = (first + last) / 2
    images = tiny.images.tolist()
    spent = {}
    for budget in (middle, -1):
        status, rows = server.post(inputs=images, params={"budget_macs": budget})
        assert status == 200, rows
        assert list(rows.columns) == ["label", "class_name", "prob", "confidence", "exit_index", "macs"]
        assert list(rows["class_name"]) == [CLASS_NAMES[label] for label in rows["label"]]
        spent[budget] = rows["macs"].mean()
    assert spent[-1] == last
    assert first <= spent[middle] < spent[-1]
    status, rows = server.post(instances=images, params={"budget_macs": -1})
    assert status == 200
    np.testing.assert_array_equal(rows["label"], tiny.logits[1].argmax(-1).numpy())


def test_files_as_text_are_taken_in_every_form_of_the_protocol(server: Server, texts: list[str]) -> None:
    first, last = macs_per_exit(CASCADE)
    spent = []
    for budget in (first, last):
        params = {"budget_macs": budget}
        forms: list[dict[str, Any]] = [
            {"inputs": texts},
            {"inputs": {"image": texts}},
            {"instances": texts},
            {"instances": [{"image": text} for text in texts]},
            {"dataframe_split": {"columns": ["image"], "data": [[text] for text in texts]}},
            {"dataframe_records": [{"image": text} for text in texts]},
        ]
        answers = [server.post(**form, params=params) for form in forms]
        assert [status for status, _ in answers] == [200] * len(forms), answers
        for _, rows in answers[1:]:
            pd.testing.assert_frame_equal(rows, answers[0][1])
        assert len(answers[0][1]) == len(texts)
        spent.append(answers[0][1]["macs"].mean())
    assert spent[0] == first
    assert spent[0] < spent[1] <= last


def test_milliseconds_and_thresholds_are_taken(server: Server, texts: list[str]) -> None:
    status, rows = server.post(inputs=texts, params={"thresholds": [0.5]})
    assert status == 200
    left_early = rows["exit_index"] == 1
    assert (rows["confidence"][left_early] >= 0.5).all()
    status, answer = server.post(inputs=texts, params={"budget_ms": 1e-6})
    assert status == 400
    assert answer["message"].startswith("budget_ms must be at least ")


def test_what_cannot_be_answered_is_one_sentence(server: Server, texts: list[str]) -> None:
    first = macs_per_exit(CASCADE)[0]
    status, answer = server.post(inputs=texts, params={"budget_macs": 10})
    assert status == 400
    assert answer == {
        "error_code": "INVALID_PARAMETER_VALUE",
        "message": f"budget_macs must be at least {first}, the cost of leaving at the first exit, got 10",
    }
    status, answer = server.post(inputs=[texts[0], "AAAA"])
    assert status == 400
    assert answer["message"] == (
        "images[1] must be an image file such as PNG or JPEG, got 3 bytes that cannot be read (it is not an image); "
        "send another or leave it out"
    )
    status, answer = server.post(inputs=texts, params={"budget_macs": -1, "budget_ms": 5})
    assert status == 400
    assert answer["message"] == "budget_ms must come without budget_macs, got both; leave one out"
