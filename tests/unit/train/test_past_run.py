"""A past run is found by its files, and its best checkpoint is the one that Ray Train's list says."""

import asyncio
import json
import re
from pathlib import Path

import fsspec
import pytest
from ray.train import Checkpoint, CheckpointConfig
from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import CheckpointManager
from ray.train.v2._internal.execution.context import StorageContext
from ray.train.v2._internal.execution.training_report import _TrainingReport

from dvt.train.errors import CheckpointError
from dvt.train.loop import BEST_METRIC
from dvt.train.past_run import (
    UNMEASURED,
    best_checkpoint,
    find_past_run,
    keep_snapshot,
    kept_checkpoints,
    restore_snapshot,
)


def results(**scores: float) -> str:
    listed = [
        {"checkpoint_dir_name": name, "metrics": {"calibration/top1_mean": score}} for name, score in scores.items()
    ]
    return json.dumps({"checkpoint_results": listed})


def make_run(root: Path, snapshot: str | None) -> Path:
    (root / "checkpoints").mkdir(parents=True)
    (root / "recipe.yaml").write_text("name: x\n")
    if snapshot is not None:
        (root / "checkpoints" / "checkpoint_manager_snapshot.json").write_text(snapshot)
    return root


def test_the_best_checkpoint_of_a_folder_stays_where_it_is(tmp_path: Path) -> None:
    root = make_run(tmp_path / "run", results(first=0.8, second=0.9, third=0.85))
    folder = find_past_run(f"{root}/")
    assert folder is not None
    assert (folder.name, folder.address) == ("run", str(root))
    with best_checkpoint(folder) as checkpoint:
        assert checkpoint == root / "checkpoints" / "second"


def test_the_best_checkpoint_of_a_bucket_is_copied() -> None:
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe("/past/run/recipe.yaml", b"name: x")
    filesystem.pipe("/past/run/checkpoints/checkpoint_manager_snapshot.json", results(only=0.5).encode())
    filesystem.pipe("/past/run/checkpoints/only/config.yaml", b"a")
    try:
        folder = find_past_run("memory://past/run")
        assert folder is not None
        with best_checkpoint(folder) as checkpoint:
            assert (checkpoint / "config.yaml").read_bytes() == b"a"
        assert not checkpoint.exists()
    finally:
        filesystem.rm("/past", recursive=True)


def test_what_is_no_run(tmp_path: Path) -> None:
    assert find_past_run(str(tmp_path)) is None
    assert find_past_run(str(tmp_path / "none")) is None


def test_a_storage_of_an_unknown_kind_is_told() -> None:
    with pytest.raises(CheckpointError, match=r"^the run's storage must be readable, got what://x \("):
        find_past_run("what://x")


@pytest.mark.parametrize(
    ("snapshot", "sentence"),
    [
        (None, "run {root} must have a checkpoint, got none; train it to the end first"),
        ("{", "{root}/checkpoints/checkpoint_manager_snapshot.json must list the run's checkpoints, got a file that "),
        (results(), "{root}/checkpoints/checkpoint_manager_snapshot.json must list the run's checkpoints, got a file "),
    ],
)
def test_a_run_without_a_checkpoint_is_told(tmp_path: Path, snapshot: str | None, sentence: str) -> None:
    root = make_run(tmp_path / "run", snapshot)
    folder = find_past_run(str(root))
    assert folder is not None
    message = re.escape(sentence.replace("{root}", str(root)))
    with pytest.raises(CheckpointError, match=f"^{message}"), best_checkpoint(folder):
        pass


def test_the_last_and_the_best_are_kept_with_what_was_measured_on_them(tmp_path: Path) -> None:
    measured = {"calibration/top1_mean": 0.9, "step": 20, "epoch": 2}
    best, last = ({"checkpoint_dir_name": name, "metrics": measured | changes} for name, changes in (
        ("best", {}), ("last", {"calibration/top1_mean": 0.8, "step": 30, "epoch": 3})
    ))  # fmt: skip
    for listed, names in (([best, last], ["best", "last"]), ([best], ["best"])):
        text = json.dumps({"checkpoint_results": listed, "latest_checkpoint_result": listed[-1]})
        root = make_run(tmp_path / str(len(listed)), text)
        folder = find_past_run(str(root))
        assert folder is not None
        found = kept_checkpoints(folder)
        assert [each.address for each in found] == [f"{root}/checkpoints/{name}" for name in names]
        assert [each.is_best for each in found] == [name == "best" for name in names]
        assert [each.step for each in found] == [20, 30][: len(names)]
        assert found[0].metrics == {"calibration/top1_mean": 0.9, "epoch": 2.0}


