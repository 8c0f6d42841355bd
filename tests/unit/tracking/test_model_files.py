"""A registered model's files: found by address, read back as they were logged."""

import json
import re
import shutil
from pathlib import Path

import pytest

from dvt.tracking import ModelRecord, TrackingError, log_and_register_model, open_run
from dvt.tracking.lookup import ModelAddress, find_run, model_folder, run_folder_of
from dvt.tracking.model_files import read_model_files
from tests.unit.tracking.tiny import CASCADE, CLASS_NAMES, MEAN, STD, Tiny, make_tiny, tiny_recipe


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return make_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def registered(store: str, tiny: Tiny) -> ModelRecord:
    record = open_run(tiny_recipe(), tracking_uri=store, run_name="model")
    return log_and_register_model(record, tiny.content, registered_name="dvt-read")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("models:/a@b", ModelAddress("a", alias="b")),
        ("models:/a/12", ModelAddress("a", version="12")),
        ("models:/m-1f", ModelAddress("m-1f")),
    ],
)
def test_addresses(text: str, address: ModelAddress) -> None:
    assert ModelAddress.parse(text) == address
    assert str(address) == text


@pytest.mark.parametrize("text", ["a", "models:/", "models:/a/b", "models:/a@", "models:/a@b/1", "runs:/x"])
def test_what_is_no_address(text: str) -> None:
    message = f"a model's address must be models:/NAME@ALIAS or models:/NAME/VERSION, got {text!r}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ModelAddress.parse(text)


def test_a_models_files_read_back(store: str, tiny: Tiny, registered: ModelRecord) -> None:
    for text in ("models:/dvt-read@candidate", "models:/dvt-read/1", f"models:/{registered.model_id}"):
        with model_folder(store, ModelAddress.parse(text)) as folder:
            files = read_model_files(folder)
            assert files.weights.read_bytes() == tiny.content.weights.read_bytes()
        assert (files.cascade, files.thresholds) == (CASCADE, tiny.content.thresholds)
        assert (files.class_names, files.mean, files.std) == (CLASS_NAMES, (MEAN,), (STD,))
        assert (files.crop_pct, files.interpolation) == (0.875, "bicubic")
        assert files.default_budget_macs == tiny.content.default_budget_macs


def test_a_model_from_before_crops_were_kept(store: str, registered: ModelRecord, tmp_path: Path) -> None:
    with model_folder(store, ModelAddress.parse(registered.model_uri)) as folder:
        shutil.copytree(folder, tmp_path / "old")
    path = tmp_path / "old" / "artifacts" / "serving.json"
    serving = json.loads(path.read_text())
    path.write_text(json.dumps({name: serving[name] for name in serving if name not in ("crop_pct", "interpolation")}))
    (tmp_path / "old" / "artifacts" / "checksums.json").unlink()
    files = read_model_files(tmp_path / "old")
    assert (files.crop_pct, files.interpolation) == (0.875, "bicubic")


def test_a_file_that_fails_its_checksum_is_told(store: str, registered: ModelRecord, tmp_path: Path) -> None:
    with model_folder(store, ModelAddress.parse(registered.model_uri)) as folder:
        shutil.copytree(folder, tmp_path / "damaged")
    path = tmp_path / "damaged" / "artifacts" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # one bit of the last weight
    path.write_bytes(content)
    with pytest.raises(TrackingError) as caught:
        read_model_files(tmp_path / "damaged")
    assert str(caught.value) == (
        f"{path} must have the checksum in checksums.json, got another; copy the model's folder again, or register "
        "the model again"
    )


def test_another_kind_of_model_is_told(tmp_path: Path) -> None:
    message = f"{tmp_path} must hold a model that dvt registered, got another ("
    with pytest.raises(TrackingError, match=f"^{re.escape(message)}"):
        read_model_files(tmp_path)


def test_a_run_knows_its_folder(store: str) -> None:
    record = open_run(tiny_recipe(), tracking_uri=store, run_name="tiny-007")
    assert find_run(store, record.run_id) == record
    assert run_folder_of(record) == "runs/tiny-007"


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'none.db'}"
    message = f"--tracking-uri must name MLflow's SQLite file, got {uri}, where there is none"
    with pytest.raises(TrackingError, match=f"^{re.escape(message)}$"), model_folder(uri, ModelAddress("a")):
        pass
    assert not list(tmp_path.iterdir())
