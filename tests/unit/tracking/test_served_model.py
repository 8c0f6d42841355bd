import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.pyfunc.model import PythonModelContext

from dvt.exits import Confidence, ThresholdRow, ThresholdTable, exit_indices, max_probability, single_exit_thresholds
from dvt.tracking import ModelRecord, log_and_register_model, open_run
from dvt.tracking.served_model import ServedCascade
from tests.unit.tracking.tiny import CLASS_NAMES, Tiny, make_tiny, tiny_recipe

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
    assert kinds <= {".py", ".safetensors", ".json", ".yaml", ".txt", ""}
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


@pytest.mark.parametrize("shape", [(0, 1, 16, 16), (1, 16, 16), (2, 3, 16, 16), (2, 1, 8, 16)])
def test_images_of_another_shape_are_told(served: ServedCascade, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the text is checked below
        served.predict(None, np.zeros(shape, np.float32))
    assert str(caught.value) == f"images must have shape (batch, 1, 16, 16) with at least one image, got {shape}"


@pytest.mark.parametrize(("value", "got"), [(255.0, "0 to 255"), (-0.5, "-0.5 to 0"), (float("nan"), "nan to nan")])
def test_images_that_are_bytes_or_normalised_already_are_told(served: ServedCascade, value: float, got: str) -> None:
    images = np.zeros((2, 1, 16, 16), np.float32)
    images[1, 0, 3, 3] = value
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the text is checked below
        served.predict(None, images)
    assert str(caught.value) == f"images must hold values from 0 to 1, got {got}; divide bytes by 255"


def test_it_leaves_by_the_confidence_that_its_thresholds_are_of(
    served: ServedCascade, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    by = Confidence("negative_entropy", (1.5, 0.5))
    sure = torch.stack([by(tiny.logits[index], index) for index in range(2)]).numpy()
    row = ThresholdRow(1.0, (float(np.sort(sure[0])[20:22].mean()), float("-inf")))  # between two images
    monkeypatch.setattr(served, "thresholds", ThresholdTable((row,), by))
    answer = served.predict(None, tiny.images.numpy(), {"budget_macs": 1e12})
    exits = exit_indices(sure, row.thresholds)
    assert list(answer["exit_index"]) == list(exits + 1)
    np.testing.assert_allclose(answer["confidence"], sure[exits, np.arange(len(exits))], rtol=1e-4)


def test_more_images_than_run_together_keep_their_order(served: ServedCascade, tiny: Tiny) -> None:
    once = served.predict(None, tiny.images.numpy())
    often = served.predict(None, tiny.images.repeat(7, 1, 1, 1).numpy())
    assert list(often["label"]) == list(once["label"]) * 7
    assert list(often["exit_index"]) == list(once["exit_index"]) * 7
