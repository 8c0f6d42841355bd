"""The pictures of a search: what is drawn where, and that one with hardly a trial can be drawn too."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dvt.search import BudgetRange
from dvt.search.results import SearchResult, TrialState
from dvt.tracking.search_plots import draw_hypervolume, draw_importances, draw_parallel, draw_search_front
from tests.unit.search.made_up import front_of, result_of, trials_of

FRONTS = [
    front_of((6e5, 0.70), (2e6, 0.90)),
    front_of((8e5, 0.60)),
    front_of((7e5, 0.72), (5e6, 0.97)),
    front_of((6.5e5, 0.71)),
    front_of((9e5, 0.99)),
]
STATES: list[TrialState] = ["finished", "finished", "finished", "finished", "stopped"]
DRAWS = [draw_search_front, draw_hypervolume, draw_importances, draw_parallel]


def searched(states: Sequence[TrialState] = STATES, reference: int | None = 0) -> SearchResult:
    return result_of(trials_of(FRONTS[: len(states)], states) if states else (), reference)


def with_values(values: Sequence[float], states: Sequence[TrialState]) -> SearchResult:
    """Trials of a minute each with these hypervolumes."""
    pairs = zip(trials_of([FRONTS[0]] * len(values), states), values, strict=True)
    return result_of(
        tuple(replace(trial, epochs=(replace(trial.epochs[0], hypervolume=value),)) for trial, value in pairs)
    )


def axes_of(figure: Figure) -> Axes:
    (axes,) = figure.axes
    return axes


def texts(figure: Figure) -> set[str]:
    legend = {text.get_text() for legend in figure.legends for text in legend.get_texts()}
    return {text.get_text() for text in axes_of(figure).texts} | legend


def line_of(figure: Figure, label: str) -> Line2D:
    (line,) = (line for line in axes_of(figure).lines if line.get_label() == label)
    return line


def places_of(line: Line2D) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)]


def test_the_front_is_drawn_over_the_first_points() -> None:
    figure = draw_search_front(searched())
    drawn = texts(figure)
    assert {"the search's front", "first point (trial 0)", "other trials", "0", "2", "0.6 M", "12 M"} <= drawn
    assert "3" not in drawn  # it takes over right beside trial 2: its number would touch
    assert axes_of(figure).get_xscale() == "log"
    front = [(0.6, 70), (0.65, 71), (0.7, 72), (2, 90), (5, 97), (12, 97)]
    assert places_of(line_of(figure, "the search's front")) == [pytest.approx(place) for place in front]
    first = [(0.6, 70), (2, 90), (12, 90)]
    assert places_of(line_of(figure, "first point (trial 0)")) == [pytest.approx(place) for place in first]


def test_a_trial_is_named_where_it_leads_longest() -> None:
    figure = draw_search_front(searched())
    places = {text.get_text(): text.xy for text in axes_of(figure).texts if hasattr(text, "xy")}
    assert places["0"] == pytest.approx((2, 90))  # from 2 M to 5 M; from 0.6 M to 0.65 M is less, in log cost
    assert places["2"] == pytest.approx((0.7, 72))  # from 0.7 M to 2 M; from 5 M to 12 M is less


def test_points_beyond_the_largest_budget_are_not_drawn() -> None:
    figure = draw_search_front(result_of(trials_of([front_of((6e5, 0.5), (2e7, 0.9))])))
    assert places_of(line_of(figure, "the search's front")) == [pytest.approx((0.6, 50)), pytest.approx((12, 50))]
    assert axes_of(figure).get_ylim()[1] < 60


def test_milliseconds_are_told_as_such() -> None:
    result = replace(result_of(trials_of([front_of((0.5, 0.7), (2, 0.9))])), budgets=BudgetRange(min_ms=0.4, max_ms=9))
    figure = draw_search_front(result)
    assert axes_of(figure).get_xlabel() == "mean time per image [ms]"
    assert {"0.4 ms", "9 ms"} <= texts(figure)


@pytest.mark.parametrize(("scale", "unit"), [(1e-3, "K"), (1, "M"), (1e3, "G")])
def test_multiply_adds_have_the_unit_of_other_pictures(scale: float, unit: str) -> None:
    budgets = BudgetRange(min_macs=6e5 * scale, max_macs=12e6 * scale)
    result = replace(result_of(trials_of([front_of((6e5 * scale, 0.7))])), budgets=budgets)
    assert axes_of(draw_search_front(result)).get_xlabel() == f"mean multiply-adds per image [{unit}]"


def test_stopped_trials_are_part_of_what_was_spent() -> None:
    figure = draw_hypervolume(searched())
    assert {"finished trials", "stopped trials", "best finished so far", "first point"} <= texts(figure)
    best = places_of(line_of(figure, "best finished so far"))
    assert best[-1][0] == pytest.approx(5 * 60 / 3600)  # of all five, the last of which was stopped


def test_the_best_so_far_of_finished_trials_and_of_any() -> None:
    figure = draw_hypervolume(with_values([0.5, 0.2, 0.4, 0.3], ["stopped", "finished", "running", "finished"]))
    minutes = [1, 2, 3, 4]
    finished = zip(minutes[1:], [20, 20, 30], strict=True)
    assert places_of(line_of(figure, "best finished so far")) == [pytest.approx((m / 60, v)) for m, v in finished]
    assert places_of(line_of(figure, "best of any so far")) == [pytest.approx((m / 60, 50)) for m in minutes]
    assert {"running trials", "stopped trials", "finished trials"} <= texts(figure)


def test_the_best_of_any_is_left_out_where_it_is_a_finished_one() -> None:
    assert "best of any so far" not in texts(draw_hypervolume(with_values([0.5, 0.4], ["finished", "stopped"])))


def test_hypervolumes_of_nothing_have_an_axis() -> None:
    bottom, top = axes_of(draw_hypervolume(with_values([0.0, 0.0], ["finished"] * 2))).get_ylim()
    assert bottom <= 0 < 1 <= top


def test_the_bars_are_percents_of_what_is_explained() -> None:
    figure = draw_importances(with_values([0.1, 0.3, 0.2, 0.5, 0.4], ["finished"] * 5))
    widths = [bar.get_width() for bar in axes_of(figure).patches]
    assert sum(widths) == pytest.approx(100)
    assert widths == sorted(widths)  # the largest stands on top


def test_parallel_lines_end_at_their_hypervolume() -> None:
    figure = draw_parallel(with_values([0.1, 0.5, 0.3], ["finished"] * 3))
    ends = sorted(float(line.get_ydata()[-1]) for line in axes_of(figure).lines)
    assert ends == pytest.approx([0, 0.5, 1])
    assert {"hyper-\nvolume", "optimizer.\nlr", "0.1", "0.5"} <= texts(figure)


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("states", [[], ["finished"], ["running", "failed"]])
def test_hardly_any_trials_can_be_drawn(draw: Callable[[SearchResult], Figure], states: list[TrialState]) -> None:
    assert isinstance(draw(searched(states, None)), Figure)


@pytest.mark.parametrize("draw", DRAWS)
def test_failures_before_the_first_epoch_can_be_drawn(draw: Callable[[SearchResult], Figure]) -> None:
    trials = tuple(replace(trial, epochs=()) for trial in trials_of(FRONTS, ["failed"] * 5))
    (told,) = texts(draw(result_of(trials)))
    assert told.startswith(("no trial", "too few trials"))


def test_a_front_beyond_all_budgets_says_so() -> None:
    told = texts(draw_search_front(result_of(trials_of([front_of((2e7, 0.9))]))))
    assert told == {"no trial that was trained to the end has a point within the largest budget"}
