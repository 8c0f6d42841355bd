"""What a search with shared weights trains: the shared weights, and then the cascades that did best with them.

The trials of such a search are short: each starts from what its cascade inherits, with the base's training fields.
"""

from collections.abc import Sequence
from dataclasses import replace

from dvt.config import CascadeConfig, OptimizerConfig, Recipe
from dvt.search.results import TrialResult
from dvt.search.space import Space


def shared_recipe(space: Space) -> Recipe:
    """How the shared weights are trained."""
    epochs = space.search.supernet.epochs
    optimizer = space.base.optimizer
    if epochs is not None:
        optimizer = replace(optimizer, epochs=epochs, warmup_epochs=min(optimizer.warmup_epochs, epochs))
    return replace(space.base, name=f"{space.name}-supernet", optimizer=optimizer)


def measuring_space(space: Space) -> Space:
    """The space as cascades are chosen from it that are measured with inherited weights: training fields are fixed."""
    search = replace(space.search, num_trials=space.search.supernet.num_measured)
    return replace(_cascades_alone(space), search=search)


def finetuned_space(space: Space, finalists: Sequence[CascadeConfig] = ()) -> Space:
    """The space whose first points are the finalists, trained as long as they are."""
    alone = _cascades_alone(space)
    base = replace(
        alone.base,
        optimizer=_finetuned(space),
        train=replace(alone.base.train, backbone_epochs=0),  # stages have been joined while weights were shared
    )
    return replace(alone, base=base, first_points=tuple(replace(base, cascade=cascade) for cascade in finalists))


def choose_finalists(space: Space, inherited: Sequence[TrialResult]) -> list[CascadeConfig]:
    """The cascades to train on, as many as the search has trials: the first points, then the best of all.

    At most a quarter of them have the same token grids, if others are left: cascades that differ in reuse alone are
    hardly told apart by inherited weights, and two that are nearly the same are not worth two trainings.

    Args:
        space: What is searched.
        inherited: What cascades are worth with inherited weights.
    """
    cascades, count = space.cascades, space.search.num_trials
    # As the study writes them, depths as numbers, so that none is trained twice.
    finalists = [cascades.config(cascades.shape(recipe.cascade)) for recipe in space.first_points]
    ranked = sorted(inherited, key=lambda trial: -trial.epochs[-1].hypervolume)
    for most_alike in (-(-count // 4), count):
        for cascade in (trial.recipe.cascade for trial in ranked):
            alike = sum(other.token_grids == cascade.token_grids for other in finalists)
            if cascade not in finalists and alike < most_alike and len(finalists) < count:
                finalists.append(cascade)
    return finalists[:count]


def _cascades_alone(space: Space) -> Space:
    points = tuple(replace(space.base, cascade=recipe.cascade) for recipe in space.first_points)
    return replace(space, training={}, first_points=points)


def _finetuned(space: Space) -> OptimizerConfig:
    own, config = space.base.optimizer, space.search.supernet
    rate = own.lr * config.finetune_lr
    return replace(
        own,
        lr=rate,
        epochs=config.finetune_epochs,
        warmup_epochs=0,
        cooldown_epochs=0,
        warmup_lr=min(own.warmup_lr, rate),
        min_lr=min(own.min_lr, rate),
    )
