"""The torture in short; `python -m tests.torture` kills fifty times."""

from pathlib import Path

from tests.torture import STEPS_PER_EPOCH, torture


def test_a_run_that_is_killed_at_random_moments_ends_as_undisturbed(tmp_path: Path) -> None:
    found = torture(tmp_path, num_kills=3, seed=1, epochs=10)
    assert found.kills
    assert found.steps == 10 * STEPS_PER_EPOCH
    assert found.is_equal
