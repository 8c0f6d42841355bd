"""What a person sees of a search: lines in a log, a table on a terminal, and what was found."""

import io

from rich.console import Console

from dvt.cli.search_progress import InheritedProgress, SearchProgress, print_search, told_cascade
from dvt.search.study import Candidate
from tests.unit.search.made_up import embedded, front_of, result_of, trials_of

FRONTS = [front_of((6e5, 0.70), (2e6, 0.90)), front_of((7e5, 0.72), (5e6, 0.97))]
METRICS = {"epoch": 2, "hypervolume": 0.25, "top1": 0.5, "cost": 1e6, "train_s": 3.0}


def candidates() -> list[Candidate]:
    return [Candidate(trial.number, trial.recipe, trial.params) for trial in trials_of(FRONTS)]


def go_through(progress: SearchProgress) -> None:
    first, second = candidates()
    progress.started(first)
    progress.measured(first, METRICS)
    progress.refused(7, "multiply-adds must be fewer")
    progress.started(second)
    progress.ended(second, "failed", "the disk was full")
    progress.ended(first, "finished", "")


def test_a_log_has_a_plain_line_for_each_event() -> None:
    console = Console(file=io.StringIO(), width=160)
    with SearchProgress.shown(console, "mine", embedded()) as progress:
        go_through(progress)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert lines[0] == "mine: trial 0: 2x2 4x4 7x7, features 3 3, maps 3<3 3<3"
    assert lines[1] == "mine: trial 0: epoch 2/16 · hypervolume 0.2500 · top-1 50.0 %"
    assert lines[2] == "mine: trial 7: not trained: multiply-adds must be fewer"
    assert lines[4] == "mine: trial 1: failed: the disk was full · 1 ended now"
    assert lines[5] == "mine: trial 0: finished · 2 ended now · best hypervolume 0.2500"


def test_a_terminal_has_a_table_that_lives() -> None:
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    with SearchProgress.shown(console, "mine", embedded()) as progress:
        go_through(progress)
    assert isinstance(console.file, io.StringIO)
    last = console.file.getvalue().rpartition("mine: 2 of 30 trials ended")[2]
    for told in ("finished", "failed", "0.2500", "the disk was full", "1 not trained, over a cap"):
        assert told in last


def test_what_was_found_is_told_at_budgets() -> None:
    console = Console(file=io.StringIO(), width=120)
    print_search(console, result_of(trials_of(FRONTS)))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "2 trials: 2 finished; 0 not trained, over a cap; 0.03 worker-hours" in text
    rows = [line for line in text.splitlines() if "%" in line]
    assert [row.count("97.00 %") for row in rows][-1] == 1  # each point once, however many budgets it is best at
    assert sum("97.00 %" in row for row in rows) == 1


def test_a_cascade_of_one_exit_reuses_nothing() -> None:
    config = embedded().cheapest()
    assert told_cascade(config) == "2x2"


def test_a_log_has_a_line_now_and_then_while_cascades_are_measured() -> None:
    console = Console(file=io.StringIO(), width=120)
    worse, better = (trial.epochs[-1] for trial in trials_of([front_of((2e6, 0.5)), FRONTS[0]]))
    with InheritedProgress.shown(console, "mine", 25, known=trials_of(FRONTS[:1])) as progress:
        for _ in range(4):
            progress.measured(worse)
        progress.failed(7, "an image is broken")
    assert isinstance(console.file, io.StringIO)
    best = f"best hypervolume {better.hypervolume:.4f}"
    told = [f"mine: {count} of 25 cascades measured · {best}" for count in (2, 4)]
    assert console.file.getvalue().splitlines() == [*told, "mine: cascade 7 is passed over: an image is broken"]
