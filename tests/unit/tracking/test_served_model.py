import base64
import dataclasses
import json
import math
import struct
import subprocess
import sys
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.pyfunc.model import PythonModelContext
from PIL import Image
from torch import Tensor

from dvt.exits import Confidence, ThresholdRow, ThresholdTable, exit_indices, max_probability, single_exit_thresholds
from dvt.inference import LatencyProfile, device_name
from dvt.inference.preparation import inference_transform, read_image
from dvt.models.checksums import ChecksumError
from dvt.tracking import ModelRecord, log_and_register_model, open_run
from dvt.tracking.served_model import RequestError, ServedCascade
from tests.unit.tracking.tiny import CLASS_NAMES, MEAN, STD, Tiny, make_tiny, tiny_recipe

# Runs where neither `dvt` nor this repository can be found, as on a machine that serves models.
READER = """
import importlib.util, json, sys

sys.path[:] = [path for path in sys.path if not path.rstrip("/").endswith("platform")]
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
assert importlib.util.find_spec("dvt") is None

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("ray", "optuna", "tyro"):
            raise ModuleNotFoundError(f"{name} is blocked here", name=name)

sys.meta_path.insert(0, Blocker())

import mlflow, numpy

uri, name, images, out = sys.argv[1:]
mlflow.set_tracking_uri(uri)
model = mlflow.pyfunc.load_model(f"models:/{name}@candidate")
told = {}
for request in json.loads(sys.stdin.read()):
    try:
        answer = model.predict(numpy.load(images), params=request).to_dict(orient="list")
    except ValueError as error:
        answer = str(error)
    told[json.dumps(request)] = answer
import dvt
told["rooms"] = sorted({name.split(".")[1] for name in sys.modules if name.startswith("dvt.")})
told["path"] = list(dvt.__path__)
open(out, "w").write(json.dumps(told))
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return make_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def made(store: str, tiny: Tiny) -> ModelRecord:
    record = open_run(tiny_recipe(), tracking_uri=store, run_name="served")
    return log_and_register_model(record, tiny.content, registered_name="dvt-served")


@pytest.fixture(scope="module")
def told(store: str, made: ModelRecord, tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("reader")
    np.save(folder / "images.npy", tiny.images.numpy())
    requests = [{}, {"budget_macs": -1}, *({"budget_macs": macs} for macs in budgets(tiny)), {"budget_macs": 10.0}]
    subprocess.run(
        [sys.executable, "-IB", "-c", READER, store, "dvt-served", folder / "images.npy", folder / "told.json"],
        input=json.dumps(requests),
        text=True,
        check=True,
        cwd=folder,
    )
    answers: dict[str, object] = json.loads((folder / "told.json").read_text())
    return answers


def budgets(tiny: Tiny) -> list[float]:
    return [point.budget_macs for point in tiny.content.report.budgets]


def expected(tiny: Tiny, thresholds: tuple[float, ...]) -> pd.DataFrame:
    """Leaving early simulated on `Cascade.forward`."""
    confidence = max_probability(tiny.logits).numpy()  # (E, B)
    exits = exit_indices(confidence, thresholds)
    rows = np.arange(len(exits))
    label = tiny.logits.argmax(-1).numpy()[exits, rows]
    return pd.DataFrame(
        {
            "label": label,
            "class_name": [CLASS_NAMES[index] for index in label],
            "prob": confidence[exits, rows],  # the paper's confidence
            "confidence": confidence[exits, rows],
            "exit_index": exits + 1,
            "macs": np.array([row.macs for row in tiny.content.report.exits])[exits],
        }
    )


def check(answer: object, wanted: pd.DataFrame) -> None:
    assert isinstance(answer, dict), answer
    pd.testing.assert_frame_equal(pd.DataFrame(answer), wanted, check_dtype=False, rtol=1e-5)


def test_every_budget_gives_what_the_cascade_gives(told: dict[str, object], tiny: Tiny) -> None:
    shares = set()
    for budget in budgets(tiny):
        wanted = expected(tiny, tiny.content.report.calibration_front.at_budget(budget).thresholds)
        check(told[json.dumps({"budget_macs": budget})], wanted)
        shares |= set(wanted["exit_index"])
    assert shares == {1, 2}  # both exits were taken, else this shows little


def test_the_default_is_the_largest_budget(told: dict[str, object], tiny: Tiny) -> None:
    assert told["{}"] == told[json.dumps({"budget_macs": max(budgets(tiny))})]


def test_minus_one_runs_all_stages(told: dict[str, object], tiny: Tiny) -> None:
    check(told[json.dumps({"budget_macs": -1})], expected(tiny, single_exit_thresholds(2, 1)))


def test_a_budget_that_cannot_be_kept_is_told(told: dict[str, object], tiny: Tiny) -> None:
    first = tiny.content.report.exits[0].macs
    assert told[json.dumps({"budget_macs": 10.0})] == (
        f"budget_macs must be at least {first:.0f}, the cost of leaving at the first exit, got 10"
    )


def test_only_the_core_that_ships_with_the_model_is_needed(told: dict[str, object], made: ModelRecord) -> None:
    assert told["rooms"] == ["config", "exits", "inference", "models"]
    [path] = told["path"]  # type: ignore[misc]
    assert f"/{made.model_id}/artifacts/code/dvt" in path


def test_nothing_in_the_model_is_pickled(store: str, made: ModelRecord, tmp_path: Path) -> None:
    location = MlflowClient(tracking_uri=store).get_logged_model(made.model_id).artifact_location
    local = Path(download_artifacts(artifact_uri=location, dst_path=str(tmp_path)))
    kinds = {path.suffix for path in local.rglob("*") if path.is_file()}
    assert kinds <= {".py", ".safetensors", ".json", ".yaml", ".txt", ".md", ""}
    bare = {path.name for path in local.rglob("*") if path.suffix == "" and path.is_file()}
    assert bare <= {"MLmodel", "registered_model_meta"}  # the second is YAML too, written by whoever loads the model
    requirements = (local / "requirements.txt").read_text()
    assert f"torch=={torch.__version__.partition('+')[0]}" in requirements
    assert "ray" not in requirements


@pytest.fixture(scope="module")
def served(store: str, made: ModelRecord) -> ServedCascade:
    """The model as the served file makes it, without MLflow's checks before it and changes of `sys.path`."""
    location = MlflowClient(tracking_uri=store).get_logged_model(made.model_id).artifact_location
    files = (Path(download_artifacts(artifact_uri=location)) / "artifacts").iterdir()
    names = {"model": "weights"}
    model = ServedCascade()
    model.load_context(PythonModelContext({names.get(file.stem, file.stem): str(file) for file in files}, None))
    return model


