"""What a person sees while a search runs: a live table of trials on a terminal, plain lines in a log."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.live import Live
from rich.table import Table

from dvt.config import CascadeConfig
from dvt.models.told_amounts import told_macs
from dvt.search.objective import EpochFront
from dvt.search.results import SearchResult, TrialResult, UnionPoint
from dvt.search.space import Space
from dvt.search.study import Candidate

_LINES = 10  # while cascades are measured with inherited weights
_MOST_ROWS = 16  # of trials that ended, the best ones; more would leave the screen


@dataclass
class _Row:
    """What is shown of a trial."""

    candidate: Candidate
    state: str = "starting"
    epoch: int = 0
    hypervolume: float | None = None
    top1: float = 0.0
    train_s: float = 0.0
    why: str = ""


class SearchProgress:
    """Shows how a search goes; a `SearchObserver`.

    Args:
        console: Where a person reads along.
        title: The search's name.
        space: What is searched.
        live: The table on a terminal; None in a log.
    """

    def __init__(self, console: Console, title: str, space: Space, live: Live | None) -> None:
        self._console, self._title, self._space, self._live = console, title, space, live
        self._rows: dict[int, _Row] = {}
        self._num_refused = 0
        self._begun = time.monotonic()

    @classmethod
    @contextmanager
    def shown(cls, console: Console, title: str, space: Space) -> Iterator["SearchProgress"]:
        """Show a search while the context lasts."""
        if not console.is_terminal:
            yield cls(console, title, space, None)
            return
        with Live(console=console, refresh_per_second=2) as live:
            yield cls(console, title, space, live)

    def started(self, candidate: Candidate) -> None:
        """A trial begins, or goes on."""
        self._rows[candidate.number] = _Row(candidate)
        self._tell(f"trial {candidate.number}: {told_cascade(candidate.recipe.cascade)}")

    def measured(self, candidate: Candidate, metrics: Mapping[str, float]) -> None:
        """A trial ended an epoch."""
        row = self._rows[candidate.number]
        row.state, row.epoch, row.hypervolume = "running", int(metrics["epoch"]), metrics["hypervolume"]
        row.top1, row.train_s = metrics["top1"], metrics["train_s"]
        self._tell(
            f"trial {candidate.number}: epoch {row.epoch}/{self._num_epochs} · hypervolume {row.hypervolume:.4f} · "
            f"top-1 {100 * row.top1:.1f} %"
        )

    def ended(self, candidate: Candidate, state: str, why: str) -> None:
        """A trial was finished, stopped early, or has failed."""
        row = self._rows[candidate.number]
        row.state, row.why = state, why
        ended = [each for each in self._rows.values() if each.state in ("finished", "stopped", "failed")]
        finished = [each.hypervolume for each in ended if each.state == "finished" and each.hypervolume is not None]
        best = f" · best hypervolume {max(finished):.4f}" if finished else ""
        self._tell(f"trial {candidate.number}: {state}{': ' * bool(why)}{why} · {len(ended)} ended now{best}")

    def refused(self, number: int, why: str) -> None:
        """An illegal candidate is not trained."""
        self._num_refused += 1
        self._tell(f"trial {number}: not trained: {why}")

    @property
    def _num_epochs(self) -> int:
        return self._space.base.optimizer.total_epochs

    def _tell(self, line: str) -> None:
        if self._live is None:
            self._console.print(f"{self._title}: {line}", highlight=False, soft_wrap=True, markup=False)
        else:
            self._live.update(self._table())

    def _table(self) -> Table:
        """The trials that run, then the best of those that ended."""
        minutes = (time.monotonic() - self._begun) / 60
        running = [row for row in self._rows.values() if row.state in ("starting", "running")]
        others = [row for row in self._rows.values() if row not in running]
        ended = sorted(others, key=lambda row: -(row.hypervolume or 0))
        table = Table(
            title=f"{self._title}: {len(ended)} of {self._space.search.num_trials} trials ended, {minutes:.0f} min",
            title_justify="left",
        )
        for name in ("trial", "state", "epoch", "hypervolume", "top-1", "cascade"):
            table.add_column(name, justify="left" if name in ("state", "cascade") else "right")
        for row in running:
            table.add_row(*self._cells(row))
        table.add_section()
        for row in ended[:_MOST_ROWS]:
            table.add_row(*self._cells(row))
        hidden = len(ended) - _MOST_ROWS
        told = [f"{hidden} more ended"] if hidden > 0 else []
        told += [f"{self._num_refused} not trained, over a cap"] if self._num_refused else []
        table.caption = "; ".join(told) or None
        return table

    def _cells(self, row: _Row) -> list[str]:
        measured = row.hypervolume is not None
        return [
            str(row.candidate.number),
            row.state,
            f"{row.epoch}/{self._num_epochs}",
            f"{row.hypervolume:.4f}" if measured else "-",
            f"{100 * row.top1:.1f} %" if measured else "-",
            row.why or told_cascade(row.candidate.recipe.cascade),
        ]


class InheritedProgress:
    """Shows how many cascades are measured with inherited weights; a `MeasureObserver`.

    Args:
        tell: Shows a line, in place of the one before on a terminal.
        total: How many are to be measured.
        known: Those that an earlier try measured.
    """

    def __init__(self, tell: Callable[[str], None], total: int, known: Sequence[TrialResult] = ()) -> None:
        self._tell, self._total, self._count = tell, total, len(known)
        self._best = max((trial.epochs[-1].hypervolume for trial in known), default=0.0)

    @classmethod
    @contextmanager
    def shown(
        cls, console: Console, title: str, total: int, known: Sequence[TrialResult] = ()
    ) -> Iterator["InheritedProgress"]:
        """Show it while the context lasts: a line that changes on a terminal, a line now and then in a log."""
        if console.is_terminal:
            with console.status(f"{title}: measuring cascades with shared weights") as status:
                yield cls(lambda line: status.update(f"{title}: {line}"), total, known)
        else:
            yield cls(lambda line: console.print(f"{title}: {line}", highlight=False, soft_wrap=True), total, known)

    def failed(self, number: int, why: str) -> None:
        """A cascade could not be measured."""
        self._tell(f"cascade {number} is passed over: {why}")

    def measured(self, measured: EpochFront) -> None:
        """One more is measured."""
        self._count += 1
        self._best = max(self._best, measured.hypervolume)
        if self._count % max(1, self._total // _LINES) == 0:
            self._tell(f"{self._count} of {self._total} cascades measured · best hypervolume {self._best:.4f}")


def told_cascade(config: CascadeConfig) -> str:
    """A cascade in a few words: its grids, and how many blocks of each later stage reuse features and maps."""
    grids = " ".join(f"{grid}x{grid}" for grid in config.token_grids)
    reuses = [config.reuse(index) for index in range(1, config.num_exits)]
    if not reuses:
        return grids
    features = " ".join(str(reuse.feature_depth) for reuse in reuses)
    maps = " ".join(
        f"{reuse.relation_depth}<{reuse.relation_upstream_depth}" if reuse.relation_depth else "0" for reuse in reuses
    )
    return f"{grids}, features {features}, maps {maps}"


def print_search(console: Console, result: SearchResult) -> None:
    """What a search found: how its trials ended, and the front at a few budgets."""
    states = [trial.state for trial in result.trials]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    hours = result.spent_s / 3600
    shared = f"{len(result.shared.inherited)} cascades measured with shared weights; " if result.shared else ""
    console.print(
        f"{shared}{len(states)} trials: {counts or 'none'}; {len(result.refused)} not trained, over a cap; "
        f"{hours:.2f} worker-hours",
        highlight=False,
        soft_wrap=True,
    )
    unit = result.budgets.unit
    table = Table(title=f"{result.name}: the front on validation images", title_justify="left")
    for name in ("within", "mean cost", "top-1", "trial"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("cascade")
    shown: list[UnionPoint] = []
    by_number = {trial.number: trial for trial in result.trials}
    for budget in _some_budgets(result.budgets.low, result.budgets.high):
        points = [point for point in result.front if point.macs <= budget]
        if points and points[-1] not in shown:
            best = points[-1]
            shown.append(best)
            told = told_cascade(by_number[best.trial].recipe.cascade)
            cost, within = told_cost(best.macs, unit), told_cost(budget, unit)
            table.add_row(within, cost, f"{100 * best.accuracy:.2f} %", str(best.trial), told)
    console.print(table)


def told_cost(cost: float, unit: str) -> str:
    """A cost in the unit of budgets."""
    return told_macs(cost) if unit == "macs" else f"{cost:.3g} ms"


def _some_budgets(low: float, high: float) -> list[float]:
    steps = 6
    return [low * (high / low) ** (step / steps) for step in range(steps + 1)]
