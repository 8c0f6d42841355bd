"""What a search with shared weights trains, and which cascades it trains on."""

from dataclasses import replace

import numpy as np
import pytest

from dvt.config import ConfigError
from dvt.exits import Front
from dvt.search import Space, load_space
from dvt.search.finetune import choose_finalists, finetuned_space, measuring_space, shared_recipe
from dvt.search.results import SharedResult, TrialResult
from tests.unit.search.made_up import ROOT, embedded, epochs_of, front_of
from tests.unit.search.tiny import space as tiny_space

EMBEDDED = ROOT / "search_spaces" / "embedded.yaml"


def shared_space(trials: int = 3, **supernet: float) -> Space:
    search = replace(embedded().search, mode="supernet", num_trials=trials)
    return replace(embedded(), search=replace(search, supernet=replace(search.supernet, **supernet)))


def inherited(space: Space, fronts: list[Front]) -> list[TrialResult]:
    """Different cascades, none of them a first point, one a front."""
    measuring = measuring_space(space)
    firsts = {recipe.cascade.token_grids for recipe in space.first_points}
    drawn: dict[tuple[int, ...], TrialResult] = {}
    for recipe in measuring.sample(np.random.default_rng(0), 100):
        number, grids = len(drawn), recipe.cascade.token_grids
        if number < len(fronts) and grids not in firsts and grids not in drawn:
            epochs = epochs_of(fronts[number], space)
            drawn[grids] = TrialResult(number, "finished", recipe, measuring.params_of(recipe), epochs)
    return list(drawn.values())


def test_first_points_come_first_then_what_adds_most_to_the_front() -> None:
    space = shared_space()
    dear, twin, cheap = front_of((5e6, 0.97)), front_of((5e6, 0.96)), front_of((7e5, 0.40))
    measured = inherited(space, [cheap, dear, twin])
    (first,) = space.first_points
    found = choose_finalists(space, measured)
    assert found[0].token_grids == first.cascade.token_grids
    assert found[1:] == [measured[0].recipe.cascade, measured[1].recipe.cascade]  # the twin is better, but adds nothing


def test_what_adds_nothing_follows_by_its_own_worth() -> None:
    space = shared_space(trials=4)
    measured = inherited(space, [front_of((5e6, 0.2)), front_of((7e5, 0.97)), front_of((5e6, 0.9))])
    assert choose_finalists(space, measured)[1:] == [measured[index].recipe.cascade for index in (1, 2, 0)]


def test_no_cascade_is_trained_twice() -> None:
    space = shared_space(trials=5)
    (first,) = space.first_points
    cascades = space.cascades
    same = cascades.config(cascades.shape(first.cascade))  # its depths written as numbers
    (other,) = inherited(space, [front_of((6e5, 0.5))])
    params = measuring_space(space).params_of(first)
    best = TrialResult(7, "finished", replace(other.recipe, cascade=same), params, epochs_of(front_of((6e5, 1)), space))
    assert choose_finalists(space, [best, other, replace(other, number=9)]) == [same, other.recipe.cascade]


def test_finalists_train_briefly_from_low_rates() -> None:
    space = shared_space(finetune_epochs=2, finetune_lr=1e-3)
    finalists = choose_finalists(space, inherited(space, [front_of((6e5, 0.5))]))
    tuned = finetuned_space(space, finalists)
    assert [recipe.cascade for recipe in tuned.first_points] == finalists
    optimizer, own = tuned.base.optimizer, space.base.optimizer
    assert (optimizer.total_epochs, optimizer.warmup_epochs, optimizer.lr) == (2, 0, own.lr * 1e-3)
    assert (optimizer.warmup_lr, optimizer.min_lr) == (own.warmup_lr, own.lr * 1e-3)
    assert tuned.training == {}
    full = SharedResult(space.base).in_full(tuned.first_points[0])
    assert full == replace(space.base, cascade=finalists[0])


def test_shared_weights_have_epochs_of_their_own() -> None:
    assert shared_recipe(shared_space()).optimizer == embedded().base.optimizer
    fewer = shared_recipe(shared_space(epochs=1)).optimizer
    assert (fewer.epochs, fewer.warmup_epochs) == (1, 1)


def test_cascades_are_measured_without_training_fields() -> None:
    measuring = measuring_space(shared_space(num_measured=40))
    assert measuring.search.num_trials == 40
    assert not embedded().training.keys() & measuring.params_of(measuring.first_points[0]).keys()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--train.compile true", "base.train.compile must be false where cascades share weights, got true"),
        ("--train.init-from x", "base.train.init_from must be null where cascades share weights, got x"),
        ("--search.objective pareto", "search.objective must be hypervolume in mode supernet, got pareto"),
        ("--search.supernet.num-measured 2", "search.supernet.num_measured must be at least 30, got 2"),
        ("--search.supernet.num-images 1", "search.supernet.num_images must be at least 2, got 1"),
        ("--search.supernet.finetune-lr 0", "search.supernet.finetune_lr must be greater than 0, got 0"),
        ("--search.supernet.epoch 1", "search.supernet.epoch must be a known field, got 'epoch'; did you mean epochs?"),
    ],
)
def test_what_shared_weights_cannot_do_is_told_with_the_space(words: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_space(EMBEDDED, ["--search.mode", "supernet", *words.split()])
    assert told in [str(problem) for problem in caught.value.problems]


def test_shared_weights_have_one_width() -> None:
    with pytest.raises(ConfigError, match=r"cascade\.embed_dim must hold one value where cascades share weights, got"):
        tiny_space({"embed_dim": [16, 32]}, search={"mode": "supernet"})
