"""The folder of a batch job: of one job alone, parts whole or not there, counted at the end."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from dvt.config import ConfigError
from dvt.exits import PLAIN
from dvt.serving.batch_output import (
    BatchJob,
    Counts,
    begin,
    finish,
    kept_work,
    missing_pieces,
    open_output,
    read_counts,
    write_part,
)
from dvt.serving.batch_work import Piece, Work
from dvt.serving.prediction import Prediction, predictions_table

JOB = BatchJob(
    input="images",
    format=None,
    image_column="image",
    keep_columns=(),
    part_size=1,
    model="models:/m@champion",
    model_version="3",
    model_digest="0123456789abcdef",
    thresholds=(0.5, float("-inf")),
    confidence=PLAIN,
)
WORK = Work("folder", tuple(Piece(number, (f"{number}.png",), num_images=1) for number in range(3)), pa.schema([]))
COUNTS = Counts((1, 0), 0)


def table(name: str) -> pa.Table:
    return predictions_table([Prediction(name, label=2)])


def refused(folder: Path, job: BatchJob = JOB) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        kept_work(open_output(str(folder)), job)
    return list(map(str, caught.value.problems))


def test_counts_by_hand() -> None:
    counts = Counts.of_exits([1, 2, 2, None], 3)
    assert counts == Counts((1, 2, 0), 1)
    assert counts.num_images == 4
    assert Counts.total([counts, Counts((0, 1, 5), 2)], 3) == Counts((1, 3, 5), 3)
    assert Counts.total([], 2) == Counts((0, 0), 0)


def test_a_job_goes_on_with_what_it_was_begun_with(tmp_path: Path) -> None:
    folder = open_output(str(tmp_path / "new"))
    assert kept_work(folder, JOB) is None
    begin(folder, JOB, WORK)
    # Another name for the same model is the same job.
    assert kept_work(folder, replace(JOB, model="models:/m/3", model_version=None)) == WORK
    assert missing_pieces(folder, WORK) == list(WORK.pieces)
    write_part(folder, 1, table("b"), Counts((0, 1), 0))
    assert missing_pieces(folder, WORK) == [WORK.pieces[0], WORK.pieces[2]]
    assert read_counts(folder, WORK.pieces[1:2]) == [Counts((0, 1), 0)]
    assert not (tmp_path / "new" / "_manifest.json").exists()


def test_a_list_without_its_job_is_written_anew(tmp_path: Path) -> None:
    folder = open_output(str(tmp_path))
    begin(folder, JOB, WORK)
    (tmp_path / "_job.json").unlink()  # as if killed in between
    assert kept_work(folder, JOB) is None


def test_a_part_that_was_not_finished_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = open_output(str(tmp_path))
    begin(folder, JOB, WORK)

    def killed(self: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            write_part(folder, 0, table("a"), COUNTS)
    assert [path.name for path in tmp_path.glob(".part-00000.parquet.*.partial")] != []
    assert missing_pieces(folder, WORK) == list(WORK.pieces)
    for number in range(3):
        write_part(folder, number, table(f"{number}"), COUNTS)
    finish(folder, JOB, WORK, Counts((3, 0), 0), (10.0, 20.0))
    names = ["_job.json", "_listing.parquet", "_manifest.json", *(f"part-0000{number}.parquet" for number in range(3))]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    # Readers of folders pass over all but the parts.
    assert list(pd.read_parquet(tmp_path).image) == ["0", "1", "2"]


def test_the_manifest_tells_what_it_came_to(tmp_path: Path) -> None:
    folder = open_output(str(tmp_path))
    finish(folder, JOB, WORK, Counts((3, 1), 2), (10.0, 30.0))
    assert json.loads((tmp_path / "_manifest.json").read_text()) == {
        "num_parts": 3,
        "num_images": 6,
        "num_failed": 2,
        "mean_macs": 15.0,
        "exits": [
            {"exit_index": 1, "macs": 10.0, "num_images": 3, "share": 0.75},
            {"exit_index": 2, "macs": 30.0, "num_images": 1, "share": 0.25},
        ],
        "job": {
            "input": "images",
            "format": "folder",
            "image_column": "image",
            "keep_columns": [],
            "part_size": 1,
            "model": "models:/m@champion",
            "model_version": "3",
            "model_digest": "0123456789abcdef",
            "thresholds": [0.5, "-inf"],
            "confidence": {"measure": "max_probability", "temperatures": []},
        },
    }


def test_another_job_is_refused_in_a_sentence(tmp_path: Path) -> None:
    begin(open_output(str(tmp_path)), JOB, WORK)
    rule = f"--output must be an empty folder or one of the same job, got {tmp_path}, of a job with"
    advice = "; choose another folder"
    dearer = replace(JOB, thresholds=(0.75, float("-inf")))
    assert refused(tmp_path, dearer) == [f"{rule} thresholds [0.5, '-inf'], not [0.75, '-inf']{advice}"]
    assert refused(tmp_path, replace(JOB, input="others")) == [f"{rule} input images, not others{advice}"]
    moved = replace(JOB, model_version="4", model_digest="fedcba9876543210")
    told = "models:/m@champion (version 3), 01234567, not models:/m@champion (version 4), fedcba98"
    assert refused(tmp_path, moved) == [f"{rule} model {told}{advice}"]


def test_a_folder_of_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "part-00000.parquet").touch()
    (told,) = refused(tmp_path)
    assert told == (
        f"--output must be an empty folder or one of the same job, got {tmp_path}, which holds part-00000.parquet; "
        "choose another folder"
    )


def test_what_cannot_be_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="--output must be a folder or s3:// address that can be written, got "):
        open_output(str(tmp_path / "file"))