def test_a_list_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    folder = find_past_run(str(make_run(tmp_path / "run", "{")))
    assert folder is not None
    with pytest.raises(CheckpointError) as caught:
        kept_checkpoints(folder)
    place = f"{folder.address}/checkpoints/checkpoint_manager_snapshot.json"
    assert str(caught.value) == f"{place} must list the run's checkpoints, got a file that cannot be read"


# Ray 2.60's keeper of checkpoints still writes its list as pydantic 1 did.
@pytest.mark.filterwarnings("ignore:The `(json|parse_obj|parse_raw)` method is deprecated:DeprecationWarning")
def test_checkpoints_within_epochs_never_push_out_the_best(tmp_path: Path) -> None:
    """Ray Train's own keeper of checkpoints is told of seven, three of which were measured or follow one that was."""
    root = make_run(tmp_path / "run", None)
    storage = StorageContext(storage_path=str(root), experiment_dir_name="checkpoints")
    scores = [UNMEASURED, UNMEASURED, 0.5, UNMEASURED, UNMEASURED, 0.4, UNMEASURED]
    kept = [{0}, {1}, {2}, {2, 3}, {2, 4}, {2, 5}, {2, 6}]
    folder = find_past_run(str(root))
    assert folder is not None

    async def keep() -> None:
        for number, score in enumerate(scores):
            manager = CheckpointManager(KEEP, storage)  # read again each time, as a driver does that goes on
            place = root / "checkpoints" / f"checkpoint_{number}"
            place.mkdir()
            metrics = {BEST_METRIC: score, "step": number, "train/loss": 1.0}
            checkpoint = Checkpoint(str(place), storage.storage_filesystem)
            manager.register_checkpoint(_TrainingReport(checkpoint=checkpoint, metrics=metrics, validation=False))
            assert {int(path.name[11:]) for path in place.parent.iterdir() if path.is_dir()} == kept[number]
            found = kept_checkpoints(folder)
            assert {each.step: each.is_best for each in found} == {step: step == 2 for step in kept[number]}
            assert all((BEST_METRIC in each.metrics) == (each.step in (2, 5)) for each in found)
            if number < 2:
                with pytest.raises(CheckpointError) as caught, best_checkpoint(folder):
                    pass
                assert str(caught.value) == f"run {root} must have ended an epoch, got none; train it to the end first"
            else:
                with best_checkpoint(folder) as best:
                    assert best.name == "checkpoint_2"

    asyncio.run(keep())


KEEP = CheckpointConfig(num_to_keep=1, checkpoint_score_attribute=BEST_METRIC, checkpoint_score_order="max")


@pytest.mark.parametrize("left", ["", '{"checkpoint_results": [{"check'])
def test_a_list_that_was_cut_off_while_written_is_put_back(tmp_path: Path, left: str) -> None:
    root = make_run(tmp_path / "run", results(first=0.8))
    folder, place = find_past_run(str(root)), root / "checkpoints" / "checkpoint_manager_snapshot.json"
    assert folder is not None
    keep_snapshot(folder)
    place.write_text(left)
    restore_snapshot(folder)
    assert place.read_text() == results(first=0.8)


def test_a_whole_list_is_left_as_it_is(tmp_path: Path) -> None:
    root = make_run(tmp_path / "run", results(first=0.8))
    folder, place = find_past_run(str(root)), root / "checkpoints" / "checkpoint_manager_snapshot.json"
    assert folder is not None
    restore_snapshot(folder)
    keep_snapshot(folder)
    place.write_text(results(first=0.8, second=0.9))
    restore_snapshot(folder)
    assert place.read_text() == results(first=0.8, second=0.9)


def test_the_first_list_of_a_run_that_was_cut_off_is_removed(tmp_path: Path) -> None:
    root = make_run(tmp_path / "run", "{")
    folder = find_past_run(str(root))
    assert folder is not None
    restore_snapshot(folder)
    assert list((root / "checkpoints").iterdir()) == []
    restore_snapshot(folder)  # nor is anything amiss where there is none