def refusal(served: ServedCascade, images: Any, params: dict[str, Any] | None = None) -> str:
    with pytest.raises(RequestError) as caught:
        served.predict(None, images, params)
    assert json.loads(caught.value.serialize_as_json())["message"] == str(caught.value)
    assert caught.value.get_http_status_code() == 400
    return str(caught.value)


ANY_KIND = "image files, their base64 text or an array of shape (batch, 1, height, width), at least one"


@pytest.mark.parametrize(
    ("images", "got"),
    [
        (np.zeros((0, 1, 16, 16), np.float32), "none"),
        ([], "none"),
        (np.zeros((1, 16, 16), np.float32), "shape (1, 16, 16)"),
    ],
)
def test_no_images_are_told(served: ServedCascade, images: Any, got: str) -> None:
    assert refusal(served, images) == f"images must be {ANY_KIND}, got {got}"


def test_a_table_without_images_is_told(served: ServedCascade) -> None:
    told = refusal(served, pd.DataFrame({"picture": ["x"], "name": ["y"]}))
    assert told == "images must be in a column named image, got picture, name"


def test_channels_that_the_model_does_not_take_are_told(served: ServedCascade) -> None:
    assert refusal(served, np.zeros((2, 3, 16, 16), np.float32)) == (
        "images[0] must be an array of shape (1, height, width), got (3, 16, 16); "
        "send the image file to have it converted"
    )


@pytest.mark.parametrize(("value", "got"), [(255.0, "0 to 255"), (-0.5, "-0.5 to 0"), (float("nan"), "nan to nan")])
def test_images_that_are_bytes_or_normalised_already_are_told(served: ServedCascade, value: float, got: str) -> None:
    images = np.zeros((2, 1, 16, 16), np.float32)
    images[1, 0, 3, 3] = value
    assert refusal(served, images) == f"images[1] must hold values from 0 to 1, got {got}; divide bytes by 255"


