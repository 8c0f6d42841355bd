"""What a gate found, as a version of a registered model keeps it: tags, and a section of its description.

Tags `gate.*` tell the newest verdict, `gate.history.<turn>` every one as JSON. Turns have numbers of their own
(`turns.py`), so that no gate writes over what another has kept there.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from dvt.exits import FrontPoint
from dvt.exits.gate import LEAST_SAVING, OVER_BUDGET, BudgetComparison, judge
from dvt.models.told_amounts import told_macs
from dvt.tracking.model_card import description_of

PREFIX = "gate."
HISTORY = "gate.history."
PASSED, FAILED = "passed", "failed"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the gate says of a candidate, and what it says it from."""

    is_passed: bool
    reason: str  # a sentence
    budgets: tuple[BudgetComparison, ...]  # beside the champion; none where there was no champion
    alone: tuple[FrontPoint, ...] = ()  # (budgets), the candidate by itself where there was no champion
    margin: float = 0.0  # accuracy, from 0 to 1
    num_images: int  # that both were asked
    data: str  # what images they were

    def numbers(self) -> list[dict[str, Any]]:
        """One entry a budget, in JSON's own types."""
        return [each.to_dict() for each in self.budgets] or [each.to_dict() for each in self.alone]


def verdict_beside(comparisons: Sequence[BudgetComparison], *, margin: float, num_images: int, data: str) -> Verdict:
    """The verdict on a candidate that was compared with a champion.

    Args:
        comparisons: Of all budgets.
        margin: Accuracy that it may lose where it is cheaper, from 0 to 1.
        num_images: Images that both were asked.
        data: What images they were.
    """
    judgement = judge(comparisons, margin)
    return Verdict(
        is_passed=judgement.is_passed,
        reason=_reason(comparisons, judgement.failures, judgement.gains, margin),
        budgets=tuple(comparisons),
        margin=margin,
        num_images=num_images,
        data=data,
    )


def verdict_alone(points: Sequence[FrontPoint], *, num_images: int, data: str) -> Verdict:
    """The verdict on a candidate where there is no champion: it could be measured, and that is enough.

    Args:
        points: The candidate within each budget.
        num_images: Images that it was asked.
        data: What images they were.
    """
    reason = "there was no champion to compare it with, and it can be measured"
    return Verdict(is_passed=True, reason=reason, budgets=(), alone=tuple(points), num_images=num_images, data=data)


def _reason(
    comparisons: Sequence[BudgetComparison],
    failures: Sequence[BudgetComparison],
    gains: Sequence[BudgetComparison],
    margin: float,
) -> str:
    over = [each for each in failures if not each.keeps_budget]
    worse = [each for each in failures if not each.is_not_worse(margin)]
    told = f"{100 * margin:g} points"
    if over:
        first = over[0]
        return (
            f"within {told_macs(first.budget_macs)} it costs {told_macs(first.candidate_macs)} on the test images, "
            f"more than {100 * OVER_BUDGET:g} % over the budget and more than the champion"
        )
    if worse:
        first = min(worse, key=lambda each: each.low)
        return (
            f"within {told_macs(first.budget_macs)} it may be {-100 * first.low:.2f} points worse, more than the "
            f"margin of {told}"
        )
    if not gains:
        return f"within no budget is it surely better, or cheaper by {100 * LEAST_SAVING:g} %"
    better = sum(each.is_better for each in gains)
    cheaper = sum(each.is_cheaper for each in gains)
    ways = [f"{word} within {count}" for word, count in (("better", better), ("cheaper", cheaper)) if count]
    return f"{' and '.join(ways)} of {len(comparisons)} budgets, and within none worse by more than {told}"


