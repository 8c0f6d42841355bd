"""What a search tells Prometheus, also when it goes on."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from dvt.search.ray_metrics import SearchGauges
from dvt.search.study import Candidate
from dvt.train.ray_metrics import HeldGauges
from tests.unit.search.made_up import front_of, trials_of


class Held(HeldGauges):
    """The last value of each gauge, by name and, of trials, by state."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def hold(self, name: str, value: float, tags: Mapping[str, str]) -> None:
        assert tags["search"] == "mine"
        self.values[name.removeprefix("dvt_search_") + "".join(f" {tags[key]}" for key in tags if key == "state")] = (
            value
        )


def states(held: Held) -> dict[str, float]:
    names = ("running", "finished", "stopped", "failed")
    return {name: value for name in names if (value := held.values[f"trials {name}"])}


def test_trials_are_counted_by_state_and_the_best_is_told() -> None:
    first, second = (
        Candidate(trial.number, trial.recipe, trial.params)
        for trial in trials_of([front_of((1e6, 0.5)), front_of((1e6, 0.6))])
    )
    held = Held()
    gauges = SearchGauges("mine", (), held)
    assert states(held) == {}
    assert "best_hypervolume" not in held.values
    gauges.started(first)
    gauges.started(second)
    gauges.measured(first, {"epoch": 1, "hypervolume": 0.5, "top1": 0.75})
    gauges.measured(first, {"epoch": 2, "hypervolume": 0.25, "top1": 0.5})
    assert states(held) == {"running": 2}
    gauges.ended(first, "finished", "")
    gauges.ended(second, "failed", "the disk was full")
    assert states(held) == {"finished": 1, "failed": 1}
    # What counts of a trial is what it is worth now: it got worse.
    assert held.values["best_hypervolume"] == 0.25
    assert held.values["best_top1"] == 0.75
    assert held.values["epochs"] == 2


def test_a_search_that_goes_on_counts_what_it_found_before() -> None:
    trials = trials_of([front_of((6e5, 0.70), (2e6, 0.90)), front_of((7e5, 0.72)), front_of((7e5, 0.99))])
    known = [trials[0], replace(trials[1], state="stopped"), replace(trials[2], state="running")]
    held = Held()
    gauges = SearchGauges("mine", known, held)
    assert states(held) == {"finished": 1, "stopped": 1}
    assert held.values["best_hypervolume"] == pytest.approx(max(t.epochs[-1].hypervolume for t in trials[:2]))
    gauges.started(Candidate(trials[2].number, trials[2].recipe, trials[2].params))
    assert states(held) == {"finished": 1, "stopped": 1, "running": 1}