def test_it_leaves_by_the_confidence_that_its_thresholds_are_of(
    served: ServedCascade, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    by = Confidence("negative_entropy", (1.5, 0.5))
    sure = torch.stack([by(tiny.logits[index], index) for index in range(2)]).numpy()
    row = ThresholdRow(1.0, (float(np.sort(sure[0])[20:22].mean()), float("-inf")))  # between two images
    monkeypatch.setattr(served, "thresholds", ThresholdTable((row,), by))
    answer = served.predict(None, tiny.images.numpy(), {"budget_macs": served.macs[-1]})
    exits = exit_indices(sure, row.thresholds)
    assert list(answer["exit_index"]) == list(exits + 1)
    rows = np.arange(len(exits))
    np.testing.assert_allclose(answer["confidence"], sure[exits, rows], rtol=1e-4)
    probs = tiny.logits.softmax(-1).amax(-1).numpy()  # without the temperatures
    np.testing.assert_allclose(answer["prob"], probs[exits, rows], rtol=1e-4)


def test_more_images_than_run_together_keep_their_order(served: ServedCascade, tiny: Tiny) -> None:
    once = served.predict(None, tiny.images.numpy())
    often = served.predict(None, tiny.images.repeat(7, 1, 1, 1).numpy())
    assert list(often["label"]) == list(once["label"]) * 7
    assert list(often["exit_index"]) == list(once["exit_index"]) * 7


def png(image: Tensor, size: int = 16) -> bytes:
    """The file of a grey image (1, 16, 16) of values from 0 to 1, made larger."""
    buffer = BytesIO()
    picture = Image.fromarray((image[0] * 255).round().to(torch.uint8).numpy())
    picture.resize((size, size)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def files(tiny: Tiny) -> list[bytes]:
    return [png(image, 24 + row) for row, image in enumerate(tiny.images[:6])]


def test_files_are_prepared_as_the_model_was_evaluated(served: ServedCascade, files: list[bytes]) -> None:
    transform = inference_transform(16, 0.875, "bicubic", (MEAN,), (STD,))
    images = torch.stack([transform(read_image(BytesIO(file), 1)) for file in files])
    wanted = images * STD + MEAN  # as an array, which is normalised by the model
    answer = served.predict(None, files)
    pd.testing.assert_frame_equal(answer, served.predict(None, wanted.clamp(0, 1).numpy()), rtol=1e-4)


def test_every_way_to_send_files_gives_the_same(served: ServedCascade, files: list[bytes]) -> None:
    wanted = served.predict(None, files)
    texts = [base64.encodebytes(file).decode() for file in files]  # with line breaks
    for images in (texts, np.array(texts), {"image": texts}, pd.DataFrame({"image": files}), np.array(files, object)):
        pd.testing.assert_frame_equal(served.predict(None, images), wanted)
    pd.testing.assert_frame_equal(served.predict(None, files[0]), wanted[:1], rtol=1e-4)


def test_an_array_of_another_size_is_resized_as_a_file_is(served: ServedCascade, files: list[bytes]) -> None:
    pixels = np.asarray(Image.open(BytesIO(files[0])), np.float32)[None] / 255
    assert pixels.shape == (1, 24, 24)
    of_file, of_array = (served.predict(None, [image], {"budget_macs": -1}) for image in (files[0], pixels))
    assert of_file["label"][0] == of_array["label"][0]
    assert of_file["prob"][0] == pytest.approx(of_array["prob"][0], abs=0.05)  # a file's pixels are rounded


def bomb() -> bytes:
    """The head of a PNG file of 400 million pixels."""
    data = struct.pack(">I", 0) + b"IDAT"
    head = b"IHDR" + struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head)) + data


def thin() -> bytes:
    buffer = BytesIO()
    Image.new("L", (1, 500_000)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("image", "rule"),
    [
        (
            b"no image",
            "must be an image file such as PNG or JPEG, got 8 bytes that cannot be read (it is not an image)",
        ),
        (
            bomb(),
            "must be an image file such as PNG or JPEG, got 41 bytes that cannot be read (it has too many pixels)",
        ),
        ("%%%", "must be base64 text of an image file, got text that is none; encode it again"),
        (thin(), "must not be so long and thin, got 1x500000 pixels; crop it first"),
        (
            [[0.0], [0.5, 1.0]],
            "must be an image file, its base64 text or an array of shape (1, height, width), got list",
        ),
        (None, "must be an array of shape (1, height, width), got (); send the image file to have it converted"),
    ],
)
def test_an_image_that_cannot_be_used_is_told_by_its_row(
    served: ServedCascade, files: list[bytes], image: Any, rule: str
) -> None:
    advice = "; send another or leave it out" if rule.endswith(")") and "read" in rule else ""
    assert refusal(served, [files[0], image, files[1]]) == f"images[1] {rule}{advice}"


