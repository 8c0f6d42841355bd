"""`dvt predict`: a line and a row an image, whatever is wrong with some of them."""

import io
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from dvt.cli.failure import FAILED, TYPED_WRONG
from dvt.cli.main import main
from dvt.config import DataConfig, Recipe
from dvt.data import open_data
from dvt.data.digits import DigitScenes
from dvt.data.transforms import inference_transform, read_image
from dvt.exits import ThresholdTable
from dvt.inference import EarlyExit, device_name
from dvt.models import macs_per_exit
from dvt.tracking import check_tracking, log_and_register_model, open_run
from dvt.tracking.front_files import write_front_files
from dvt.tracking.lookup import ModelAddress
from dvt.tracking.version_latency import keep_version_profile, read_version_profiles
from dvt.train.checkpoint import load_model, save_checkpoint
from dvt.train.state import TrainingState
from tests.unit.data.images import write_image
from tests.unit.tracking.tiny import CASCADE, CLASS_NAMES, MEAN, STD, Tiny, make_tiny, tiny_recipe

MACS = macs_per_exit(CASCADE)
BUDGET = (MACS[0] + MACS[1]) / 2
HEADER = "label  class  confidence  exit     MACs  image"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return make_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def uri(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store with the tiny model in it, as dvt-tiny with alias candidate."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"
    check_tracking(uri)
    record = open_run(tiny_recipe(), tracking_uri=uri, run_name="tiny")
    log_and_register_model(record, tiny.content, registered_name="dvt-tiny")
    return uri


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of six images, in two folders and two formats, grey and in colour."""
    monkeypatch.chdir(tmp_path)
    for index in range(6):
        suffix, mode = ("png", "L") if index % 2 else ("jpg", "RGB")
        write_image(tmp_path / "images" / ("a" if index < 4 else "b") / f"{index}.{suffix}", index, mode=mode)
    return tmp_path


def registered(uri: str) -> list[str]:
    return ["--model", "models:/dvt-tiny@candidate", "--tracking-uri", uri]


def expected(tiny: Tiny, files: list[str], thresholds: tuple[float, ...]) -> pd.DataFrame:
    transform = inference_transform(16, 0.875, "bicubic", (MEAN,), (STD,))
    images = torch.stack([transform(read_image(file, 1)) for file in files])
    result = EarlyExit(tiny.cascade, thresholds)(images)
    exits = result.exit_index.tolist()
    return pd.DataFrame(
        {
            "image": files,
            "label": result.label.tolist(),
            "class_name": [CLASS_NAMES[label] for label in result.label.tolist()],
            "confidence": result.confidence.tolist(),
            "prob": [float(row[label]) for row, label in zip(result.probs, result.label.tolist(), strict=True)],
            "exit_index": [index + 1 for index in exits],
            "macs": [float(MACS[index]) for index in exits],
        }
    )


def sorted_files(folder: str) -> list[str]:
    return sorted(str(path) for path in Path(folder).rglob("*.*"))


@pytest.mark.parametrize("model", ["models:/dvt-tiny@candidate", "models:/dvt-tiny/1"])
def test_rows_are_what_the_engine_says_of_the_evaluated_images(
    tiny: Tiny, uri: str, here: Path, capsys: pytest.CaptureFixture[str], model: str
) -> None:
    words = ["predict", "images", "--model", model, "--tracking-uri", uri, "--budget-macs", f"{BUDGET:g}"]
    assert main([*words, "--output", "out/rows.csv", "--batch-size", "4"]) == 0
    rows = pd.read_csv("out/rows.csv")
    wanted = expected(tiny, sorted_files("images"), tiny.content.thresholds.at_budget(BUDGET).thresholds)
    pd.testing.assert_frame_equal(rows.drop(columns="error"), wanted, rtol=1e-4, check_dtype=False)
    assert rows.error.isna().all()

    out = capsys.readouterr().out.splitlines()
    first = wanted.iloc[0]
    cost = {1: f"{MACS[0] / 1e3:.3g} k", 2: f"{MACS[1] / 1e3:.3g} k"}[first.exit_index]
    assert out[0] == HEADER
    assert out[1] == (
        f"{first.label:>5}  {first.class_name:5}  {first.confidence:>10.4f}  {first.exit_index:>4}  {cost:>7}  "
        "images/a/0.jpg"
    )
    assert len(out) == 1 + 6 + 2
    share = 100 * (wanted.exit_index == 1).mean()
    mean = f"{wanted.macs.mean() / 1e3:.3g} k"
    assert out[-2].startswith(f"6 images · mean {mean} MACs · {share:.1f} / {100 - share:.1f} % left at exit 1 / 2 · ")
    assert out[-2].endswith(" images/s")
    assert out[-1] == "written to out/rows.csv"
    assert [path.name for path in Path("out").iterdir()] == ["rows.csv"]


def test_a_budget_in_milliseconds_counts_by_what_was_measured(
    tiny: Tiny, here: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"
    check_tracking(uri)
    record = open_run(tiny_recipe(), tracking_uri=uri, run_name="tiny")
    log_and_register_model(record, tiny.content, registered_name="dvt-tiny")
    model = ["models:/dvt-tiny@candidate", "--tracking-uri", uri]
    assert main(["profile", *model, "--batch-sizes", "4", "--repeats", "1", "--device", "cpu"]) == 0
    assert "tag latency_profiles of dvt-tiny version 1" in capsys.readouterr().out
    address = ModelAddress.parse(model[0])
    (profile,) = read_version_profiles(uri, address)
    assert profile.batch_sizes == (4,)

    seconds = (0.001, 0.004)
    keep_version_profile(
        uri, address, replace(profile, stage_seconds=((0.001, 0.003),))
    )  # in place of the measured one
    row = tiny.content.thresholds.within_seconds(0.0025, seconds)
    assert row is not None
    assert main(["predict", "images", "--model", *model, "--budget-ms", "2.5", "--output", "rows.csv"]) == 0
    rows = pd.read_csv("rows.csv")
    wanted = expected(tiny, sorted_files("images"), row.thresholds)
    pd.testing.assert_frame_equal(rows.drop(columns="error"), wanted, rtol=1e-4, check_dtype=False)

    assert main(["predict", "images", "--model", *model, "--budget-ms", "0.5"]) == TYPED_WRONG
    told = "--budget-ms must be at least 1, the time of leaving at the first exit on this device, got 0.5"
    assert told in capsys.readouterr().err


def test_broken_images_are_told_and_do_not_stop_the_rest(
    uri: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("images/a/1a.png").write_bytes(b"no image")
    whole = Path("images/a/0.jpg").read_bytes()
    Path("images/a/2a.jpg").write_bytes(whole[:-60])
    Path("images/.hidden.png").write_bytes(b"passed over")
    Path("empty").mkdir()
    words = ["predict", "none.png", "images", "empty", *registered(uri), "--output", "rows.parquet"]
    assert main([*words, "--batch-size", "2"]) == FAILED
    failed = {
        "none.png": "there is no such file",
        "images/a/1a.png": "it is not an image",
        "images/a/2a.jpg": "it is damaged",
        "empty": "it holds no images (.bmp, .jpeg, .jpg, .pgm, .png, .ppm, .tif, .tiff, .webp)",
    }
    told = capsys.readouterr()
    assert told.err.splitlines() == [f"dvt: {image} cannot be read: {problem}" for image, problem in failed.items()]
    assert told.out.splitlines()[-2].endswith(" · 4 could not be read")
    rows = pd.read_parquet("rows.parquet")
    names = ["a/0.jpg", "a/1.png", "a/1a.png", "a/2.jpg", "a/2a.jpg", "a/3.png", "b/4.jpg", "b/5.png"]
    assert list(rows.image) == ["none.png", *(f"images/{name}" for name in names), "empty"]
    broken = rows[rows.image.isin(failed)]
    assert list(broken.error) == list(failed.values())
    assert broken[["label", "class_name", "confidence", "exit_index", "macs"]].isna().all(axis=None)
    assert rows[~rows.image.isin(failed)].drop(columns="error").notna().all(axis=None)


def test_on_a_terminal_every_line_stands_above_the_bar(
    uri: str, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")  # rich then takes every stream for a terminal
    monkeypatch.setenv("COLUMNS", "50")
    Path("images/a/1a.png").write_bytes(b"no image")
    assert main(["predict", "images", *registered(uri)]) == FAILED
    told = capsys.readouterr()
    assert told.err == ""  # a terminal shows both streams, and the bar is on this one
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).rpartition("\x1b[2K")[2] for line in told.out.splitlines()]
    assert "dvt: images/a/1a.png cannot be read: it is not an image" in lines
    assert sum(line.endswith((".png", ".jpg")) for line in lines) == 6
    assert any("━" in line and "7/7 images" in line for line in lines)


def test_a_list_on_standard_input(
    uri: str, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("images/b\n\nimages/a/1.png\r\nnone.png\n"))
    assert main(["predict", "images/a/0.jpg", "-", *registered(uri)]) == FAILED
    told = capsys.readouterr()
    images = [line.split()[-1] for line in told.out.splitlines()[1:-1]]
    assert images == ["images/a/0.jpg", "images/b/4.jpg", "images/b/5.png", "images/a/1.png"]
    assert told.err == "dvt: none.png cannot be read: there is no such file\n"


def test_nothing_listed_is_nothing_done(
    uri: str, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert main(["predict", "-", *registered(uri), "--output", "rows.parquet"]) == 0
    assert capsys.readouterr().out.splitlines() == [HEADER, "0 images", "written to rows.parquet"]
    assert pd.read_parquet("rows.parquet").empty


@pytest.mark.parametrize(("thresholds", "index"), [("inf", 2), ("-inf", 1), ("0", 1)])
def test_typed_thresholds_count(uri: str, here: Path, thresholds: str, index: int) -> None:
    assert main(["predict", "images", *registered(uri), f"--thresholds={thresholds}", "--output", "rows.csv"]) == 0
    assert set(pd.read_csv("rows.csv").exit_index) == {index}


def test_without_a_budget_the_models_own_counts(tiny: Tiny, uri: str, here: Path) -> None:
    assert main(["predict", "images", *registered(uri), "--output", "rows.csv"]) == 0
    chosen = tiny.content.thresholds.at_budget(tiny.content.default_budget_macs).thresholds
    assert list(pd.read_csv("rows.csv").exit_index) == list(expected(tiny, sorted_files("images"), chosen).exit_index)


@pytest.fixture
def checkpoint(here: Path) -> Path:
    recipe = tiny_recipe(root="/no/images")
    state = TrainingState.create(recipe, steps_per_epoch=1, device=torch.device("cpu"))
    save_checkpoint(here / "run" / "checkpoints" / "best", state, recipe)
    return here / "run" / "checkpoints" / "best"


def test_a_checkpoint_without_thresholds_runs_all_stages(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "images", "--model", str(checkpoint), "--output", "rows.csv"]) == 0
    rows = pd.read_csv("rows.csv")
    assert set(rows.exit_index) == {2}
    assert (rows.class_name == rows.label).all()  # its images, which name the classes, are not here
    capsys.readouterr()
    assert main(["predict", "images", "--model", str(checkpoint), "--budget-macs", "1M"]) == TYPED_WRONG
    assert capsys.readouterr().err == (
        f"dvt: --budget-macs must come with a model that holds thresholds, got {checkpoint}, which holds none; "
        "give --thresholds\n"
    )


def test_a_checkpoint_finds_the_thresholds_of_its_run(tiny: Tiny, checkpoint: Path, here: Path) -> None:
    assert tiny.content.report is not None
    write_front_files(here / "run" / "front", tiny.content.report)
    words = ["predict", "images", "--model", str(checkpoint), "--budget-macs", str(MACS[0])]
    assert main([*words, "--output", "rows.csv"]) == 0
    assert set(pd.read_csv("rows.csv").exit_index) == {1}
    assert ThresholdTable.of_front(tiny.content.report.calibration_front).rows[0].thresholds == (-math.inf, -math.inf)


def test_scenes_of_the_embedded_data_are_seen_as_at_evaluation(here: Path) -> None:
    data = DataConfig(source="embedded", test_images=20)
    recipe = Recipe(name="scenes", cascade=replace(CASCADE, num_classes=10), data=data)
    state = TrainingState.create(recipe, steps_per_epoch=1, device=torch.device("cpu"))
    save_checkpoint(here / "checkpoint", state, recipe)
    scenes, _ = DigitScenes("test", 20, 16, seed=0).compose(range(20))
    Path("scenes").mkdir()
    for index, scene in enumerate(scenes):
        Image.fromarray(scene).save(f"scenes/{index:02d}.png")
    assert main(["predict", "scenes", "--model", "checkpoint", "--output", "rows.csv"]) == 0
    with torch.no_grad():
        logits = load_model(here / "checkpoint")(open_data(data, recipe.cascade).test.read(range(20)).images)[-1]
    rows = pd.read_csv("rows.csv")
    assert list(rows.label) == logits.argmax(-1).tolist()
    np.testing.assert_allclose(rows.confidence, logits.softmax(-1).amax(-1), rtol=1e-5)


@pytest.mark.parametrize(
    ("words", "sentences"),
    [
        (
            ["--model", "none"],
            ["--model must be models:/NAME@ALIAS, models:/NAME/VERSION or a checkpoint folder, got 'none'"],
        ),
        (
            ["--model", "x", "--budget-macs", "2Q", "--budget-ms", "fast", "--output", "a.txt", "--batch-size", "0"],
            [
                "--budget-ms must come without --budget-macs, got both; leave one out",
                "--budget-macs must be multiply-adds above 0 such as 1.2G, 300M or 12e6, got '2Q'",
                "--budget-ms must be milliseconds above 0 such as 3.5, got 'fast'",
                "--output must end with .csv or .parquet, got a.txt",
                "--batch-size must be from 1 to 4096, got 0",
            ],
        ),
        (
            ["REGISTERED", "--budget-macs", "1k"],
            [f"--budget-macs must be at least {MACS[0]}, the cost of leaving at the first exit, got 1000"],
        ),
        (
            ["REGISTERED", "--budget-ms", "3.5"],
            [
                (
                    "--budget-ms must come with a model that holds a latency profile of this device, "
                    f"{device_name(torch.device('cpu'))}, got models:/dvt-tiny@candidate, which holds none; "
                    "run dvt profile models:/dvt-tiny@candidate, or give --budget-macs"
                )
            ],
        ),
        (
            ["REGISTERED", "--thresholds", "0.1,0.2"],
            ["--thresholds must be 1 number, one for each exit but the last, got '0.1,0.2'"],
        ),
    ],
)
def test_what_was_typed_wrong_is_told(
    uri: str, here: Path, capsys: pytest.CaptureFixture[str], words: list[str], sentences: list[str]
) -> None:
    words = [*registered(uri), *words[1:]] if words[0] == "REGISTERED" else words
    assert main(["predict", "images", *words]) == TYPED_WRONG
    told = capsys.readouterr()
    assert told.err.splitlines() == [f"dvt: {sentence}" for sentence in sentences]
    assert told.out == ""


@pytest.mark.parametrize("model", ["models:/dvt-none@candidate", "models:/dvt-tiny@none", "models:/dvt-tiny/7"])
def test_a_model_that_is_not_there(uri: str, here: Path, capsys: pytest.CaptureFixture[str], model: str) -> None:
    assert main(["predict", "images", "--model", model, "--tracking-uri", uri]) == FAILED
    assert capsys.readouterr().err == f"dvt: the model must be known to MLflow at {uri}, got {model}\n"


def test_the_command_line_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["predict", "--model", "x"])
    assert ended.value.code == TYPED_WRONG