def told_outcome(compared: BudgetComparison, margin: float) -> str:
    """One budget's outcome in a word or two."""
    if not compared.keeps_budget:
        return "over budget"
    if not compared.is_not_worse(margin):
        return "may be worse"
    words = [word for word, holds in (("better", compared.is_better), ("cheaper", compared.is_cheaper)) if holds]
    return " and ".join(words) or "not worse"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A verdict with where and when it was made; what stands in a version's history."""

    turn: int
    alias: str  # that the gate guards
    champion: str | None  # version it stood on; None where it stood on none
    candidate: str  # version
    outcome: str  # `passed`, `failed`, or what else became of it
    is_moved: bool = False  # whether the alias moved
    at: str = ""  # when, ISO 8601 in UTC

    def to_json(self, verdict: Verdict | None) -> str:
        """The entry with all numbers of the verdict, if there is one, as a line of JSON."""
        if verdict is None:
            return json.dumps(asdict(self))
        whole = asdict(self) | {
            "reason": verdict.reason,
            "margin": verdict.margin,
            "num_images": verdict.num_images,
            "data": verdict.data,
            "budgets": verdict.numbers(),
        }
        return json.dumps(whole)


def now() -> str:
    """This second, ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def keep_history(client: MlflowClient, name: str, entry: Entry, verdict: Verdict | None) -> None:
    """Keep an entry in the candidate's history, whatever becomes of it."""
    client.set_model_version_tag(name, entry.candidate, f"{HISTORY}{entry.turn:06d}", entry.to_json(verdict))


def keep_newest(client: MlflowClient, version: ModelVersion, entry: Entry, verdict: Verdict) -> None:
    """Let a candidate's tags and description tell this verdict, in place of an earlier one.

    Args:
        client: Of the registry.
        version: The candidate, as read in this turn.
        entry: Where and when the verdict was made.
        verdict: The verdict.
    """
    tags = {
        "verdict": entry.outcome,
        "reason": verdict.reason,
        "alias": entry.alias,
        "champion": entry.champion or "none",
        "margin_points": f"{100 * verdict.margin:g}",
        "images": str(verdict.num_images),
        "data": verdict.data,
        "at": entry.at,
        "turn": str(entry.turn),
        "moved": str(entry.is_moved).lower(),
    }
    tags |= {f"budget_{number}": json.dumps(each) for number, each in enumerate(verdict.numbers(), start=1)}
    for key in version.tags:
        if key.startswith(PREFIX) and not key.startswith(HISTORY) and key.removeprefix(PREFIX) not in tags:
            client.delete_model_version_tag(version.name, version.version, key)
    for key, value in tags.items():
        client.set_model_version_tag(version.name, version.version, f"{PREFIX}{key}", value)
    description = description_of(version.description or "", gate_section(entry, verdict))
    client.update_model_version(version.name, version.version, description)


def gate_section(entry: Entry, verdict: Verdict) -> str:
    """A verdict as Markdown, without its heading."""
    beside = "no champion" if entry.champion is None else f"version {entry.champion}"
    what = f"{entry.outcome.capitalize()} on {entry.at}, beside {beside} for alias {entry.alias}"
    lines = [f"{what}, on {verdict.num_images:,} test images ({verdict.data}): {verdict.reason}.", ""]
    if verdict.budgets:
        lines += ["| budget | champion | candidate | difference, interval | MACs | |", "|---|---|---|---|---|---|"]
        for each in verdict.budgets:
            lines.append(
                f"| {told_macs(each.budget_macs)} | {100 * each.champion_top1:.2f} % | "
                f"{100 * each.candidate_top1:.2f} % | {told_points(each)} | "
                f"{told_macs(each.champion_macs)} to {told_macs(each.candidate_macs)} | "
                f"{told_outcome(each, verdict.margin)} |"
            )
    else:
        lines += ["| candidate | MACs |", "|---|---|"]
        lines += [f"| {100 * each.accuracy:.2f} % | {told_macs(each.macs)} |" for each in verdict.alone]
    return "\n".join(lines)


def told_points(compared: BudgetComparison) -> str:
    """A difference of accuracy with its interval, in points."""
    return f"{100 * compared.difference:+.2f} ({100 * compared.low:+.2f} to {100 * compared.high:+.2f})"
