"""What the controller does where its sink refuses: the run ends with the sink's sentence, and can be gone on with."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from fsspec.implementations.local import LocalFileSystem

from dvt.train.cost import CostMeter
from dvt.train.errors import TrainingError
from dvt.train.past_run import ROWS
from dvt.train.ray_report import Row
from dvt.train.ray_train import _SinkCallback
from dvt.train.storage import RunFolder
from tests.unit.train.tiny import RECIPE


class Refusing:
    """A sink whose disk is full."""

    def log_metrics(self, metrics: Mapping[str, float], step: int, time_ms: int | None = None) -> None:
        raise RuntimeError("where metrics wait must be a file that can be written; free the disk")

    def close(self) -> None:
        """Nothing is open."""


def test_what_a_sink_refuses_ends_the_run_in_its_words(tmp_path: Path) -> None:
    folder = RunFolder(LocalFileSystem(), str(tmp_path), "run")
    callback = _SinkCallback(Refusing, CostMeter.of(RECIPE, folder), folder)
    row = Row(metrics={"train/loss": 1.0}, step=1, time_ms=1)
    with pytest.raises(TrainingError) as told:
        callback.after_report(None, [{ROWS: [row]}], None)
    assert str(told.value) == (
        "where metrics wait must be a file that can be written; free the disk; run the same command again to go on "
        "from the last checkpoint"
    )
