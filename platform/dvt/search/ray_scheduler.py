"""Which trials of a search Ray Tune stops early: asynchronous successive halving over earlier tries, too."""

from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from dvt.search.space import Space
from dvt.search.study import CandidateStudy
from dvt.search.trial import metrics_of, read_epochs, trial_folder
from dvt.train.storage import RunFolder

METRIC, EPOCH = "hypervolume", "epoch"  # what trials are compared by, and when


def make_scheduler(space: Space, folder: RunFolder, study: CandidateStudy) -> TrialScheduler:
    """Asynchronous successive halving that knows what earlier tries of the search measured.

    Args:
        space: The search, with when it stops trials early.
        folder: The search's own; its trials' folders hold what was measured.
        study: The candidates so far.
    """
    config, total = space.search, space.base.optimizer.total_epochs
    if not config.is_pruned:
        return FIFOScheduler()
    scheduler = ASHAScheduler(
        time_attr=EPOCH,
        metric=METRIC,
        mode="max",
        max_t=total,
        grace_period=min(config.grace_epochs, total),
        reduction_factor=config.reduction_factor,
    )
    controller: Any = None  # it is not asked for anything (Ray 2.60)
    for candidate, trial in study.candidates():
        if trial.state.is_finished():
            known: Any = SimpleNamespace(trial_id=f"trial {candidate.number}")
            scheduler.on_trial_add(controller, known)
            for epoch in read_epochs(trial_folder(folder, candidate.number)):
                scheduler.on_trial_result(controller, known, metrics_of(epoch))
    return scheduler
