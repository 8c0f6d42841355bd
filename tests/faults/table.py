"""The table of faults: what each cost, and whether the run ended as an undisturbed one."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

# How far final metrics may be from an undisturbed run's, by a part of their names; others must be equal.
BOUNDS = {"train/loss": 0.05, "top1": 0.02}


@dataclass(frozen=True)
class Measured:
    """A row.

    Attributes:
        fault: Its name.
        recover_s: Longest time without a training step after it, in seconds.
        steps_lost: Steps taken again.
        largest_difference: Of any final metric from the undisturbed run's.
        is_within: Whether each is within its bound.
        remark: What was done.
        results: The final metrics.
    """

    fault: str
    recover_s: float
    steps_lost: int
    largest_difference: float
    is_within: bool
    remark: str
    results: Mapping[str, float]


def compared(results: Mapping[str, float], undisturbed: Mapping[str, float]) -> tuple[float, bool]:
    """The largest difference of two runs' final metrics, and whether all are within `BOUNDS`."""
    assert results.keys() == undisturbed.keys(), f"{sorted(results)} instead of {sorted(undisturbed)}"
    differences = {name: abs(results[name] - undisturbed[name]) for name in results}
    is_within = all(value <= bound_of(name) for name, value in differences.items())
    return max(differences.values(), default=0.0), is_within


def bound_of(name: str) -> float:
    """How far a metric may be from the undisturbed run's."""
    return next((bound for part, bound in BOUNDS.items() if part in name), 0.0)


def told(rows: Sequence[Measured]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| fault | seconds to recover | steps lost | final metrics | what happened |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        same = "equal" if row.largest_difference == 0 else f"within {row.largest_difference:.2g}"
        metrics = same if row.is_within else f"differ by {row.largest_difference:.2g}"
        lines.append(f"| {row.fault} | {row.recover_s:.1f} | {row.steps_lost} | {metrics} | {row.remark} |")
    return "\n".join(lines)


def keep(rows: Sequence[Measured], undisturbed: Mapping[int, Mapping[str, float]], path: Path) -> None:
    """Write the rows as JSON, with the final metrics of undisturbed runs by their number of epochs."""
    content = {"undisturbed": undisturbed, "faults": [asdict(row) for row in rows]}
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
