"""`dvt import-checkpoint`: from a file of the published code to a checkpoint folder and a model that leaves early."""

import hashlib
import json
import math
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from mlflow import MlflowClient

from dvt.cli.failure import FAILED, TYPED_WRONG
from dvt.cli.main import main
from dvt.config import StageConfig
from dvt.exits import ThresholdTable, exit_indices, max_probability
from dvt.models import VARIANTS, Cascade, macs_per_exit, published_state_dict
from dvt.train.checkpoint import load_checkpoint, load_model
from dvt.train.init_from import init_from

CONFIG = replace(VARIANTS["dvt_t2t_vit_12"], num_classes=10)
MACS = macs_per_exit(CONFIG)
VARIANT = ["--variant", "dvt_t2t_vit_12"]
NAMES = ("ant", "bee", "cat", "dog", "emu", "fox", "gnu", "hen", "ibis", "jay")
UNREADABLE = (
    "must be a safetensors file, or a file of tensors that torch.save wrote, got one that cannot be read so; "
    "save its state dict alone"
)
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


@pytest.fixture(scope="module")
def cascade() -> Cascade:
    torch.manual_seed(0)
    return Cascade(CONFIG).eval()


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Two that differ in how sure the first exit is of them."""
    noise = np.random.default_rng(0).random((2, 3, 224, 224), dtype=np.float32)
    noise[1] = 0.5
    return noise


@pytest.fixture(scope="module")
def confidence(cascade: Cascade, images: np.ndarray) -> np.ndarray:
    normalised = (images - MEAN[:, None, None]) / STD[:, None, None]
    with torch.no_grad():
        return max_probability(cascade(torch.from_numpy(normalised.astype(np.float32)))).numpy()  # (3, 2)


@pytest.fixture(scope="module")
def thresholds(confidence: np.ndarray) -> list[list[float]]:
    """Rows of which the first half lets one of the two images leave at the first exit, the others none."""
    between = float(confidence[0].mean())
    return [[between if p < 30 else 1e8, 1e8, -1e8] for p in range(1, 60)]


@pytest.fixture(scope="module")
def published(cascade: Cascade, thresholds: list[list[float]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("published") / "t2t.pth"
    content = {
        "model_state_dict": published_state_dict(cascade),
        "flops": [0.47, 1.45, 3.46],
        "dynamic_threshold": [torch.tensor(row, dtype=torch.float64) for row in thresholds],
        "anytime_classification": [torch.tensor([60.5]), 70.0, 80.25],
        "budgeted_batch_classification": [[0.5] * 59, [60.0] * 59],
    }
    torch.save(content, path)
    return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def told(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_the_registered_model_leaves_early_by_the_files_thresholds(
    published: Path,
    images: np.ndarray,
    confidence: np.ndarray,
    here: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    (here / "names.txt").write_text("\n".join(NAMES) + "\n")
    assert main(["import-checkpoint", str(published), *VARIANT, "--register", "--class-names", "names.txt"]) == 0
    out = capsys.readouterr().out
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if "│" in line]
    assert cells == [
        ["1", "7x7", "467 M", "60.50 %"],
        ["2", "10x10", "1.45 G", "70.00 %"],
        ["3", "14x14", "3.45 G", "80.25 %"],
    ]
    assert "checkpoint  checkpoints/published_t2t_vit_12\n" in out
    assert "thresholds  checkpoints/published_t2t_vit_12/thresholds.json (the file's)\n" in out
    assert "model       dvt-published_t2t_vit_12 version 1, alias candidate\n" in out

    uri = f"sqlite:///{here / 'runs' / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri)
    version = client.get_model_version_by_alias("dvt-published_t2t_vit_12", "candidate")
    run = client.get_run(version.run_id)
    assert run.info.status == "FINISHED"
    tags = {name: value for name, value in run.data.tags.items() if name.startswith("imported.")}
    assert tags == {
        "imported.file": "t2t.pth",
        "imported.sha256": hashlib.sha256(published.read_bytes()).hexdigest(),
        "imported.variant": "dvt_t2t_vit_12",
    }
    assert run.data.metrics == {f"exit_{k}/macs": macs for k, macs in enumerate(MACS, start=1)} | {
        "published/exit_1/top1": 0.605,
        "published/exit_2/top1": 0.70,
        "published/exit_3/top1": 0.8025,
    }

    previous = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    try:
        model = mlflow.pyfunc.load_model("models:/dvt-published_t2t_vit_12@candidate")
        # 1.2 G is less than q = 1 costs, so a row of the first half; just under the last exit's cost: of the second.
        answers = [model.predict(images, params={"budget_macs": macs}) for macs in (1.2e9, MACS[2] - 1.0)]
        free = model.predict(images)
    finally:
        mlflow.set_tracking_uri(previous)
    sure = int(confidence[0].argmax())
    exits = [3, 3]
    exits[sure] = 1
    assert list(answers[0]["exit_index"]) == exits
    assert list(answers[0]["macs"]) == [MACS[index - 1] for index in exits]
    assert list(answers[1]["exit_index"]) == [3, 3]
    assert list(free["exit_index"]) == [3, 3]  # without a report the default is the last exit's cost
    for answer, leaves in zip(answers, (exits, [3, 3]), strict=True):
        expected = confidence[np.array(leaves) - 1, [0, 1]]
        np.testing.assert_allclose(answer["confidence"], expected, rtol=1e-4)
        assert [NAMES[label] for label in answer["label"]] == list(answer["class_name"])


def test_the_folder_is_a_checkpoint_of_ours(
    published: Path, cascade: Cascade, thresholds: list[list[float]], confidence: np.ndarray, here: Path
) -> None:
    output = here / "a folder" / "t2t"
    assert main(["import-checkpoint", str(published), *VARIANT, "--output", str(output), "--name", "mine"]) == 0
    assert [path.name for path in output.parent.iterdir()] == ["t2t"]
    checkpoint = load_checkpoint(output)
    assert (checkpoint.recipe.name, checkpoint.recipe.cascade, checkpoint.step) == ("mine", CONFIG, 0)
    loaded = load_model(output)
    assert not loaded.training
    expected = cascade.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())
    table = ThresholdTable.from_dict(json.loads((output / "thresholds.json").read_text()))
    assert table == ThresholdTable.of_published(thresholds, MACS)
    assert len(set(exit_indices(confidence, table.at_budget(1.2e9).thresholds))) == 2
    assert not (here / "runs").exists()  # nothing was to be registered

    other = Cascade(replace(CONFIG, num_classes=3))
    init_from(other, str(output))
    assert torch.equal(other.state_dict()["stages.1.norm.weight"], expected["stages.1.norm.weight"])


def test_a_bare_state_dict_has_no_thresholds(cascade: Cascade, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(published_state_dict(cascade), here / "bare.pth")
    assert main(["import-checkpoint", "bare.pth", *VARIANT, "--output", "bare"]) == 0
    out = capsys.readouterr().out
    assert "thresholds  bare/thresholds.json (one exit for all images; the file has no thresholds)\n" in out
    assert "model       not registered (without --register)\n" in out
    assert "as published" not in out
    table = ThresholdTable.from_dict(json.loads((here / "bare" / "thresholds.json").read_text()))
    assert table == ThresholdTable.of_single_exits(MACS)


@pytest.mark.parametrize(
    ("words", "sentences"),
    [
        (
            ["--variant", "dvt_deit_smal"],
            ["--variant must be a published cascade, got 'dvt_deit_smal'; did you mean dvt_deit_small?"],
        ),
        (
            ["--variant", "resnet"],
            [
                (
                    "--variant must be a published cascade, got 'resnet'; choose from dvt_t2t_vit_12, dvt_t2t_vit_14, "
                    "dvt_deit_small"
                )
            ],
        ),
        (
            [*VARIANT, "--output", "there", "--class-names", "none.txt", "--tracking-uri", "x"],
            [
                "--class-names must be a file, got none.txt, which is none; check the path",
                "--output must be a folder that is not there yet, got there; choose another or remove it",
                "--tracking-uri must come with --register, got it alone; add --register or leave it out",
                "--class-names must come with --register, got it alone; add --register or leave it out",
            ],
        ),
        (
            ["--variant", "dvt_deit_small"],
            [
                (
                    "--variant must be what FILE holds, dvt_t2t_vit_12, got dvt_deit_small; "
                    "choose dvt_t2t_vit_12 or another file"
                )
            ],
        ),
        ([*VARIANT, "--name", "a b"], ["--name must be letters, digits, - and _ only, got 'a b'"]),
    ],
)
def test_what_was_typed_wrong_is_told_and_nothing_is_written(
    published: Path, here: Path, capsys: pytest.CaptureFixture[str], words: list[str], sentences: list[str]
) -> None:
    (here / "there").mkdir()
    assert main(["import-checkpoint", str(published), *words]) == TYPED_WRONG
    assert told(capsys) == [f"dvt: {sentence.replace('FILE', str(published))}" for sentence in sentences]
    assert [path.name for path in here.iterdir()] == ["there"]


def test_a_missing_file_is_told(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import-checkpoint", "none.pth", *VARIANT]) == TYPED_WRONG
    assert told(capsys) == ["dvt: FILE must be a file, got none.pth, which is none; check the path"]


def test_too_few_class_names_are_told(published: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "names.txt").write_text("ant\nbee\n")
    words = ["--register", "--tracking-uri", f"sqlite:///{here}/mlflow.db", "--class-names", "names.txt"]
    assert main(["import-checkpoint", str(published), *VARIANT, *words]) == TYPED_WRONG
    assert told(capsys) == ["dvt: --class-names must hold one line for each of 10 classes, got 2 in names.txt"]
    assert not (here / "checkpoints").exists()


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("exploded"),))


def test_code_in_a_file_is_not_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model_state_dict": Bomb()}, here / "bomb.pth")
    (here / "bare.pkl").write_bytes(pickle.dumps(Bomb(), protocol=2))
    for name in ("bomb.pth", "bare.pkl"):
        assert main(["import-checkpoint", name, *VARIANT]) == FAILED
        assert told(capsys) == [f"dvt: {name} {UNREADABLE}"]
    assert not (here / "exploded").exists()


def test_a_truncated_file_is_told(published: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "half.pth").write_bytes(published.read_bytes()[:1_000_000])
    assert main(["import-checkpoint", "half.pth", *VARIANT]) == FAILED
    assert told(capsys) == [f"dvt: half.pth {UNREADABLE}"]
    assert not (here / "checkpoints").exists()


def change(cascade: Cascade) -> dict[str, Any]:
    state = dict(published_state_dict(cascade))
    del state["less_token.norm.bias"]
    state["normal_token.extra"] = torch.zeros(2)
    state["normal_token.cls_token"] = torch.zeros(1, 256)
    return state


ROWS = [[0.5, 0.5, -1e8]] * 59
BAD = [
    (
        change,
        (
            "a published state dict must have the entries of the model, got 3 differences: missing "
            "less_token.norm.bias, unexpected normal_token.extra, normal_token.cls_token of shape (1, 256) instead of "
            "(1, 1, 256)"
        ),
    ),
    (lambda cascade: {"model_state_dict": 3}, "model_state_dict must be a state dict, got int"),
    (
        lambda cascade: {"model_state_dict": published_state_dict(cascade), "dynamic_threshold": ROWS[1:]},
        (
            "dynamic_threshold must hold 59 rows of 3 numbers, each ending with -1e8, got shape (58, 3); "
            "import the state dict alone to go without thresholds"
        ),
    ),
    (
        lambda cascade: {
            "model_state_dict": published_state_dict(cascade),
            "anytime_classification": [60, math.nan, 1],
        },
        "anytime_classification must hold one top-1 accuracy in percent for each of 3 exits, got 60, nan, 1",
    ),
    (
        lambda cascade: {"model_state_dict": published_state_dict(cascade), "anytime_classification": [60, 101]},
        "anytime_classification must hold one top-1 accuracy in percent for each of 3 exits, got 60, 101",
    ),
    (
        lambda cascade: {"model_state_dict": published_state_dict(cascade), "anytime_classification": "high"},
        (
            "anytime_classification must hold one top-1 accuracy in percent for each of 3 exits, got something else "
            "(expected a number, got str)"
        ),
    ),
]


@pytest.mark.parametrize(("make", "sentence"), BAD)
def test_a_file_that_does_not_fit_is_told(
    cascade: Cascade, here: Path, capsys: pytest.CaptureFixture[str], make: Any, sentence: str
) -> None:
    torch.save(make(cascade), here / "bad.pth")
    assert main(["import-checkpoint", "bad.pth", *VARIANT]) == FAILED
    assert told(capsys) == [f"dvt: bad.pth: {sentence}"]
    assert [path.name for path in here.iterdir()] == ["bad.pth"]


def test_a_file_of_something_else_is_told(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save([1, 2], here / "list.pth")
    assert main(["import-checkpoint", "list.pth", *VARIANT]) == FAILED
    assert told(capsys) == ["dvt: list.pth must hold entries by their names, got list; save a dict"]


def test_without_reuse_it_is_imported_as_it_is(here: Path) -> None:
    later = [StageConfig(token_grid=grid, feature_reuse_depth=0, relation_reuse_depth=0) for grid in (10, 14)]
    config = replace(CONFIG, stages=(StageConfig(token_grid=7), *later))
    torch.save(published_state_dict(Cascade(config)), here / "plain.pth")
    assert main(["import-checkpoint", "plain.pth", *VARIANT, "--output", "plain"]) == 0
    assert load_checkpoint(here / "plain").recipe.cascade == config
