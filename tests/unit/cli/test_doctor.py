"""`dvt doctor`: what it refuses before it looks at a cluster."""

import pytest

from dvt.cli.main import main


def test_bad_options_are_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--min-free-gib", "-1", "--timeout", "nan"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "dvt: --min-free-gib must be at least 0, got -1",
        "dvt: --timeout must be at least 0, got nan",
    ]


def test_a_field_that_is_none_of_the_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--cluster.num-wrokers", "2"]) == 2
    assert "cluster.num_wrokers" in capsys.readouterr().err
