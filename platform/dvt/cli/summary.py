"""What a person sees when a run is done: the exits and the budgets as one table, and where everything is."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from dvt.config import CascadeConfig
from dvt.exits import FrontReport
from dvt.models import macs_per_exit
from dvt.models.told_amounts import told_macs


def print_report(console: Console, report: FrontReport) -> None:
    """One row an exit: tokens, cumulative cost, accuracy, and the share of test images leaving there at each budget."""
    table = Table(title=f"dvt-{report.recipe} on the test images", title_justify="left")
    for name in ("exit", "tokens", "cumulative MACs", "top-1"):
        table.add_column(name, justify="right")
    for budget in report.budgets:
        table.add_column(f"leave at\n{told_macs(budget.budget_macs)}", justify="right")
    for index, row in enumerate(report.exits):
        shares = [f"{100 * budget.test.exit_shares[index]:.1f} %" for budget in report.budgets]
        tokens = f"{row.token_grid}x{row.token_grid}"
        table.add_row(str(row.exit_index), tokens, told_macs(row.macs), f"{100 * row.test_top1:.2f} %", *shares)
    table.add_section()
    spent = [told_macs(budget.test.macs) for budget in report.budgets]
    reached = [f"{100 * budget.test.accuracy:.2f} %" for budget in report.budgets]
    table.add_row("", "", "", "mean MACs", *spent)
    table.add_row("", "", "", "top-1", *reached)
    if report.static_reference is not None:
        static = report.static_reference
        table.add_section()
        tokens = f"{static.token_grid}x{static.token_grid}"
        table.add_row("static", tokens, told_macs(static.macs), f"{100 * static.test_top1:.2f} %")
    console.print(table)
    for line in _told_choices(report):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _told_choices(report: FrontReport) -> list[str]:
    """What images leave by, how optimistic the front is, and what is promised."""
    lines = [
        f"confidence  {report.confidence.name.replace('_', ' ')}",
        f"optimism    {100 * report.front_optimism:+.2f} points of top-1, calibration images over test images",
    ]
    if report.guarantee is not None:
        promise, test = report.guarantee.promise, report.guarantee.test
        lost = 100 * (report.exits[-1].test_top1 - test.accuracy)
        lines.append(
            f"guarantee   at most {100 * promise.tolerated_loss:g} points below the last exit, "
            f"{100 * promise.level:g} % sure: {told_macs(promise.macs)} mean MACs; "
            f"on the test images {lost:.2f} points below at {told_macs(test.macs)}"
        )
    return lines


def print_exits(console: Console, title: str, config: CascadeConfig, published_top1: Sequence[float]) -> None:
    """One row an exit of a model that was not measured here: tokens, cumulative cost, and what its file says of it."""
    table = Table(title=title, title_justify="left")
    for name in ("exit", "tokens", "cumulative MACs", *(["top-1 as published"] if published_top1 else [])):
        table.add_column(name, justify="right")
    for index, (grid, macs) in enumerate(zip(config.token_grids, macs_per_exit(config), strict=True)):
        told = [f"{100 * published_top1[index]:.2f} %"] if published_top1 else []
        table.add_row(str(index + 1), f"{grid}x{grid}", told_macs(macs), *told)
    console.print(table)


def print_places(console: Console, places: Mapping[str, str]) -> None:
    """One line a place, never broken, so that it can be copied."""
    width = max(map(len, places))
    for name, place in places.items():
        console.print(f"{name:{width}}  {place}", soft_wrap=True, highlight=False, markup=False)
