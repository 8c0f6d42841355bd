"""The solved front: the best of all thresholds, by brute force, and never below what people do instead."""

import math
from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dvt.exits import (
    ExitScores,
    Front,
    FrontPoint,
    candidate_thresholds,
    lattice,
    lattice_gap,
    measure_point,
    polish,
    single_exit_thresholds,
    solve_front,
)
from tests.unit.exits.examples import FOUR_IMAGES, cascade_scores, costs, random_scores

INF = math.inf


def solved(sample: ExitScores) -> Front:
    return solve_front(sample.confidence, sample.correct, costs(sample.num_exits))


def every_point(sample: ExitScores) -> Iterator[FrontPoint]:
    """All that any thresholds can do: each is as good as a confidence of its exit, or infinite."""
    levels = [[-INF, *np.unique(row).tolist(), INF] for row in sample.confidence[:-1]]
    for thresholds in product(*levels):
        yield measure_point(sample, costs(sample.num_exits), (*thresholds, -INF))


def places(front: Front) -> list[tuple[float, float]]:
    return [(point.macs, point.accuracy) for point in front.points]


def test_a_front_worked_by_hand() -> None:
    front = solve_front(FOUR_IMAGES.confidence, FOUR_IMAGES.correct, (100, 300))
    assert places(front) == [(100, 0.5), (150, 0.75), (200, 1.0)]
    assert front.points[0].thresholds == (-INF, -INF)
    assert front.points[2].thresholds == (float(np.float32(0.8)), -INF)


@settings(deadline=None, max_examples=60)  # other work on the machine must not fail a test
@given(
    num_exits=st.integers(1, 4), num_images=st.integers(1, 7), seed=st.integers(0, 2**32 - 1), levels=st.integers(0, 6)
)
def test_few_images_are_solved_to_the_last_one(num_exits: int, num_images: int, seed: int, levels: int) -> None:
    sample = cascade_scores(num_exits, num_images, seed, levels)
    assert lattice_gap(sample.confidence, sample.correct) == 0
    assert places(solved(sample)) == places(Front.of(every_point(sample)))


@settings(deadline=None)  # other work on the machine must not fail a test
@given(sample=random_scores())
def test_points_are_what_is_measured_and_thresholds_are_confidences(sample: ExitScores) -> None:
    known = set(sample.confidence.ravel().tolist()) | {INF, -INF}
    for point in solved(sample).points:
        assert measure_point(sample, costs(sample.num_exits), point.thresholds) == point
        assert set(point.thresholds) <= known


@settings(deadline=None)  # other work on the machine must not fail a test
@given(sample=random_scores(), num_vectors=st.sampled_from([20, 200, lattice.NUM_VECTORS]))
def test_no_budget_is_better_spent_otherwise(sample: ExitScores, num_vectors: int) -> None:
    macs = costs(sample.num_exits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lattice, "NUM_VECTORS", num_vectors)
        front = solved(sample)
    rivals = [single_exit_thresholds(sample.num_exits, index) for index in range(sample.num_exits)]
    rivals += candidate_thresholds(sample.confidence)
    shared = [-INF, *np.unique(sample.confidence).tolist(), INF]
    rivals += [(*(threshold,) * (sample.num_exits - 1), -INF) for threshold in shared]
    for thresholds in rivals:
        rival = measure_point(sample, macs, thresholds)
        assert front.at_budget(rival.macs).accuracy >= rival.accuracy


@settings(deadline=None, max_examples=40)  # other work on the machine must not fail a test
@given(num_exits=st.integers(3, 4), seed=st.integers(0, 2**32 - 1), levels=st.sampled_from([0, 9]))
def test_the_bound_of_a_coarse_lattice_holds(num_exits: int, seed: int, levels: int) -> None:
    sample = cascade_scores(num_exits, 30 if num_exits == 3 else 12, seed, levels)
    macs = np.array(costs(num_exits))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lattice, "NUM_VECTORS", 36)  # 4 finite thresholds of three exits, 1 of four
        gap = lattice_gap(sample.confidence, sample.correct)
        kept = lattice.lattice_candidates(sample.confidence, sample.correct, macs)  # unpolished, without the families
    cost = lattice.mean_macs(kept.counts, macs)
    for point in every_point(sample):
        within = kept.num_correct[cost <= point.macs]
        assert within.max() / sample.num_images >= point.accuracy - gap - 1e-12


