"""Whether leaving early is worth it: the cascade's test front beside static models of every grid and several widths.

By hand: PYTHONPATH=platform python -m tests.benchmarks.worth_it --output FOLDER [--seeds 0 1 2] [--only ARM ...].

All are trained with the embedded recipe, in as many epochs, one after the other; what the folder already holds is not
trained again. Thresholds come from calibration images, every accuracy but the area's from test images. A cascade's
point at a budget is the mean over seeds of cost and accuracy. The area, by which ways to train are compared and the
recipe was chosen, is the mean calibration accuracy over budgets evenly spaced in log cost, from the first exit's to
the last's.
"""

import argparse
import itertools
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dvt.exits import FrontPoint, calibrated_front, measure_point, points_at_budgets
from dvt.models import macs_per_exit
from tests.benchmarks.trainings import Arm, Changes, Trained, is_trained, trained

STATICS = [
    Arm(f"static-{grid}x{grid}-w{width}", static_grid=grid, width=width) for width in (64, 32, 96) for grid in (2, 4, 7)
]
EARLY: Changes = {"loss": {"exit_weights": (4.0, 2.0, 1.0)}}
CASCADES = [
    Arm("paper"),
    Arm("distilled", {"loss": {"distill_weight": 1.0, "distill_temperature": 2.0}}),
    Arm("early", EARLY),
    Arm("early-distilled", {"loss": EARLY["loss"] | {"distill_weight": 1.0, "distill_temperature": 2.0}}),
    Arm("early-backbone-4", EARLY | {"train": {"backbone_epochs": 4}}),
    Arm("early-context-16", EARLY | {"cascade": {"feature_reuse_dim": 16, "feature_reuse_hidden_dim": 32}}),
]
ARMS = {arm.name: arm for arm in STATICS + CASCADES}
NUM_BUDGETS = 60
TICKS_M = (0.1, 0.2, 0.5, 1, 2, 5, 10)  # of the picture


@dataclass(frozen=True)
class Static:
    """A static model over its seeds."""

    name: str
    macs: float
    top1: tuple[float, ...]  # of each seed

    @classmethod
    def of(cls, runs: Sequence[Trained]) -> "Static":
        return cls(runs[0].arm, runs[0].macs[0], tuple(run.test.top1[0] for run in runs))

    @property
    def mean(self) -> float:
        return statistics.fmean(self.top1)


@dataclass(frozen=True)
class Curve:
    """What a cascade costs and reaches on test images at each budget, one row a seed."""

    name: str
    budgets: tuple[float, ...]
    areas: tuple[float, ...]  # of each seed's calibration front
    points: tuple[tuple[FrontPoint, ...], ...]  # (seeds, budgets)
    exits_top1: tuple[tuple[float, ...], ...]  # (seeds, E)

    @classmethod
    def of(cls, runs: Sequence[Trained], budgets: Sequence[float], even: Sequence[float]) -> "Curve":
        points, areas = [], []
        for run in runs:
            front = calibrated_front(run.calibration, run.macs)
            chosen = points_at_budgets(front, budgets)
            points.append(tuple(measure_point(run.test, run.macs, point.thresholds) for point in chosen))
            areas.append(statistics.fmean(point.accuracy for point in points_at_budgets(front, even)))
        return cls(
            name=runs[0].arm,
            budgets=tuple(budgets),
            areas=tuple(areas),
            points=tuple(points),
            exits_top1=tuple(run.test.top1 for run in runs),
        )

    def over_seeds(self, take: Callable[[FrontPoint], float]) -> np.ndarray:
        """A number of each point, (seeds, budgets)."""
        return np.array([[take(point) for point in row] for row in self.points])

    @property
    def macs(self) -> np.ndarray:
        return self.over_seeds(lambda point: point.macs)

    @property
    def accuracy(self) -> np.ndarray:
        return self.over_seeds(lambda point: point.accuracy)

    def cost_at(self, accuracy: float) -> float | None:
        """The least mean cost at which the mean accuracy is reached; None if it never is."""
        return _first_cost(self.macs.mean(axis=0), self.accuracy.mean(axis=0), accuracy)

    def costs_at(self, accuracy: float) -> list[float | None]:
        """The same of each seed by itself."""
        return [_first_cost(macs, row, accuracy) for macs, row in zip(self.macs, self.accuracy, strict=True)]


def _first_cost(macs: np.ndarray, accuracy: np.ndarray, wanted: float) -> float | None:
    return min((float(cost) for cost, reached in zip(macs, accuracy, strict=True) if reached >= wanted), default=None)


def static_front(statics: Iterable[Static]) -> list[Static]:
    """Those that none is better than for as little, cheap to dear."""
    front: list[Static] = []
    for model in sorted(statics, key=lambda model: (model.macs, -model.mean)):
        if not front or model.mean > front[-1].mean:
            front.append(model)
    return front


def compare(statics: Sequence[Static], runs: dict[str, list[Trained]]) -> list[Curve]:
    """The curve of each cascade, at budgets in even steps and at what each static model costs."""
    first, *_, last = macs_per_exit(ARMS["paper"].recipe(0).cascade)
    even = [float(budget) for budget in np.geomspace(first, last, NUM_BUDGETS)]
    even[-1] = last  # not a rounding less
    budgets = sorted({*even, *(model.macs for model in statics if model.macs >= first)})
    return [Curve.of(of_arm, budgets, even) for of_arm in runs.values()]


