"""How good and how fast the choice of thresholds is beside its rivals, on made-up but realistic calibration images.

By hand: PYTHONPATH=platform python -m tests.benchmarks.threshold_choice [--images 50000] [--picture FILE].

Three exits that cost what `dvt_t2t_vit_12` costs look at images of 1,000 classes: each image has a difficulty of its
own, part of the noise is common to all exits, and later exits see more. Every rival chooses thresholds on the same
images and is asked at 59 budgets, even in log cost, for the best it has within each:

* geometric shares: the published family of 59 vectors;
* one shared threshold: every confidence there is, for both exits alike;
* genetic search: 20,000 evaluations for each budget, on thresholds of full resolution.

The published way is timed as it is written, a sort and a scan in Python for every point, on two of its 59 points.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from dvt.exits import (
    ExitScores,
    Front,
    candidate_thresholds,
    geometric_shares,
    lattice_gap,
    measure_point,
    score_exits,
    single_exit_thresholds,
    solve_front,
)
from dvt.exits.lattice import shared_candidates
from dvt.exits.solve import front_points

MACS = (0.4677e9, 1.4461e9, 3.4550e9)  # dvt_t2t_vit_12
SIGNALS = (4.6, 5.2, 5.7)  # of the right class at each exit; of 999 others the largest is 3.2 or so
NUM_CLASSES = 1000
POPULATION, GENERATIONS = 200, 100  # 20,000 evaluations

Curve = NDArray[np.float64]  # accuracy at each budget


def make_scores(num_images: int, seed: int = 0) -> ExitScores:
    """What three exits would say of images of a thousand classes."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for start in range(0, num_images, 500):
        num = min(500, num_images - start)
        labels = torch.randint(0, NUM_CLASSES, (num,), generator=generator)
        ease = 2 * torch.randn(num, generator=generator)
        common = torch.randn(num, NUM_CLASSES, generator=generator)
        exits = []
        for signal in SIGNALS:
            logits = 0.8 * common + 0.6 * torch.randn(num, NUM_CLASSES, generator=generator)
            logits[torch.arange(num), labels] += signal + ease
            exits.append(2 * logits)
        parts.append(score_exits(torch.stack(exits), labels))
    return ExitScores.join(parts)


def published_point_s(scores: ExitScores, ratio: float) -> float:
    """Seconds of one point as the published code makes it: Python loops over images, sorted by confidence."""
    confidence, correct = scores.confidence.tolist(), scores.correct.tolist()
    start = time.perf_counter()
    num_images, has_left, num_right = scores.num_images, [False] * scores.num_images, 0
    thresholds = []
    for index, share in enumerate(geometric_shares(scores.num_exits, ratio)):
        wanted, threshold, seen = share * num_images, -1e8, 0
        for image in sorted(range(num_images), key=confidence[index].__getitem__, reverse=True):
            if not has_left[image]:
                seen += 1
                if seen >= wanted and index < scores.num_exits - 1:
                    threshold = confidence[index][image]
                    break
        thresholds.append(threshold)
        for image in range(num_images):
            if not has_left[image] and confidence[index][image] >= threshold:
                has_left[image] = True
    for image in range(num_images):
        for index, threshold in enumerate(thresholds):
            if confidence[index][image] >= threshold:
                num_right += correct[index][image]
                break
    return time.perf_counter() - start


class Genes(NamedTuple):
    """Images sorted by the first exit's confidence: those that go on are the first ones."""

    first: NDArray[np.float32]  # (N,), sorted
    second: NDArray[np.float32]  # (N,), in the same order
    right_first: NDArray[np.int64]  # (N + 1,), right at exit 1 from this place on
    right_second: NDArray[np.int64]  # (N + 1,), right at exit 2 up to this place
    gains: NDArray[np.bool_]  # (N,), wrong at exit 2, right at exit 3
    losses: NDArray[np.bool_]  # (N,), right at exit 2, wrong at exit 3
    levels: NDArray[np.float32]  # (2, N), confidences of each exit, sorted

    @classmethod
    def of(cls, scores: ExitScores) -> "Genes":
        order = np.argsort(scores.confidence[0])
        right = scores.correct[:, order]
        return cls(
            first=scores.confidence[0][order],
            second=scores.confidence[1][order],
            right_first=np.concatenate([[0], np.cumsum(right[0])])[-1] - np.concatenate([[0], np.cumsum(right[0])]),
            right_second=np.concatenate([[0], np.cumsum(right[1])]),
            gains=~right[1] & right[2],
            losses=right[1] & ~right[2],
            levels=np.sort(scores.confidence[:2], axis=1),
        )

    def measure(self, place: NDArray[np.float64]) -> tuple[float, float]:
        """Mean cost and accuracy of thresholds at two quantiles from 0 to 1."""
        num_images = len(self.first)
        first, second = self.levels[[0, 1], np.minimum((place * num_images).astype(int), num_images - 1)]
        going_on = int(np.searchsorted(self.first, first, side="left"))
        stays = self.second[:going_on] < second
        last = int(np.count_nonzero(stays))
        right = self.right_first[going_on] + self.right_second[going_on]
        right += np.count_nonzero(stays & self.gains[:going_on]) - np.count_nonzero(stays & self.losses[:going_on])
        counts = np.array([num_images - going_on, going_on - last, last])
        return float(counts / num_images @ np.array(MACS)), float(right / num_images)