def test_the_bound_is_small_where_it_should_be() -> None:
    assert 0 < lattice_gap(*_arrays(cascade_scores(3, 20_000, seed=0))) < 0.001
    assert lattice_gap(*_arrays(cascade_scores(2, 20_000, seed=0))) == 0
    assert lattice_gap(*_arrays(cascade_scores(4, 20_000, seed=0))) < 0.02


def test_three_exits_have_more_than_a_million_combinations() -> None:
    levels = lattice.lattice_levels(*_arrays(cascade_scores(3, 50_000, seed=1)))
    assert len(levels) == 2
    assert min(map(len, levels)) >= 1000
    assert all((np.diff(level) > 0).all() for level in levels)


@pytest.mark.parametrize("num_exits", [2, 3, 4])
def test_polishing_only_adds(num_exits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sample, macs = cascade_scores(num_exits, 400, seed=5), np.array(costs(num_exits))
    monkeypatch.setattr(lattice, "NUM_VECTORS", 200)
    rough = lattice.lattice_candidates(sample.confidence, sample.correct, macs)
    fine = polish.polished(rough, sample.confidence, sample.correct, macs)
    fine_macs = lattice.mean_macs(fine.counts, macs)
    for cost, num_correct in zip(lattice.mean_macs(rough.counts, macs), rough.num_correct, strict=True):
        assert fine.num_correct[fine_macs <= cost].max() >= num_correct
    for thresholds, counts, num_correct in zip(*fine, strict=True):
        point = measure_point(sample, macs, thresholds)
        assert point.accuracy == num_correct / 400
        assert point.exit_shares == tuple(counts / 400)
    assert num_exits == 2 or len(fine.num_correct) > len(rough.num_correct)


def test_polishing_finds_what_a_coarse_lattice_misses(monkeypatch: pytest.MonkeyPatch) -> None:
    sample, macs = cascade_scores(3, 60, seed=7), costs(3)
    best = Front.of(every_point(sample))
    monkeypatch.setattr(lattice, "NUM_VECTORS", 100)
    budgets = np.geomspace(macs[0], macs[-1], 30)
    lost = [best.at_budget(budget).accuracy - solved(sample).at_budget(budget).accuracy for budget in budgets]
    assert max(lost) <= 1 / 60 + 1e-9


def test_all_at_one_exit_keeps_its_plain_form() -> None:
    sample = cascade_scores(3, 300, seed=2)
    sample.correct[1:] = False  # spending more never pays
    assert [point.thresholds for point in solved(sample).points] == [(-INF, INF, -INF)]
    sample.correct[:] = False
    sample.correct[2] = True
    assert solved(sample).points[-1].thresholds == (INF, INF, -INF)


@pytest.mark.parametrize("num_exits", [5, 6])
def test_many_exits(num_exits: int) -> None:
    sample = cascade_scores(num_exits, 1000, seed=3)
    front = solved(sample)
    assert front.points[0].macs == costs(num_exits)[0]
    assert front.points[-1].accuracy > max(sample.top1)
    for point in front.points[:: len(front.points) // 20]:
        assert measure_point(sample, costs(num_exits), point.thresholds) == point


def test_a_thinned_front_keeps_the_best_within_each_budget() -> None:
    front, macs = solved(cascade_scores(3, 2000, seed=4)), costs(3)
    budgets = [1.3e6, 2e6, 3.21e6, 0.5e6, 1e9]
    thin = front.thinned(20, budgets)
    assert len(thin.points) <= 20 + len(budgets)
    assert set(thin.points) <= set(front.points)
    assert (thin.points[0], thin.points[-1]) == (front.points[0], front.points[-1])
    for budget in (1.3e6, 2e6, 3.21e6, *np.geomspace(macs[0], front.points[-1].macs, 20)):
        assert thin.at_budget(budget) == front.at_budget(budget)
    assert thin.thinned(100) == thin


def test_a_front_is_not_thinned_to_nothing() -> None:
    with pytest.raises(ValueError, match=r"^num_points must be at least 2, got 1$"):
        solved(FOUR_IMAGES).thinned(1)


def _arrays(sample: ExitScores) -> tuple[np.ndarray, np.ndarray]:
    return sample.confidence, sample.correct