def tell_statics(statics: Sequence[Static]) -> None:
    print("\n| static model | MACs | test top-1, mean over seeds | least to largest | seeds |\n|---|---|---|---|---|")
    for model in sorted(statics, key=lambda model: model.macs):
        print(f"| {model.name} | {_m(model.macs)} | {_p(model.mean)} | {_range(model.top1)} | {len(model.top1)} |")


def tell_cascades(statics: Sequence[Static], curves: Sequence[Curve]) -> None:
    best = max(statics, key=lambda model: model.mean)
    print(f"\nBest static model: {best.name}, {_p(best.mean)} for {_m(best.macs)}. What a cascade needs for as much:\n")
    print(
        "| cascade | calibration area | test top-1 of exits | MACs for as much | times fewer | least margin | seeds |"
    )
    print("|---|---|---|---|---|---|---|")
    for curve in sorted(curves, key=lambda curve: -statistics.fmean(curve.areas)):
        cost, costs = curve.cost_at(best.mean), curve.costs_at(best.mean)
        factors = ["never" if each is None else f"{best.macs / each:.2f}" for each in (cost, *costs)]
        margin, where = min((statistics.fmean(margins), name) for name, _, margins in margins_of(curve, statics))
        exits = ", ".join(_p(float(top1)) for top1 in np.mean(curve.exits_top1, axis=0))
        print(
            f"| {curve.name} | {_p(statistics.fmean(curve.areas))} ({_range(curve.areas)}) | {exits} | "
            f"{'never' if cost is None else _m(cost)} | {factors[0]} ({', '.join(factors[1:])}) | "
            f"{100 * margin:+.2f} at {where} | {len(curve.areas)} |"
        )


def margins_of(curve: Curve, statics: Sequence[Static]) -> list[tuple[str, int, list[float]]]:
    """Each model of the static front that costs no less than the first exit, the budget of its cost, and how much more
    each seed of the cascade reaches there. Between two of them the static front is flat, so they are its best places.
    """
    found = []
    for model in static_front(statics):
        if model.macs in curve.budgets:
            index = curve.budgets.index(model.macs)
            found.append((model.name, index, [float(value) - model.mean for value in curve.accuracy[:, index]]))
    return found


def tell_margins(statics: Sequence[Static], curve: Curve) -> None:
    print(f"\n| static front | MACs | test top-1 | {curve.name} at this budget | MACs on test images | margin |")
    print("|---|---|---|---|---|---|")
    by_name = {model.name: model for model in statics}
    for name, index, margins in margins_of(curve, statics):
        model, reached = by_name[name], curve.accuracy[:, index]
        print(
            f"| {name} | {_m(model.macs)} | {_p(model.mean)} | {_p(float(reached.mean()))} ({_range(reached)}) | "
            f"{_m(float(curve.macs[:, index].mean()))} | {100 * statistics.fmean(margins):+.2f} |"
        )


def draw(statics: Sequence[Static], curve: Curve) -> Figure:
    """Both fronts: means over seeds, with the range of the seeds."""
    figure = Figure(figsize=(8, 5), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xscale="log", xlabel="mean MACs an image [M]", ylabel="test top-1 [%]", title=curve.name)
    macs, accuracy = curve.macs.mean(axis=0) / 1e6, 100 * curve.accuracy
    axes.plot(macs, accuracy.mean(axis=0), label=f"cascade, mean of {len(accuracy)} seed(s)")
    axes.fill_between(macs, accuracy.min(axis=0), accuracy.max(axis=0), alpha=0.25)
    for model in statics:
        low, high = (100 * abs(end(model.top1) - model.mean) for end in (min, max))
        axes.errorbar(model.macs / 1e6, 100 * model.mean, [[low], [high]], fmt="o", color="C3", capsize=3)
        axes.annotate(model.name.removeprefix("static-"), (model.macs / 1e6, 100 * model.mean - 1.6), fontsize=8)
    front = static_front(statics)
    places = [model.macs / 1e6 for model in front], [100 * model.mean for model in front]
    axes.step(*places, where="post", color="C3", linewidth=1, linestyle=":", label="static models' front")
    axes.set_xticks(TICKS_M, labels=[f"{tick:g}" for tick in TICKS_M])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    return figure


def _m(macs: float) -> str:
    return f"{macs / 1e6:.3f} M"


def _p(share: float) -> str:
    return f"{100 * share:.2f} %"


def _range(shares: Iterable[float]) -> str:
    shares = list(shares)
    return f"{100 * min(shares):.2f} to {100 * max(shares):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder of results and of the picture")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM", help=", ".join(ARMS))
    parser.add_argument("--train", choices=["missing", "none"], default="missing", help="none tells what is there")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    runs: dict[str, list[Trained]] = {}
    for name, seed in itertools.product(asked.only, asked.seeds):
        if asked.train == "missing" or is_trained(ARMS[name], seed, asked.output):
            runs.setdefault(name, []).append(trained(ARMS[name], seed, asked.output))
    statics = [Static.of(of_arm) for name, of_arm in runs.items() if ARMS[name].static_grid is not None]
    curves = compare(statics, {name: of_arm for name, of_arm in runs.items() if ARMS[name].static_grid is None})
    if not statics or not curves:
        return
    tell_statics(statics)
    tell_cascades(statics, curves)
    winner = max(curves, key=lambda curve: statistics.fmean(curve.areas))
    tell_margins(statics, winner)
    picture = asked.output / "worth_it.png"
    draw(statics, winner).savefig(picture)
    print(f"\n{picture}")


if __name__ == "__main__":
    main()
