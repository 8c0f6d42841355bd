"""The profile of training steps: which are in it, where it goes, and that it changes nothing."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest

from dvt.train.loop import train_cascade
from dvt.train.trace import NUM_BEFORE, TRACE, StepTrace
from tests.unit.train.tiny import RECIPE, WORKER, MemoryReporter, change, make_data


def last_weights(folder: Path) -> bytes:
    return (folder / "checkpoint_000012" / "model.safetensors").read_bytes()


# Of the twelve steps of the run; the last one that is begun is its end.
@pytest.mark.parametrize(("asked", "recorded"), [(1, [10]), (20, [10, 11, 12])])
def test_steps_are_recorded_after_ten_others(tmp_path: Path, asked: int, recorded: list[int]) -> None:
    plain, traced = MemoryReporter(tmp_path / "plain"), MemoryReporter(tmp_path / "traced")
    train_cascade(RECIPE, make_data(), WORKER, plain)
    train_cascade(change(RECIPE, train={"trace_steps": asked}), make_data(), WORKER, traced)
    with gzip.open(tmp_path / "traced" / TRACE / "trace.json.gz") as file:
        events = json.load(file)["traceEvents"]
    steps = {name for event in events if (name := str(event.get("name", ""))).startswith("ProfilerStep#")}
    assert steps == {f"ProfilerStep#{step}" for step in recorded}
    assert "aten::" in (tmp_path / "traced" / TRACE / "operators.txt").read_text()
    assert last_weights(tmp_path / "traced") == last_weights(tmp_path / "plain")
    assert not (tmp_path / "plain" / TRACE).exists()


def test_other_workers_record_nothing() -> None:
    with StepTrace(2, replace(WORKER, rank=1), lambda place: pytest.fail(f"{place} must not be kept")) as trace:
        for _ in range(NUM_BEFORE + 5):
            trace.stepped()
