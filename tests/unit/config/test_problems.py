"""Problems: sentences below a parent, collected and raised once, and able to leave a worker."""

import pickle

import pytest

from dvt.config import ConfigError, Problem, Rules


def test_a_problem_is_a_sentence() -> None:
    assert str(Problem("epochs", "must be at least 1, got 0")) == "epochs must be at least 1, got 0"


def test_a_problem_moves_below_a_parent() -> None:
    problem = Problem("epochs", "must be at least 1, got 0")
    assert problem.below("optimizer").path == "optimizer.epochs"
    assert problem.below("") == problem


def test_an_error_holds_every_problem_a_line_each() -> None:
    problems = (Problem("a", "must be 1, got 2"), Problem("b", "must be given"))
    error = ConfigError(iter(problems))
    assert error.problems == problems
    assert str(error) == "a must be 1, got 2\nb must be given"
    assert isinstance(error, ValueError)


def test_an_error_survives_a_pickle() -> None:
    error = ConfigError([Problem("a", "must be 1, got 2"), Problem("b", "must be given")])
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301  the test's own bytes
    assert type(copy) is ConfigError
    assert copy.problems == error.problems
    assert str(copy) == str(error)


def test_rules_that_hold_raise_nothing() -> None:
    rules = Rules()
    rules.require(True, "a", "must be so")
    rules.at_least("b", 1, 1)
    rules.above("c", 1.5, 1)
    rules.between("d", 0, 0, 1)
    rules.enforce()


def test_values_are_told_as_they_are() -> None:
    rules = Rules()
    rules.at_least("a", -12345678, 1)
    rules.between("b", 1.0000001, 0, 1)  # `1` would be no broken rule
    rules.above("c", float("nan"), 0)
    with pytest.raises(ConfigError) as caught:
        rules.enforce()
    assert str(caught.value).splitlines() == [
        "a must be at least 1, got -12345678",
        "b must be from 0 to 1, got 1.0000001",
        "c must be greater than 0, got nan",
    ]
