"""Two real processes, joined by gloo, train as one with batches twice as large does."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import dvt
from dvt.train.checkpoint import load_model
from dvt.train.loop import train_cascade
from tests.unit.train.one_of_two import ONE, SLOW_RANK, train
from tests.unit.train.tiny import WORKER, MemoryReporter, make_data

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("two")
    environment = {**os.environ, "PYTHONPATH": str(Path(dvt.__file__).parent.parent)}
    command = [sys.executable, "-m", "tests.unit.train.one_of_two", "1", str(folder)]
    with subprocess.Popen(command, cwd=ROOT, env=environment) as other:
        try:
            train(0, folder)
            assert other.wait(60) == 0
        finally:
            other.kill()
    return folder


def told_by(folder: Path, rank: int) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((folder / f"rows_{rank}.json").read_text())
    return told


def test_only_the_first_hands_over_checkpoints(folder: Path) -> None:
    for rank, checkpoint_steps in ((0, {3, 6}), (1, set())):
        rows = told_by(folder, rank)["rows"]
        assert [row[:2] for row in rows] == [[step, step in checkpoint_steps] for step in range(1, 7)]
    assert not (folder / "runs_1").exists()


def test_both_tell_the_same_sums(folder: Path) -> None:
    first, second = (told_by(folder, rank)["rows"] for rank in (0, 1))
    for (_, _, one), (_, _, other) in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for name in one.keys() - {"train/images_per_s", "train/data_wait_s"}:
            assert one[name] == other[name], name


def test_they_train_as_one_worker_with_twice_the_batch(folder: Path, tmp_path: Path) -> None:
    reporter = MemoryReporter(tmp_path)
    train_cascade(ONE, make_data(num_train=48), WORKER, reporter)
    rows = told_by(folder, 0)["rows"]
    for (step, _, metrics), row in zip(rows, reporter.rows, strict=True):
        assert step == row.step
        for name in ("train/loss", "train/exit_1/loss", "train/exit_2/top1", "train/lr"):
            assert metrics[name] == pytest.approx(row.metrics[name], rel=1e-4), name
    both = [load_model(path / "checkpoint_000006").state_dict() for path in (folder / "runs_0", tmp_path)]
    for name, tensor in both[0].items():
        torch.testing.assert_close(tensor, both[1][name], rtol=1e-3, atol=1e-4, msg=name)


def test_each_knows_the_files_that_any_skipped(folder: Path) -> None:
    first, second = (told_by(folder, rank)["told"] for rank in (0, 1))
    assert first == second
    assert first.startswith("16 of 48 training images (33.33%) could not be read, ")  # eight of each, in the first step


def test_the_time_in_which_one_waits_for_the_other_is_not_its_own(folder: Path) -> None:
    rows = [metrics for _, _, metrics in told_by(folder, 0)["paces"]][2:]  # once, DDP's buckets are agreed on
    assert [metrics["train/slowest_rank"] for metrics in rows] == [SLOW_RANK] * 4
    assert all(metrics["train/slowest_ratio"] > 1.5 for metrics in rows), rows
    assert rows[-1]["train/num_stragglers"] == 1
