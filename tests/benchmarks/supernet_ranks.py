"""Whether inherited weights rank cascades as their own trainings do: Kendall's tau between both hypervolumes.

By hand: PYTHONPATH=platform python -m tests.benchmarks.supernet_ranks --output FOLDER [--sharing position] ...

Cascades are drawn from the embedded space as a random search draws them, their training fields are the base's. Each is
trained by itself once and kept in the folder, as are the shared weights of each setting. Both hypervolumes are of the
same validation images; thresholds come from the other half of the calibration images.
"""

import argparse
import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from fsspec.implementations.local import LocalFileSystem
from scipy.stats import kendalltau

from dvt.config import CascadeConfig, ExitsConfig, Recipe
from dvt.data import open_data
from dvt.exits import ExitScores, hypervolume
from dvt.models import macs_per_exit
from dvt.search import Space, load_space
from dvt.search.elastic import ElasticCascade
from dvt.search.inherited import score_inherited
from dvt.search.objective import validation_front
from dvt.search.settings import Sharing, SupernetConfig
from dvt.search.supernet import load_supernet, train_supernet
from dvt.train.folder_reporter import FolderReporter
from dvt.train.storage import RunFolder
from dvt.train.worker import Worker
from tests.benchmarks.trainings import CPU, Arm, trained

SPACE = Path(__file__).resolve().parents[2] / "search_spaces" / "embedded.yaml"


@dataclass(frozen=True)
class Candidate(Arm):
    """A cascade of the space, trained by itself."""

    base: Recipe | None = None

    def recipe(self, seed: int) -> Recipe:
        return replace(self.base, train=replace(self.base.train, seed=seed))


def one_worker(space: Space, epochs: int, batch: int) -> Recipe:
    """The space's base recipe for one worker, in other epochs and batches."""
    base = space.base
    return replace(
        base,
        optimizer=replace(base.optimizer, epochs=epochs),
        train=replace(base.train, micro_batch_size=batch),
        cluster=replace(base.cluster, num_workers=1),
        exits=ExitsConfig(),
    )


def sample_cascades(space: Space, seed: int, count: int) -> list[CascadeConfig]:
    """Different legal cascades, drawn choice by choice as a random search draws them; more begin with fewer."""
    generator, found = np.random.default_rng(seed), {}
    while len(found) < count:
        (recipe,) = space.sample(generator, 1)
        found.setdefault(recipe.cascade)
    return list(found)


def candidates(space: Space, seed: int, count: int, epochs: int, batch: int) -> list[Candidate]:
    base = one_worker(space, epochs, batch)
    return [
        Candidate(f"e{epochs}-b{batch}-c{seed}-{index:02}", base=replace(base, name=f"c{index:02}", cascade=cascade))
        for index, cascade in enumerate(sample_cascades(space, seed, count))
    ]


def worth(space: Space, scores: ExitScores, cascade: CascadeConfig) -> float:
    front = validation_front(scores, macs_per_exit(cascade))
    return hypervolume(front.points, space.budgets.low, space.budgets.high)


def train_shared(space: Space, asked: argparse.Namespace) -> ElasticCascade:
    """The shared weights: trained now, gone on with, or as the folder holds them."""
    config = SupernetConfig(sharing=asked.sharing, num_random=asked.num_random, distill=asked.distill)
    epochs = asked.supernet_epochs or asked.epochs
    recipe = one_worker(space, epochs, asked.batch)
    recipe = replace(recipe, train=replace(recipe.train, seed=asked.seed))
    name = f"supernet-e{epochs}-b{asked.batch}-{asked.sharing}-n{asked.num_random}-d{asked.distill:g}.s{asked.seed}"
    started = time.perf_counter()

    def tell(metrics: Mapping[str, float], step: int) -> None:
        if "epoch" in metrics:
            exits = [f"{100 * value:.1f}" for key, value in metrics.items() if key.endswith("/top1")]
            spent = time.perf_counter() - started
            print(f"{name}: epoch {metrics['epoch']}, top-1 {', '.join(exits)} %, {spent:.0f} s", flush=True)

    folder = RunFolder(LocalFileSystem(), str((asked.output / name).resolve()), name)
    reporter = FolderReporter(folder, tell)
    data = open_data(recipe.data, recipe.cascade)
    train_supernet(recipe, data, Worker(CPU), reporter, space=space, config=config)
    with reporter.latest() as newest:
        assert newest is not None
        return load_supernet(newest, space, config)


