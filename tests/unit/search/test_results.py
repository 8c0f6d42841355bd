"""The union of trials' fronts, worked by hand."""

from dataclasses import replace

from dvt.search.results import SearchResult, SharedResult
from tests.unit.search.made_up import embedded, front_of, result_of, trials_of


def places(result: SearchResult) -> list[tuple[int, float, float]]:
    return [(point.trial, point.macs, point.accuracy) for point in result.front]


def test_the_front_is_what_no_trial_beats_and_names_its_trials() -> None:
    first = front_of((6e5, 0.70), (2e6, 0.90), (9e6, 0.95))
    second = front_of((8e5, 0.75), (2e6, 0.88), (5e6, 0.95))
    result = result_of(trials_of([first, second]))
    assert places(result) == [(0, 6e5, 0.70), (1, 8e5, 0.75), (0, 2e6, 0.90), (1, 5e6, 0.95)]


def test_of_equal_points_the_first_trial_has_it() -> None:
    front = front_of((6e5, 0.7))
    assert places(result_of(trials_of([front, front]))) == [(0, 6e5, 0.7)]


def test_points_over_the_largest_budget_and_trials_that_were_stopped_do_not_count() -> None:
    over = embedded().budgets.high + 1
    trials = trials_of([front_of((6e5, 0.7), (over, 0.99)), front_of((7e5, 0.98))], ["finished", "stopped"])
    result = result_of(trials)
    assert places(result) == [(0, 6e5, 0.7)]
    assert result.best is trials[0]


def test_nothing_finished_is_no_front() -> None:
    result = result_of(trials_of([front_of((6e5, 0.7))], ["running"]))
    assert (result.front, result.best, result.finished) == ((), None, ())


def test_shared_weights_are_part_of_what_was_spent() -> None:
    trials = trials_of([front_of((6e5, 0.7)), front_of((7e5, 0.8))])
    alone = result_of(trials)
    assert alone.spent_s == 120
    shared = replace(alone, shared=SharedResult(embedded().base, trials[:1], train_s=30))
    assert shared.spent_s == 120 + 30 + 60
