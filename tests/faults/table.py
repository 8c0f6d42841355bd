"""The table of faults: what each cost, and whether the run ended as an undisturbed one."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

# How far final metrics may be from an undisturbed run's, by a part of their names; others must be equal.
BOUNDS = {"train/loss": 0.05, "top1": 0.02}


@dataclass(frozen=True)
class Difference:
    """How far a run's final metrics are from an undisturbed run's.

    Attributes:
        largest: Of any metric.
        bound: Of that metric.
        is_within: Whether each metric is within its bound.
    """

    largest: float
    bound: float
    is_within: bool


@dataclass(frozen=True)
class Measured:
    """A row.

    Attributes:
        fault: Its name.
        recover_s: Longest time without a training step after it, in seconds.
        steps_lost: Steps taken again.
        difference: From the undisturbed run's final metrics.
        remark: What was done.
        results: The final metrics.
    """

    fault: str
    recover_s: float
    steps_lost: int
    difference: Difference
    remark: str
    results: Mapping[str, float]


def compared(
    results: Mapping[str, float], undisturbed: Mapping[str, float], others: Sequence[Mapping[str, float]] = ()
) -> Difference:
    """Compare two runs' final metrics: each must be within `BOUNDS`, or within the spread over undisturbed runs.

    Args:
        results: Of the one.
        undisturbed: Of the other.
        others: Of undisturbed runs that differ in their seeds alone; without any, `BOUNDS` hold.
    """
    assert results.keys() == undisturbed.keys(), f"{sorted(results)} instead of {sorted(undisturbed)}"
    differences = {name: abs(results[name] - undisturbed[name]) for name in results}
    bounds = {name: _spread(name, [undisturbed, *others]) if others else bound_of(name) for name in results}
    furthest = max(differences, key=lambda name: differences[name])
    is_within = all(differences[name] <= bounds[name] for name in results)
    return Difference(differences[furthest], bounds[furthest], is_within)


def bound_of(name: str) -> float:
    """How far a metric may be from the undisturbed run's."""
    return next((bound for part, bound in BOUNDS.items() if part in name), 0.0)


def _spread(name: str, runs: Sequence[Mapping[str, float]]) -> float:
    values = [run[name] for run in runs]
    return max(values) - min(values)


def told(rows: Sequence[Measured]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| fault | seconds to recover | steps lost | final metrics | what happened |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        found = row.difference
        how = f"{'within' if found.is_within else 'differ by'} {found.largest:.2g} (bound {found.bound:.2g})"
        metrics = "equal" if found.largest == 0 else how
        lines.append(f"| {row.fault} | {row.recover_s:.1f} | {row.steps_lost} | {metrics} | {row.remark} |")
    return "\n".join(lines)


def keep(rows: Sequence[Measured], undisturbed: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Write the rows as JSON, with the final metrics of undisturbed runs by their length."""
    content = {"undisturbed": undisturbed, "faults": [asdict(row) for row in rows]}
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