def tell_ranks(space: Space, alone: Sequence[Candidate], elastic: ElasticCascade, asked: argparse.Namespace) -> None:
    rows = []
    data = open_data(space.base.data, space.base.cascade)
    for candidate in alone:
        cascade = candidate.base.cascade
        run = trained(candidate, asked.seed, asked.output)
        scores = score_inherited(elastic, cascade, data.calibration, space.base.data, CPU)
        rows.append((cascade, worth(space, run.calibration, cascade), worth(space, scores, cascade), run, scores))
    print("\n| token grids | context | reuse of later stages | MACs, M | alone | inherited | top-1 alone | inherited |")
    print("|---|---|---|---|---|---|---|---|")
    for cascade, own, inherited, run, scores in sorted(rows, key=lambda row: -row[1]):
        reuse = [cascade.reuse(index) for index in range(1, cascade.num_exits)]
        depths = ", ".join(f"{r.feature_depth}/{r.relation_depth}/{r.relation_upstream_depth}" for r in reuse)
        macs = ", ".join(f"{cost / 1e6:.2f}" for cost in macs_per_exit(cascade))
        top1s = [", ".join(f"{100 * top1:.1f}" for top1 in each.top1) for each in (run.calibration, scores)]
        grids = "-".join(map(str, cascade.token_grids))
        width = cascade.feature_reuse_dim if any(r.feature_depth for r in reuse) else "-"
        print(f"| {grids} | {width} | {depths or '-'} | {macs} | {own:.4f} | {inherited:.4f} | {' | '.join(top1s)} |")
    own, inherited = ([row[place] for row in rows] for place in (1, 2))
    first = [macs_per_exit(row[0])[0] for row in rows]
    found = kendalltau(own, inherited)
    print(f"\nKendall's tau of {len(rows)} cascades: {found.statistic:.3f}, p {found.pvalue:.2g}")
    print(
        f"Tau of the hypervolume alone with the first exit's cost, negated: {kendalltau(own, first).statistic * -1:.3f}"
    )
    # The first exit's cost ranks cascades without any training, so what it leaves equal tells more.
    pairs = [(i, j) for i, j in itertools.combinations(range(len(rows)), 2) if first[i] == first[j]]
    same = sum((own[i] > own[j]) == (inherited[i] > inherited[j]) for i, j in pairs)
    print(f"Of the {len(pairs)} pairs with the same first exit, {same} are in the same order")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder of results; what it holds is not done again")
    parser.add_argument("--epochs", type=int, default=6, help="of each training")
    parser.add_argument("--supernet-epochs", type=int, help="of the shared weights, if others")
    parser.add_argument("--batch", type=int, default=64, help="images a step")
    parser.add_argument("--cascades", type=int, default=13)
    parser.add_argument("--sample-seed", type=int, default=0, help="which cascades")
    parser.add_argument("--seed", type=int, default=0, help="of all trainings")
    parser.add_argument("--sharing", choices=get_args(Sharing), default="grid")
    parser.add_argument("--num-random", type=int, default=2, help="cascades a step besides dearest and cheapest")
    parser.add_argument("--distill", type=float, default=0.0, help="share of the dearest's probabilities in targets")
    parser.add_argument("--only", choices=["alone", "supernet"], help="train these, and compare nothing")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    space = load_space(SPACE)
    alone = candidates(space, asked.sample_seed, asked.cascades, asked.epochs, asked.batch)
    if asked.only != "supernet":
        for candidate in alone:
            trained(candidate, asked.seed, asked.output)
    if asked.only != "alone":
        elastic = train_shared(space, asked)
        if asked.only is None:
            tell_ranks(space, alone, elastic, asked)


if __name__ == "__main__":
    main()
