"""What a person sees of `dvt train` before anything runs: help, configuration, and refusals in one sentence."""

import dataclasses
from dataclasses import replace
from pathlib import Path

import pytest

from dvt.cli.failure import FAILED, TYPED_WRONG
from dvt.cli.main import main
from dvt.cli.train import without_password
from dvt.config import DataConfig, Recipe, RunConfig, load_recipe

ROOT = Path(__file__).resolve().parents[3]
EMBEDDED = str(ROOT / "jobs" / "recipes" / "embedded.yaml")


def fields_of(cls: type, parent: str = "") -> list[str]:
    """The dotted path of every field that holds a value."""
    paths = []
    for field in dataclasses.fields(cls):
        path = f"{parent}{field.name}"
        if dataclasses.is_dataclass(field.type):
            paths += fields_of(field.type, f"{path}.")
        elif field.name != "stages":
            paths.append(path)
    return paths


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert "train a cascade, choose its thresholds, record and register it" in told
    assert "make a checkpoint and a registered model of the paper's published weights" in told
    assert "open MLflow's page on a run" in told


def test_help_of_train_names_every_field(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as ended:
        main(["train", "--help", "--recipe", EMBEDDED])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    for path in fields_of(Recipe):
        assert f"--{path.replace('_', '-')} " in told, path
    assert "pixels a side of the square input" in told
    assert "(default: embedded)" in told  # the recipe's own value


def test_print_config_shows_what_would_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--recipe", EMBEDDED, "--print-config", "--cascade.drop-path=0.25"]) == 0
    written = tmp_path / "shown.yaml"
    written.write_text(capsys.readouterr().out)
    shown = load_recipe(written)
    assert shown.cascade.drop_path == 0.25
    assert shown.run.storage_path == str(tmp_path / "runs")
    asked = load_recipe(EMBEDDED, ["--cascade.drop-path", "0.25", "--run.storage-path", str(tmp_path / "runs")])
    assert shown == asked


def test_paths_of_a_submitted_job_outlive_its_folder(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "session" / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert main(["train", "--recipe", EMBEDDED, "--print-config"]) == 0
    assert f"storage_path: {tmp_path}/home/runs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["--cascade.image-siz", "3"],
            "cascade.image_siz must be a known field, got 'image_siz'; did you mean image_size?",
        ),
        (["--train.seed", "-1"], "train.seed must be at least 0, got -1"),
        (
            ["--exits.budgets-macs", "[10]"],
            "exits.budgets_macs.0 must be at least",
        ),
        (
            ["--run.tracking-uri", "ftp://somewhere"],
            "run.tracking_uri must be",
        ),
        (
            ["--data.source", "folder"],
            "data.root must name an image folder for source folder, got null; add --data.root FOLDER",
        ),
    ],
)
def test_what_was_typed_wrong_ends_in_one_sentence(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert main(["train", "--recipe", EMBEDDED, *words]) == TYPED_WRONG
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith(f"dvt: {sentence}")
    assert told.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []  # nothing was begun


def test_a_silent_tracking_server_ends_before_anything_begins(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert main(["train", "--recipe", EMBEDDED]) == FAILED
    told = capsys.readouterr().err
    assert "MLFLOW_TRACKING_URI" in told
    assert "http://127.0.0.1:9" in told
    assert told.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_no_cluster_where_one_was_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(**settings: object) -> None:
        raise ConnectionError("Failed to connect to Ray cluster at 10.0.0.1:6379")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setattr("ray.init", refused)
    assert main(["train", "--recipe", EMBEDDED]) == FAILED
    assert capsys.readouterr().err == (
        "dvt: the Ray cluster at 10.0.0.1:6379 (RAY_ADDRESS) must let this process in, got: Failed to connect to Ray "
        "cluster at 10.0.0.1:6379; check that it runs (`ray stop` forgets one that does not), and that RAY_AUTH_MODE "
        "and its token are as on the cluster\n"
    )


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        ("timm:deit_small_patch16_224", "timm:deit_small_patch16_224"),
        ("weights/deit.pth", "{here}/weights/deit.pth"),
        ("/weights/checkpoint", "/weights/checkpoint"),
    ],
)
def test_where_weights_come_from_is_made_absolute_where_it_is_a_path(
    asked: str, shown: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--recipe", EMBEDDED, "--print-config", "--train.init-from", asked]) == 0
    assert f"\n  init_from: {shown.format(here=tmp_path)}\n" in capsys.readouterr().out


def test_workers_and_files_are_told_no_password() -> None:
    recipe = Recipe(name="x", data=DataConfig(root="r"), run=RunConfig(tracking_uri="http://ann:pa55w0rd@host:5000"))
    assert without_password(recipe).run.tracking_uri == "http://host:5000"
    bare = replace(recipe, run=RunConfig())
    assert without_password(bare) is bare


def test_a_printed_recipe_holds_no_password(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("name: x\ndata: {root: r}\nrun: {tracking_uri: 'postgresql://ann:pa55w0rd@db/mlflow'}\n")
    assert main(["train", "--recipe", str(recipe), "--print-config"]) == 0
    assert "\n  tracking_uri: postgresql://db/mlflow\n" in capsys.readouterr().out
