"""What the page is told of runs: of a real SQLite store, and of a run's folder."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from dvt.exits import make_report
from dvt.exits.bootstrap import bootstrap_report
from dvt.tracking import RunRecord, TrackingError, log_front, open_run
from dvt.tracking.example_files import write_examples
from dvt.tracking.front_files import write_front_files
from dvt.tracking.ui_runs import FolderFront, UiRuns, front_content
from dvt.train.examples import Examples
from dvt.train.past_run import find_past_run
from tests.unit.exits.examples import cascade_scores, costs
from tests.unit.tracking.tiny import tiny_recipe

CALIBRATION, TEST = (cascade_scores(3, 300, seed=seed) for seed in (0, 1))
REPORT = make_report("embedded", (2, 4, 7), costs(3), CALIBRATION, TEST, (1.5e6,))
EXAMPLES = Examples(
    images=np.zeros((1, 1, 4, 4), dtype=np.float32),
    mean=(0.5,),
    std=(0.5,),
    labels=("a",),
    predicted=(("b", "a", "a"),),
    confidence=np.array([[0.1], [0.5], [0.9]], dtype=np.float32),
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write(folder: Path) -> Path:
    write_front_files(folder, REPORT, bootstrap_report(REPORT, TEST, num_resamples=1000))
    write_examples(folder, EXAMPLES)
    return folder


@pytest.fixture(scope="module")
def filled(store: str, tmp_path_factory: pytest.TempPathFactory) -> list[RunRecord]:
    records = [open_run(tiny_recipe(), tracking_uri=store, run_name=name) for name in ("old", "new", "bare")]
    for record in records[:2]:
        log_front(record, write(tmp_path_factory.mktemp("runs") / "front"))
    client = MlflowClient(tracking_uri=store)
    client.create_registered_model("dvt-tiny")
    for number in ("1", "2"):
        client.create_model_version("dvt-tiny", source="s3://bucket/model", run_id=records[0].run_id)
        client.set_registered_model_alias("dvt-tiny", "candidate", number)
    return records


def test_all_runs_with_a_front_the_newest_first(store: str, filled: list[RunRecord]) -> None:
    rows = UiRuns(store).rows()
    assert [(row["name"], row["experiment"], row["is_chosen"]) for row in rows] == [
        ("new", "dvt", True),
        ("old", "dvt", True),
    ]
    assert UiRuns(store, [filled[0].run_id]).rows()[0]["key"] == filled[0].run_id


def test_a_run_with_its_model_and_images(store: str, filled: list[RunRecord]) -> None:
    content = UiRuns(store).content(filled[0].run_id)
    assert content is not None
    assert content["model"] == {"name": "dvt-tiny", "version": "2", "aliases": ["candidate"]}
    assert [image["predicted"] for image in content["examples"]] == [["b", "a", "a"]]
    assert [exit_["macs"] for exit_ in content["exits"]] == list(costs(3))
    other = UiRuns(store).content(filled[1].run_id)
    assert other is not None
    assert other["model"] is None


def test_points_are_those_of_the_test_images_by_rising_budget() -> None:
    text = json.dumps(REPORT.to_dict())
    points = front_content(text, None, "here")["points"]
    assert [point["budget"] for point in points] == sorted(point["budget"] for point in points)
    for shown, test in zip(points, REPORT.test_points, strict=True):
        assert (shown["macs"], shown["top1"], tuple(shown["shares"])) == (test.macs, test.accuracy, test.exit_shares)
        back = [{"all": -math.inf, "closed": math.inf}.get(each, each) for each in shown["thresholds"]]
        assert tuple(back) == test.thresholds
        assert shown["band"] is None


def test_only_what_was_asked_for_is_shown(store: str, filled: list[RunRecord]) -> None:
    assert UiRuns(store, [filled[0].run_id]).content(filled[1].run_id) is None


def test_a_run_that_is_not_there_or_has_no_front(store: str, filled: list[RunRecord]) -> None:
    with pytest.raises(TrackingError) as none:
        UiRuns(store, ["f" * 32]).rows()
    assert str(none.value) == f"the run must be known to MLflow at {store}, got {'f' * 32!r}"
    bare = filled[2].run_id
    with pytest.raises(TrackingError) as without:
        UiRuns(store, [bare]).rows()
    assert str(without.value) == f"run {bare} must have a front, got none; dvt front {bare} makes it"


def test_a_folder_needs_no_mlflow(tmp_path: Path) -> None:
    root = tmp_path / "tiny-001"
    root.mkdir()
    (root / "recipe.yaml").write_text("")
    folder = find_past_run(str(root))
    assert folder is not None
    shown = UiRuns(None, folders=[FolderFront(folder)])
    (row,) = shown.rows()
    with pytest.raises(TrackingError) as without:
        shown.content(row["key"])
    assert str(without.value) == f"{root} must hold front/front.json, got none; dvt front {root} makes it"
    write(root / "front")
    (root / "finished.json").write_text(json.dumps({"model": "models:/dvt-tiny/3", "mlflow_run": "x"}))
    content = shown.content(row["key"])
    assert content is not None
    assert content["model"] == {"name": "dvt-tiny", "version": "3", "aliases": []}
    assert (content["level"], len(content["examples"]), content["options"]) == (0.95, 1, "")
    assert shown.content("x") is None


def test_a_front_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(TrackingError) as broken:
        front_content("{}", None, "here")
    assert str(broken.value).startswith("here must be readable, got ")
    assert str(broken.value).endswith("; measure it again by dvt front")
