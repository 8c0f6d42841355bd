"""`dvt register`: from a run or a checkpoint to a version that tells all of itself, once."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from dvt.cli.failure import FAILED, TYPED_WRONG
from dvt.cli.main import main
from dvt.serving.model import open_model
from dvt.tracking import page_command
from dvt.tracking.front_files import read_front_report
from tests.unit.cli.trained_run import CASCADE, Trained, make_trained


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run with its front."""
    made = make_trained(tmp_path_factory.mktemp("runs"))
    assert main(["front", str(made.root), "--no-record"]) == 0
    return made


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


@pytest.fixture
def client(trained: Trained) -> MlflowClient:
    return MlflowClient(tracking_uri=trained.uri)


def versions(client: MlflowClient, name: str) -> list[str]:
    return sorted(str(version.version) for version in client.search_model_versions(f"name = '{name}'"))


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("dvt-folder", lambda trained: str(trained.root)),
        ("dvt-id", lambda trained: trained.record.run_id),
        ("dvt-checkpoint", lambda trained: str(trained.checkpoint)),  # the best of its run, so the front is its own
    ],
)
def test_a_run_is_registered_once(
    trained: Trained,
    client: MlflowClient,
    capsys: pytest.CaptureFixture[str],
    name: str,
    what: Callable[[Trained], str],
) -> None:
    command = ["register", what(trained), "--name", name, "--tracking-uri", trained.uri]
    for _ in range(2):
        assert main(command) == 0
        assert capsys.readouterr().out.splitlines() == [
            f"MLflow run  {trained.record.run_id} at {trained.uri}",
            f"model       {name} version 1, alias candidate",
            f"see it      {page_command(trained.record)}",
        ]
    assert versions(client, name) == ["1"]
    version = client.get_model_version_by_alias(name, "candidate")
    assert version.run_id == trained.record.run_id
    assert version.description.startswith("# tiny\n\nA Dynamic Vision Transformer")
    model = open_model(f"models:/{name}/1", trained.uri)
    assert model.thresholds == read_front_report(trained.root / "front" / "front.json").threshold_table()
    assert model.class_names == tuple("0123456789")


def test_the_name_and_the_address_are_the_runs_own(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["register", str(trained.root), "--alias", "fresh"]) == 0
    assert "model       dvt-tiny version 1, alias fresh\n" in capsys.readouterr().out


def test_a_newer_version_keeps_the_alias(
    trained: Trained, client: MlflowClient, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["register", str(trained.root), "--name", "dvt-newer", "--tracking-uri", trained.uri]
    assert main(command) == 0
    client.create_model_version("dvt-newer", source="/nowhere", run_id=trained.record.run_id)
    client.set_registered_model_alias("dvt-newer", "candidate", "2")
    client.update_model_version("dvt-newer", "1", "what a person wrote")
    capsys.readouterr()
    assert main(command) == 0
    assert "model       dvt-newer version 1, alias candidate stays on version 2\n" in capsys.readouterr().out
    assert client.get_model_version("dvt-newer", "1").description == "what a person wrote"


def test_a_checkpoint_on_its_own_comes_with_a_front_that_was_measured(
    trained: Trained, client: MlflowClient, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained.checkpoint, here / "checkpoint")
    command = ["register", "checkpoint", "--name", "dvt-alone", "--tracking-uri", trained.uri]
    assert main(command) == FAILED
    assert capsys.readouterr().err == (
        "dvt: checkpoint must come with its front, got none; make it with dvt front checkpoint and name its front.json "
        "with --front\n"
    )
    assert main(["front", "checkpoint"]) == 0
    command += ["--front", "fronts/tiny/front.json"]
    assert main(command) == 0
    assert main(command) == 0
    assert versions(client, "dvt-alone") == ["1"]
    (run,) = client.search_runs([trained.record.experiment_id], "tags.`checkpoint.sha256` != ''")
    assert client.get_model_version("dvt-alone", "1").run_id == run.info.run_id
    assert (run.info.run_name, run.info.status, run.data.params["cascade.image_size"]) == ("tiny", "FINISHED", "16")


def test_a_run_without_a_front(tmp_path: Path, capsys: pytest.CaptureFixture[str], trained: Trained) -> None:
    root = shutil.copytree(trained.root, tmp_path / "tiny-002", ignore=shutil.ignore_patterns("front"))
    assert main(["register", str(root), "--tracking-uri", trained.uri]) == FAILED
    assert capsys.readouterr().err == (
        f"dvt: run {root} must have a front, got none in its folder front; make it with dvt front {root}\n"
    )


def test_the_front_of_another_cascade(tmp_path: Path, capsys: pytest.CaptureFixture[str], trained: Trained) -> None:
    other = make_trained(tmp_path / "other", replace(CASCADE, depth=2))
    front = str(trained.root / "front" / "front.json")
    assert main(["register", str(other.root), "--front", front, "--tracking-uri", other.uri]) == FAILED
    assert capsys.readouterr().err == (
        f"dvt: the front of {other.checkpoint} must be of its cascade, got that of another; measure it again\n"
    )


def test_scenes_of_two_sizes_are_not_the_same_images(
    trained: Trained, client: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    larger = make_trained(trained.root.parent, replace(CASCADE, image_size=20), name="tiny-003")
    assert main(["front", str(larger.root), "--no-record"]) == 0
    for number, run in enumerate((trained, larger), start=1):
        assert main(["register", str(run.root), "--name", "dvt-sizes", "--tracking-uri", trained.uri]) == 0
        client.set_registered_model_alias("dvt-sizes", "champion" if number == 1 else "candidate", str(number))
    capsys.readouterr()
    command = ["promote", "dvt-sizes", "--budget-macs", "100k", "--tracking-uri", trained.uri]
    assert main(command) == FAILED
    assert capsys.readouterr().err == (
        "dvt: both versions of dvt-sizes must take embedded scenes of one size, got 16 and 20 pixels; scenes of two "
        "sizes are not the same images\n"
    )


@pytest.mark.parametrize(
    ("words", "sentences"),
    [
        (
            ["nothing"],
            [
                (
                    "RUN_OR_CHECKPOINT must be a run's id or folder, or a checkpoint folder, got 'nothing', which is "
                    "none of them"
                )
            ],
        ),
        (
            ["nothing", "--alias", "latest", "--name", "a/b", "--budget", "1"],
            [
                "--alias must be an alias of letters, digits, - and _, not latest and no version as v1, got 'latest'",
                *(
                    f"{word} must be an option of dvt register or a field below --data; dvt register --help tells them"
                    for word in ("--budget", "1")
                ),
                "--name must be a model's name without / : . % and quotes, got 'a/b'",
            ],
        ),
        (
            ["nothing", "--alias", "champion"],
            ["--alias must not be champion, which dvt promote gives; leave it out and promote the version"],
        ),
        (
            ["nothing", "--front", "none.json"],
            ["--front must be a front.json of dvt front, got none.json (No such file or directory)"],
        ),
    ],
)
def test_what_was_asked_wrong(words: list[str], sentences: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["register", *words]) == TYPED_WRONG
    assert capsys.readouterr().err.splitlines() == [f"dvt: {sentence}" for sentence in sentences]
