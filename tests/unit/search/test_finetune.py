"""What a search with shared weights trains, and which cascades it trains on."""

from dataclasses import replace

import pytest

from dvt.config import ConfigError, StageConfig
from dvt.search import Space, load_space
from dvt.search.finetune import choose_finalists, finetuned_space, measuring_space, shared_recipe
from dvt.search.results import SharedResult, TrialResult
from tests.unit.search.made_up import ROOT, embedded, epochs_of, front_of
from tests.unit.search.tiny import space as tiny_space

EMBEDDED = ROOT / "search_spaces" / "embedded.yaml"


def shared_space(trials: int = 3, **supernet: float) -> Space:
    search = replace(embedded().search, mode="supernet", num_trials=trials)
    return replace(embedded(), search=replace(search, supernet=replace(search.supernet, **supernet)))


def inherited(space: Space, worths: dict[tuple[int, ...], list[float]]) -> list[TrialResult]:
    """Different cascades of these token grids, each worth what is given at any budget."""
    measuring, found = measuring_space(space), list[TrialResult]()
    (first,) = measuring.first_points
    for grids, values in worths.items():
        stages = tuple(StageConfig(token_grid=grid) for grid in grids)
        for depth, value in enumerate(values):
            later = tuple(replace(stage, feature_reuse_depth=depth) for stage in stages[1:])
            cascade = measuring.cascades.shape(replace(first.cascade, stages=(stages[0], *later)))
            recipe = replace(first, cascade=measuring.cascades.config(cascade))
            epochs = epochs_of(front_of((space.budgets.low, value)), space)
            found.append(TrialResult(len(found), "finished", recipe, measuring.params_of(recipe), epochs))
    return found


def test_first_points_come_first_then_the_best() -> None:
    space = shared_space(trials=3)
    measured = inherited(space, {(3, 7): [0.3], (2, 7): [0.6], (2, 5): [0.5]})
    found = choose_finalists(space, measured)
    assert [cascade.token_grids for cascade in found] == [(2, 4, 7), (2, 7), (2, 5)]


def test_a_quarter_may_have_the_same_grids_if_others_are_left() -> None:
    worths = {(2, 7): [0.9, 0.8, 0.7, 0.6], (2, 5): [0.5], (2, 3): [0.4], (2, 4): [0.3]}
    expected = [(2, 7), (2, 7), (2, 5), (2, 3), (2, 4)]
    for trials, best in ((6, expected), (8, [*expected, (2, 7), (2, 7)])):
        space = shared_space(trials=trials)
        measured = inherited(space, worths)
        found = choose_finalists(space, measured)
        assert [cascade.token_grids for cascade in found] == [(2, 4, 7), *best]
        assert found[1:3] == [trial.recipe.cascade for trial in measured[:2]]


def test_no_cascade_is_trained_twice() -> None:
    space = shared_space(trials=5)
    (first,) = space.first_points
    cascades = space.cascades
    same = cascades.config(cascades.shape(first.cascade))  # its depths written as numbers
    (other,) = inherited(space, {(2, 7): [0.5]})
    params = measuring_space(space).params_of(first)
    best = TrialResult(7, "finished", replace(other.recipe, cascade=same), params, epochs_of(front_of((6e5, 1)), space))
    assert choose_finalists(space, [best, other, replace(other, number=9)]) == [same, other.recipe.cascade]


def test_finalists_train_briefly_from_low_rates() -> None:
    space = shared_space(finetune_epochs=2, finetune_lr=1e-3)
    finalists = choose_finalists(space, inherited(space, {(2, 7): [0.5]}))
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
