"""The candidates of a search in an Optuna study: suggested one by one, told what became of them, outliving the driver.

Optuna's own dashboard opens the study. The sampler is made anew for each candidate, seeded by the search's seed and the
candidate's number: what is suggested follows from the seed and from what is known by then, also after an interruption,
where a sampler with one seed for all would repeat its first suggestions (Optuna 5.0).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import optuna
from optuna.exceptions import OptunaError
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from dvt.config import ConfigError, Problem, Recipe
from dvt.config.secrets import redacted, without_credentials
from dvt.search.limits import IllegalCandidate
from dvt.search.results import TrialState as State
from dvt.search.settings import SearchConfig
from dvt.search.space import Space
from dvt.search.suggester import Suggester

BUDGET = "budget"  # the budget that a candidate of the pareto objective is measured at, a parameter like others
MOST_REFUSED = 500  # suggestions in a row that may be illegal or known before the space counts as exhausted
_PATIENCE = 3  # illegal or known suggestions in a row that random ones follow: a sampler can repeat itself for long
_STARTUP = 5  # random trials before TPE goes by what it knows; Optuna's 10 are half of a small search
_POPULATION = 8  # of NSGA-II; Optuna's 50 would not see a second generation in a search of usual size
_GIVEN, _REFUSED, _FAILED, _TWIN, _FIRST = "given", "refused", "failed", "twin", "first_point"  # attributes of a trial

# What a database that is wrong, away or without a driver raises: SQLAlchemy, Optuna around it, and Python's import.
_UNUSABLE = (SQLAlchemyError, OptunaError, ImportError, RuntimeError, ValueError)
_STATES: dict[TrialState, State] = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "stopped",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "running",
}


@dataclass(frozen=True)
class Candidate:
    """A legal candidate, to be trained.

    Attributes:
        number: Of its trial in the study.
        recipe: What to train.
        params: What the sampler chose.
    """

    number: int
    recipe: Recipe
    params: Mapping[str, Any]

    @property
    def budget(self) -> float | None:
        """The budget that it is measured at, of the pareto objective."""
        return self.params.get(BUDGET)


class CandidateStudy:
    """The candidates of one search.

    Args:
        space: What is searched, and how.
        uri: The database, such as `sqlite:////path/study.db` or `postgresql://...`.
        name: Of the study in it; one that is there is gone on with.
        on_refused: Told the number of an illegal candidate, and why it is not trained.

    Raises:
        ConfigError: If the database cannot be used.
    """

    def __init__(
        self, space: Space, uri: str, name: str, on_refused: Callable[[int, str], None] = lambda number, why: None
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space, self._config, self._on_refused = space, space.search, on_refused
        is_pareto = self._config.objective == "pareto"
        try:
            self._storage = RDBStorage(uri)
            self.study = optuna.create_study(
                storage=self._storage,
                study_name=name,
                directions=["maximize", "minimize"] if is_pareto else ["maximize"],
                load_if_exists=True,
            )
        except _UNUSABLE as error:
            text = redacted(str(error).replace(uri, without_credentials(uri))).strip()
            told = text.splitlines()[0] if text else type(error).__name__
            rule = f"must be a database that can be written, got: {told}; check its address and that it runs"
            raise ConfigError([Problem("search.study_uri", rule)]) from error
        self._study_id = self._storage.get_study_id_from_name(name)
        self._in_flight = [trial.number for trial in self._trials() if trial.state == TrialState.RUNNING]

    def next(self) -> Candidate | None:
        """The next candidate to train: first those that an interrupted search left, then new ones.

        Returns:
            None if as many as were asked for are given out, or the space seems to hold no more.
        """
        while self._in_flight:
            trial = self._trials()[self._in_flight.pop(0)]
            if _GIVEN in trial.user_attrs:
                return Candidate(trial.number, self._recipe(trial.number, trial.params), trial.params)
            # The search ended between its suggestion and its check.
            self.study.tell(trial.number, state=TrialState.FAIL)
        for index, recipe in enumerate(self._space.first_points):
            self._enqueue(index, recipe)
        if sum(_GIVEN in trial.user_attrs for trial in self._trials()) >= self._config.num_trials:
            return None
        for _ in range(MOST_REFUSED):
            candidate = self._ask()
            if candidate is not None:
                return candidate
        return None

    def report(self, number: int, epoch: int, hypervolume: float) -> None:
        """Keep what a trial was worth after an epoch; Optuna knows this of single objectives only."""
        if self._config.objective == "hypervolume":
            self._storage.set_trial_intermediate_value(self._id(number), epoch, hypervolume)

    def finish(self, number: int, metrics: Mapping[str, float]) -> None:
        """A trial was trained to the end; `metrics` are those of its last epoch."""
        self.study.tell(number, self._values(metrics))

    def stop(self, number: int) -> None:
        """A trial was stopped early; its last value counts as that of a stopped one."""
        self.study.tell(number, state=TrialState.PRUNED)

    def fail(self, number: int, why: str) -> None:
        """A trial failed; the sampler passes it over."""
        self._storage.set_trial_user_attr(self._id(number), _FAILED, why)
        self.study.tell(number, state=TrialState.FAIL)

    def candidates(self) -> Iterator[tuple[Candidate, FrozenTrial]]:
        """Every candidate that was ever given out, with its trial in the study."""
        for trial in self._trials():
            if _GIVEN in trial.user_attrs:
                yield Candidate(trial.number, self._recipe(trial.number, trial.params), trial.params), trial

    def refused(self) -> dict[int, str]:
        """By number, why an illegal candidate was not trained."""
        return {trial.number: trial.user_attrs[_REFUSED] for trial in self._trials() if _REFUSED in trial.user_attrs}

    @staticmethod
    def state_of(trial: FrozenTrial) -> State:
        """How a trial is called outside of Optuna."""
        return _STATES[trial.state]

    @staticmethod
    def why_failed(trial: FrozenTrial) -> str:
        """Why a trial failed; empty if it did not."""
        return str(trial.user_attrs.get(_FAILED, ""))

    @staticmethod
    def is_first_point(trial: FrozenTrial) -> bool:
        """Whether it is the first of the space's first points."""
        return bool(trial.user_attrs.get(_FIRST) == 0)

    def _ask(self) -> Candidate | None:
        """Ask for one candidate; None if it must not or need not be trained."""
        known = self._trials()
        pointless = [_REFUSED in trial.user_attrs or _TWIN in trial.user_attrs for trial in known[-_PATIENCE:]]
        is_stuck = len(pointless) == _PATIENCE and all(pointless)
        config = replace(self._config, sampler="random") if is_stuck else self._config
        self.study.sampler = sampler_of(config, len(known))
        trial = self.study.ask()
        try:
            recipe = self._suggest(trial)
        except IllegalCandidate as error:
            trial.set_user_attr(_REFUSED, str(error))
            self.study.tell(trial, state=TrialState.PRUNED)  # to the sampler it is worse than any that was trained
            self._on_refused(trial.number, str(error))
            return None
        twin = self._finished_twin(trial.params)
        if twin is not None:
            trial.set_user_attr(_TWIN, twin.number)
            self.study.tell(trial, twin.values)
            return None
        trial.set_user_attr(_GIVEN, True)
        return Candidate(trial.number, self._named(trial.number, recipe), trial.params)

    def _suggest(self, trial: Suggester) -> Recipe:
        recipe = self._space.suggest(trial)
        if self._config.objective == "pareto":
            trial.suggest_float(BUDGET, self._space.budgets.low, self._space.budgets.high, log=True)
        return recipe

    def _finished_twin(self, params: Mapping[str, Any]) -> FrozenTrial | None:
        """A finished trial of the same choices, whose values are this one's too."""
        for trial in self._trials():
            if trial.state == TrialState.COMPLETE and trial.params == params:
                return trial
        return None

    def _values(self, metrics: Mapping[str, float]) -> list[float]:
        if self._config.objective == "pareto":
            return [metrics["top1"], metrics["cost"]]
        return [metrics["hypervolume"]]

    def _recipe(self, number: int, params: Mapping[str, Any]) -> Recipe:
        asked = {name: value for name, value in params.items() if name != BUDGET}
        return self._named(number, self._space.recipe_of(asked))

    def _named(self, number: int, recipe: Recipe) -> Recipe:
        return replace(recipe, name=f"{self._space.name}-{number:04d}")

    def _enqueue(self, index: int, recipe: Recipe) -> None:
        if any(trial.user_attrs.get(_FIRST) == index for trial in self._trials()):
            return
        params = self._space.params_of(recipe)
        if self._config.objective == "pareto":
            params[BUDGET] = float(np.sqrt(self._space.budgets.low * self._space.budgets.high))
        self.study.enqueue_trial(params, user_attrs={_FIRST: index})

    def _trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)


def sampler_of(config: SearchConfig, number: int) -> BaseSampler:
    """The sampler that suggests candidate `number`."""
    seed = int(np.random.SeedSequence((config.seed, number)).generate_state(1)[0])
    if config.sampler == "random":
        return RandomSampler(seed=seed)
    if config.sampler == "nsga2":
        return NSGAIISampler(seed=seed, population_size=_POPULATION)
    return TPESampler(seed=seed, n_startup_trials=_STARTUP)
