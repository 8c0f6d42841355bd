"""What a line of progress tells of a row."""

import pytest

from dvt.cli.progress import Row, describe


@pytest.mark.parametrize(
    ("metrics", "told"),
    [
        ({"train/skipped_steps": 0.0, "train/num_stragglers": 0.0, "train/slowest_ratio": 1.2}, "loss 0.500"),
        ({"train/skipped_steps": 2.0}, "loss 0.500 · 2 steps without a finite loss skipped"),
        (
            {"train/num_stragglers": 1.0, "train/slowest_rank": 3.0, "train/slowest_ratio": 2.04},
            "loss 0.500 · worker 3 takes 2.0 times the median worker's time",
        ),
    ],
)
def test_what_is_amiss_is_told(metrics: dict[str, float], told: str) -> None:
    assert describe(Row(8, {"train/loss": 0.5, **metrics})) == told