def genetic_search(genes: Genes, budget: float, generator: np.random.Generator) -> float:
    """The best accuracy that a plain genetic search finds within a budget: tournaments, blends, mutations, an elite."""

    def fitness(places: NDArray[np.float64]) -> NDArray[np.float64]:
        measured = (genes.measure(place) for place in places)
        return np.array([accuracy if macs <= budget else 1 - macs / budget for macs, accuracy in measured])

    people = generator.random((POPULATION, 2))
    scores = fitness(people)
    for generation in range(1, GENERATIONS):
        pairs = generator.integers(0, POPULATION, (2, 2, POPULATION))
        mothers, fathers = (np.where(scores[a] >= scores[b], a, b) for a, b in pairs)
        blend = generator.uniform(-0.25, 1.25, (POPULATION, 2))
        width = 0.1 * (1e-3 ** (generation / GENERATIONS))
        children = people[mothers] * blend + people[fathers] * (1 - blend)
        children += width * generator.standard_normal((POPULATION, 2)) * (generator.random((POPULATION, 2)) < 0.5)
        children = np.clip(children, 0, 1)
        children_scores = fitness(children)
        everyone, all_scores = np.concatenate([people, children]), np.concatenate([scores, children_scores])
        best = np.argsort(-all_scores, kind="stable")[:POPULATION]
        people, scores = everyone[best], all_scores[best]
    return float(scores.max())


def at_budgets(front: Front, budgets: NDArray[np.float64]) -> Curve:
    return np.array([front.at_budget(budget).accuracy for budget in budgets])


def rivals(scores: ExitScores, budgets: NDArray[np.float64]) -> dict[str, Curve]:
    """The best accuracy within each budget, by what chose the thresholds."""
    alone = [measure_point(scores, MACS, single_exit_thresholds(3, index)) for index in range(3)]
    family = [measure_point(scores, MACS, thresholds) for thresholds in candidate_thresholds(scores.confidence)]
    costs = np.array(MACS)
    shared = front_points(shared_candidates(scores.confidence, scores.correct, costs), costs)
    genes, generator = Genes.of(scores), np.random.default_rng(0)
    return {
        "geometric shares": at_budgets(Front.of([*alone, *family]), budgets),
        "one shared threshold": at_budgets(Front.of([*alone, *shared]), budgets),
        "genetic search": np.array([genetic_search(genes, budget, generator) for budget in budgets]),
    }


def timed(work: Callable[[], Front], rounds: int) -> tuple[Front, list[float]]:
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        front = work()
        seconds.append(time.perf_counter() - start)
    return front, seconds


def draw(path: Path, budgets: NDArray[np.float64], ours: Curve, others: dict[str, Curve]) -> None:
    """Accuracy over budgets, and below how much higher ours is."""
    figure = Figure(figsize=(8, 7), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    styles = [("#d96c00", "s"), ("#6a9f3a", "^"), ("#8a929c", "o")]
    above.plot(budgets / 1e9, 100 * ours, color="#1f5fa8", linewidth=2, label="solve_front", zorder=3)
    for (name, curve), (color, marker) in zip(others.items(), styles, strict=True):
        above.plot(budgets / 1e9, 100 * curve, color=color, marker=marker, markersize=3.5, linewidth=1, label=name)
        below.plot(budgets / 1e9, 100 * (ours - curve), color=color, marker=marker, markersize=3.5, linewidth=1)
    below.axhline(0, color="#22272e", linewidth=0.8)
    above.set_ylabel("calibration accuracy [%]")
    below.set_ylabel("solve_front is higher by [points]")
    below.set_yscale("symlog", linthresh=0.01)
    below.set_ylim(-0.005, 5)
    below.set_xlabel("budget: mean multiply-adds per image [G]")
    below.set_xscale("log")
    ticks = [0.5, 0.7, 1, 1.5, 2, 3]
    below.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    below.minorticks_off()
    for axes in (above, below):
        axes.grid(color="#e8ebee")
    above.legend(frameon=False)
    above.set_title("Thresholds for 59 budgets, chosen in four ways on the same images", loc="left")
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--picture", type=Path, metavar="FILE")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    scores = make_scores(asked.images)
    told = " / ".join(f"{100 * share:.2f}" for share in scores.top1)
    print(f"{scores.num_images} images, {NUM_CLASSES} classes, top-1 of the exits alone {told} %")
    budgets = np.geomspace(MACS[0], MACS[-1], 61)[1:-1]

    front, seconds = timed(lambda: solve_front(scores.confidence, scores.correct, MACS), asked.rounds)
    ours = at_budgets(front, budgets)
    print(
        f"solve_front: {np.median(seconds):.2f} s, from {min(seconds):.2f} to {max(seconds):.2f}, one thread; "
        f"{len(front.points)} points; no thresholds at all are more than "
        f"{100 * lattice_gap(scores.confidence, scores.correct):.3f} points above"
    )
    points = [published_point_s(scores, ratio) for ratio in (0.5, 1.5)]
    print(
        f"the published way, Python loops: {np.mean(points):.2f} s a point, so {59 * np.mean(points):.0f} s for its 59 "
        f"(extrapolated from 2), {59 * np.mean(points) / np.median(seconds):.0f} times as long"
    )
    others = rivals(scores, budgets)
    print("calibration accuracy at 59 budgets, points by which solve_front is higher:")
    print("| rival | least | mean | largest | worse at |\n|---|---|---|---|---|")
    for name, curve in others.items():
        ahead = 100 * (ours - curve)
        print(f"| {name} | {ahead.min():.3f} | {ahead.mean():.3f} | {ahead.max():.3f} | {(ahead < 0).sum()} of 59 |")
    if asked.picture is not None:
        draw(asked.picture, budgets, ours, others)
        print(f"picture: {asked.picture}")


if __name__ == "__main__":
    main()