def test_a_truncated_file_is_told(served: ServedCascade, files: list[bytes]) -> None:
    assert refusal(served, [files[0][:60]]) == (
        "images[0] must be an image file such as PNG or JPEG, got 60 bytes that cannot be read (it is damaged); "
        "send another or leave it out"
    )


def test_the_signature_names_the_parameters(store: str, made: ModelRecord) -> None:
    location = MlflowClient(tracking_uri=store).get_logged_model(made.model_id).artifact_location
    signature = mlflow.models.Model.load(download_artifacts(artifact_uri=location)).signature
    params = [(param.name, param.dtype.name, param.default, param.shape) for param in signature.params]
    assert params == [
        ("budget_macs", "double", None, None),
        ("budget_ms", "double", None, None),
        ("thresholds", "double", [], (-1,)),
    ]
    columns = ["label", "class_name", "prob", "confidence", "exit_index", "macs"]
    assert signature.outputs.input_names() == columns


def test_thresholds_are_taken_as_they_are(served: ServedCascade, tiny: Tiny) -> None:
    for bound in (0.6, math.inf, -math.inf):
        check(
            served.predict(None, tiny.images.numpy(), {"thresholds": [bound]}).to_dict(orient="list"),
            expected(tiny, (bound, -math.inf)),
        )


def test_a_budget_in_milliseconds_goes_by_what_stages_take_here(
    served: ServedCascade, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = LatencyProfile(
        device=device_name(served.device), torch_version="2", batch_sizes=(1,), stage_seconds=((1e-3, 3e-3),)
    )
    monkeypatch.setattr(served, "profiles", (profile,))
    row = tiny.content.thresholds.within_seconds(2e-3, (1e-3, 4e-3))
    assert row is not None
    answer = served.predict(None, tiny.images.numpy(), {"budget_ms": 2.0})
    check(answer.to_dict(orient="list"), expected(tiny, row.thresholds))
    assert 1 < answer["exit_index"].mean() < 2
    assert refusal(served, tiny.images.numpy(), {"budget_ms": 0.5}) == (
        "budget_ms must be at least 1, the time of leaving at the first exit on this device, got 0.5"
    )


def test_the_model_brings_a_profile_and_measures_another_device_once(
    served: ServedCascade, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [profile.device for profile in served.profiles] == [device_name(served.device)]
    other = dataclasses.replace(served.profiles[0], device="another machine")
    monkeypatch.setattr(served, "profiles", (other,))
    for _ in range(2):
        refusal(served, tiny.images.numpy(), {"budget_ms": 1e-6})
    assert [profile.device for profile in served.profiles] == ["another machine", device_name(served.device)]


@pytest.mark.parametrize(
    ("params", "told"),
    [
        (
            {"budget_macs": 1e6, "thresholds": [0.5]},
            "thresholds must come without budget_macs, got both; leave one out",
        ),
        ({"budget_ms": 3.0, "budget_macs": -1}, "budget_ms must come without budget_macs, got both; leave one out"),
        ({"thresholds": [0.5, 0.5]}, "thresholds must be 1 numbers, one for each exit but the last, got [0.5, 0.5]"),
        ({"thresholds": [None]}, "thresholds must be 1 numbers, one for each exit but the last, got [nan]"),
    ],
)
def test_parameters_that_cannot_be_kept_are_told(
    served: ServedCascade, tiny: Tiny, params: dict[str, Any], told: str
) -> None:
    assert refusal(served, tiny.images.numpy(), params) == told


def test_a_file_that_was_changed_is_told_when_the_model_is_loaded(
    store: str, made: ModelRecord, tmp_path: Path
) -> None:
    location = MlflowClient(tracking_uri=store).get_logged_model(made.model_id).artifact_location
    local = Path(download_artifacts(artifact_uri=location, dst_path=str(tmp_path)))
    path = local / "artifacts" / "thresholds.json"
    path.write_text(path.read_text().replace("1", "2"))
    with pytest.raises(ChecksumError) as caught:
        mlflow.pyfunc.load_model(str(local))
    assert str(caught.value).endswith(
        "artifacts/thresholds.json must have the checksum in checksums.json, got another; copy the model's folder "
        "again, or register the model again"
    )
