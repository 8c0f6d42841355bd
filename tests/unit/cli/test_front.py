"""`dvt front`: from a run or a checkpoint to pictures, page and data, kept where they belong."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from dvt.cli.failure import FAILED, TYPED_WRONG
from dvt.cli.main import main
from dvt.config import DataConfig, Recipe, RunConfig
from dvt.exits import StaticReference
from dvt.inference import LatencyProfile, device_name, keep_profile
from dvt.models import macs_per_exit
from dvt.tracking import open_run
from dvt.tracking.front_files import read_front_report, write_front_files
from tests.unit.cli.trained_run import CASCADE, Trained, make_trained

MACS = macs_per_exit(CASCADE)
FILES = {"front.json", "front.csv", "front.png", "shares.png", "front.html", "contact_sheet.png", "front_time.png"} | {
    "examples.json"
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return make_trained(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def recorded(trained: Trained) -> set[str]:
    client = MlflowClient(tracking_uri=trained.uri)
    return {Path(file.path).name for file in client.list_artifacts(trained.record.run_id, "front")}


def test_a_checkpoint_on_its_own(trained: Trained, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["front", str(trained.checkpoint)]) == 0
    folder = here / "fronts" / "tiny"
    assert {path.name for path in folder.iterdir()} == FILES
    assert all((folder / name).read_bytes()[:4] == b"\x89PNG" for name in FILES if name.endswith("png"))
    report = read_front_report(folder / "front.json")
    assert [row.macs for row in report.exits] == list(map(float, MACS))
    data = json.loads((folder / "front.json").read_text())
    assert (data["bands"]["level"], len(data["bands"]["exits"])) == (0.95, 2)
    first, second = data["seconds_per_exit"]  # nobody had measured them, so the command took a quick look
    assert 0 < first < second
    out = capsys.readouterr().out.splitlines()
    assert out[:2] == ["scoring 60 calibration images", "scoring 80 test images"]
    assert out[-7:] == [
        "front               fronts/tiny/front.png",
        "front over time     fronts/tiny/front_time.png",
        "where images leave  fronts/tiny/shares.png",
        "images by exit      fronts/tiny/contact_sheet.png",
        "interactive page    fronts/tiny/front.html",
        "front's data        fronts/tiny/front.json and front.csv",
        "MLflow run          not recorded",
    ]
    assert recorded(trained) == set()


def test_a_run_by_its_folder_without_a_record(trained: Trained, here: Path) -> None:
    assert main(["front", str(trained.root), "--no-record", "--output", "mine"]) == 0
    assert {path.name for path in (here / "mine").iterdir()} == FILES
    assert recorded(trained) == set()
    assert not (trained.root / "front").exists()


def test_a_run_by_its_id_keeps_its_static_reference(
    trained: Trained, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["front", str(trained.checkpoint), "--output", "first"]) == 0
    static = StaticReference(token_grid=4, macs=1e6, test_top1=0.5)
    first = read_front_report(here / "first" / "front.json")
    write_front_files(trained.root / "front", type(first)(**(vars(first) | {"static_reference": static})))
    assert main(["front", trained.record.run_id, "--tracking-uri", trained.uri]) == 0
    assert recorded(trained) == FILES
    assert {path.name for path in (trained.root / "front").iterdir()} == FILES
    report = read_front_report(trained.root / "front" / "front.json")
    assert report.static_reference == static
    assert report.test_points == first.test_points
    out = capsys.readouterr().out
    assert f"MLflow run          {trained.record.run_id} at {trained.uri}, artifact folder front\n" in out
    assert MlflowClient(tracking_uri=trained.uri).get_run(trained.record.run_id).info.status == "RUNNING"  # as it was


def test_a_measured_time_is_drawn_too(trained: Trained, here: Path) -> None:
    device = device_name(torch.device("cpu"))
    profile = LatencyProfile(device=device, torch_version="2.15", batch_sizes=(8,), stage_seconds=((0.001, 0.003),))
    copy = shutil.copytree(trained.checkpoint, here / "checkpoint")
    keep_profile(copy, replace(profile, device="another", stage_seconds=((0.1, 0.1),)))
    keep_profile(copy, profile)
    assert main(["front", str(copy), "--budget-macs", f"{MACS[1]}"]) == 0
    assert {path.name for path in (here / "fronts" / "tiny").iterdir()} == FILES
    assert json.loads((here / "fronts" / "tiny" / "front.json").read_text())["seconds_per_exit"] == [0.001, 0.004]


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (
            ["none"],
            TYPED_WRONG,
            "RUN_OR_CHECKPOINT must be a run's id or folder, or a checkpoint folder, got 'none', which is none of them",
        ),
        (
            ["CHECKPOINT", "--budget-macs", "much"],
            TYPED_WRONG,
            "--budget-macs must be multiply-adds above 0 such as 1.2G, 300M or 12e6, got 'much'",
        ),
        (
            ["CHECKPOINT", "--budget-macs", "1"],
            TYPED_WRONG,
            f"--budget-macs must be at least {MACS[0]}, the cost of leaving at the first exit, got 1",
        ),
        (["f" * 32, "--tracking-uri", "URI"], FAILED, f"the run must be known to MLflow at URI, got '{'f' * 32}'"),
    ],
)
def test_what_was_asked_wrong(
    trained: Trained,
    here: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    sentence: str,
) -> None:
    known = {"CHECKPOINT": str(trained.checkpoint), "URI": trained.uri}
    assert main(["front", *(known.get(word, word) for word in words)]) == code
    assert capsys.readouterr().err == f"dvt: {sentence.replace('URI', trained.uri)}\n"
    assert not list(here.iterdir())


def test_a_run_whose_folder_is_gone(trained: Trained, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = Recipe(name="tiny", cascade=CASCADE, data=DataConfig(source="embedded"), run=RunConfig(storage_path="/no"))
    lost = open_run(recipe, tracking_uri=trained.uri, run_name="tiny-002")
    assert main(["front", lost.run_id, "--tracking-uri", trained.uri]) == FAILED
    assert capsys.readouterr().err == (
        f"dvt: run {lost.run_id} must have its folder at /no/tiny-002, got none there; "
        "give the folder or a checkpoint\n"
    )
