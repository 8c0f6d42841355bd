"""`Space`: which recipes a search may try, over a base recipe; a searcher's trial chooses one of them.

A candidate is a whole `Recipe`. A trial is asked define-by-run: a choice that others make pointless is not asked for.
A cascade that breaks a cap is never built: `IllegalCandidate` says which cap, and by what value.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dvt.config import CascadeConfig, ConfigError, Problem, Recipe, Rules, flatten, to_dict
from dvt.config.yaml_text import spell
from dvt.search import extremes
from dvt.search.cascades import CascadeSet
from dvt.search.choices import BudgetRange, CascadeChoices, Constraints
from dvt.search.limits import MIB, CascadeCost, IllegalCandidate, Limits
from dvt.search.questions import answers_of, suggest_shape
from dvt.search.settings import SearchConfig, require_sharable
from dvt.search.suggester import Answers, RandomSuggester, Scalar, Suggester
from dvt.search.training import TrainingChoice, with_fields

MOST_DRAWS = 10_000  # random candidates in a row that may be illegal before sampling gives up


@dataclass(frozen=True, kw_only=True)
class Space:
    """A validated, conditional space of recipes.

    Attributes:
        name: Names the study.
        base: Gives every field that is not chosen.
        cascade: What cascades differ in.
        budgets: The budgets that count.
        constraints: Caps on cascades.
        training: The values of recipe fields that are chosen with the cascade, by dotted path, in order.
        first_points: Recipes to try first; each is a candidate of the space.
        search: How it is searched.

    Raises:
        ConfigError: With every problem found: choices that do not fit the base, no cascade within the caps, a budget
            below the cheapest exit, a first point that is not in the space.
    """

    name: str
    base: Recipe
    cascade: CascadeChoices
    budgets: BudgetRange
    constraints: Constraints = field(default_factory=Constraints)
    training: Mapping[str, TrainingChoice] = field(default_factory=dict)
    first_points: tuple[Recipe, ...] = ()
    search: SearchConfig = field(default_factory=SearchConfig)

    def __post_init__(self) -> None:
        self._check_base()
        try:
            cascades = self.cascades
        except ConfigError as error:
            raise ConfigError(problem.below("cascade") for problem in error.problems) from error
        if self.search.mode == "supernet":
            self._check_sharing(cascades)
        self._check_limits(cascades)
        self._check_first_points()

    @property
    def cascades(self) -> CascadeSet:
        """The cascades, caps aside: iterates over them, and counts them without."""
        return CascadeSet(self.base.cascade, self.cascade)

    @property
    def limits(self) -> Limits:
        """The caps as numbers."""
        return Limits.of(self.constraints, self.budgets)

    def suggest(self, trial: Suggester) -> Recipe:
        """The recipe that a trial chooses.

        Args:
            trial: An Optuna trial, or anything else with its three `suggest_` methods.

        Raises:
            IllegalCandidate: If the chosen recipe breaks a cap, or a rule of recipes.
        """
        cascades = self.cascades
        config = cascades.config(suggest_shape(cascades, trial))
        chosen = {path: choice.suggest(trial, path) for path, choice in self.training.items()}
        broken = self.limits.broken_by(CascadeCost.of(config))
        if broken is not None:
            raise IllegalCandidate(broken)
        return self._recipe(config, chosen)

    def recipe_of(self, params: Mapping[str, Any]) -> Recipe:
        """The recipe of stored parameters, as a trial had them.

        Raises:
            ConfigError: If a parameter is missing, unknown, or has a value that the space does not have.
            IllegalCandidate: If the recipe breaks a cap, or a rule of recipes.
        """
        answers = Answers(params)
        recipe = self.suggest(answers)
        answers.require_all_asked()
        return recipe

    def params_of(self, recipe: Recipe) -> dict[str, Scalar]:
        """The parameters of a candidate; `recipe_of` makes the same recipe of them, depths written as numbers.

        Raises:
            ConfigError: If the recipe is not in the space; names each field that is in the way.
            IllegalCandidate: If it breaks a cap.
        """
        fields = flatten(to_dict(recipe))
        cascades = self.cascades
        answers = Answers(answers_of(cascades, recipe.cascade) | {path: fields[path] for path in self.training})
        held = flatten(to_dict(self.suggest(answers)))
        shape = cascades.shape(recipe.cascade)
        resolved = replace(recipe, cascade=replace(recipe.cascade, stages=cascades.config(shape).stages))
        if not any(reuse.feature_depth for reuse in shape.reuses):  # then its width counts for nothing
            resolved = with_fields(resolved, {"cascade.feature_reuse_dim": self.base.cascade.feature_reuse_dim})
        given = flatten(to_dict(resolved))
        problems = [
            Problem(path, f"must be {spell(held.get(path))} in this space, got {spell(given.get(path))}")
            for path in dict.fromkeys([*held, *given])
            if held.get(path) != given.get(path)
        ]
        if problems:
            raise ConfigError(problems)
        return answers.asked

    def size(self) -> int:
        """Number of different cascades, caps aside; exact. Training fields are not counted."""
        return self.cascades.size()

    def legal_cascades(self) -> Iterator[CascadeConfig]:
        """Every cascade within the caps once; makes all others too, so mind `size`."""
        cascades, limits = self.cascades, self.limits
        for config in map(cascades.config, cascades):
            if limits.broken_by(CascadeCost.of(config)) is None:
                yield config

    def cheapest(self) -> CascadeConfig:
        """The cascade within the caps whose last exit costs the fewest multiply-adds; exact."""
        shape = extremes.cheapest(self.cascades, self.limits)
        assert shape is not None  # a space without cascades is refused
        return self.cascades.config(shape)

    def dearest(self) -> CascadeConfig:
        """The cascade within the caps whose last exit costs the most multiply-adds; exact.

        Takes longest where a cap is tight and stages have hundreds of options.
        """
        shape = extremes.dearest(self.cascades, self.limits)
        assert shape is not None
        return self.cascades.config(shape)

    def sample(self, generator: np.random.Generator, n: int) -> list[Recipe]:
        """Candidates within the caps, each drawn by itself: choice by choice, evenly; some may be equal.

        Args:
            generator: Draws them; the same state gives the same recipes.
            n: How many.

        Raises:
            IllegalCandidate: If 10,000 draws in a row were illegal.
        """
        trial = RandomSuggester(generator)
        return [self._draw(trial) for _ in range(n)]

    def count_legal(self, generator: np.random.Generator, n: int) -> int:
        """How many of `n` random candidates, drawn as by `sample`, keep to the caps."""
        trial, legal = RandomSuggester(generator), 0
        for _ in range(n):
            with contextlib.suppress(IllegalCandidate):
                self.suggest(trial)
                legal += 1
        return legal

    def _draw(self, trial: Suggester) -> Recipe:
        broken = ""
        for _ in range(MOST_DRAWS):
            try:
                return self.suggest(trial)
            except IllegalCandidate as error:
                broken = str(error)
        raise IllegalCandidate(f"one of {MOST_DRAWS} random candidates must be legal, got none; of the last, {broken}")

    def _recipe(self, config: CascadeConfig, chosen: Mapping[str, Scalar]) -> Recipe:
        try:
            recipe: Recipe = with_fields(replace(self.base, cascade=config), chosen)
        except ConfigError as error:
            raise IllegalCandidate("; ".join(map(str, error.problems))) from error
        return recipe

    def _check_base(self) -> None:
        rules = Rules()
        rules.require(
            bool(self.name) and all(letter.isalnum() or letter in "_-" for letter in self.name),
            "name",
            f"must be letters, digits, - and _ only, got {self.name!r}",
        )
        budgets = self.base.exits.budgets_macs
        rules.require(
            not budgets,
            "base.exits.budgets_macs",
            f"must be empty, since cascades differ in what their first exit costs, got {', '.join(map(str, budgets))}",
        )
        rules.require(
            not self.base.cluster.is_elastic,
            "base.cluster.num_workers",
            f"must be one number in a search, got {list(self.base.cluster.worker_range)}",
        )
        weights, counts = len(self.base.loss.exit_weights), self.cascade.num_exits
        rules.require(
            weights == 0 or counts == (weights,),
            "base.loss.exit_weights",
            f"must be empty, or one weight an exit where cascade.num_exits is one number, got {weights}",
        )
        rules.enforce()

    def _check_sharing(self, cascades: CascadeSet) -> None:
        cascades.require_one_width()
        try:
            require_sharable(self.base)
        except ConfigError as error:
            raise ConfigError(problem.below("base") for problem in error.problems) from error

    def _check_limits(self, cascades: CascadeSet) -> None:
        limits = self.limits
        if extremes.cheapest(cascades, limits) is None:
            raise ConfigError([self._emptiness(cascades)])
        least = extremes.cheapest_exit(cascades, limits)
        if least is not None and self.budgets.min_macs is not None and self.budgets.min_macs < least:
            rule = f"must be at least {least}, the cost of the cheapest exit, got {self.budgets.min_macs:.12g}"
            raise ConfigError([Problem("budgets.min_macs", rule)])

    def _emptiness(self, cascades: CascadeSet) -> Problem:
        """Why no cascade is within the caps: the caps beside the least that any cascade needs."""
        least = extremes.cheapest_exit(cascades, Limits.none())
        assert least is not None
        if self.budgets.max_macs is not None and self.budgets.max_macs < least:
            rule = f"must be at least {least}, the cost of the cheapest exit, got {self.budgets.max_macs:.12g}"
            return Problem("budgets.max_macs", rule)
        names = ("max_macs", "max_parameters", "max_map_mib")
        caps = {name: getattr(self.constraints, name) for name in names}
        told = ", ".join(f"{name} {cap:.12g}" for name, cap in caps.items() if cap is not None)
        needed = extremes.least_costs(cascades)
        rule = f"must leave a cascade, got none within {told}; the least of each is {needed.macs[-1]} multiply-adds, "
        rule += f"{needed.parameters} parameters, {needed.map_bytes / MIB:.6g} MiB of relationship maps"
        return Problem("constraints", rule)

    def _check_first_points(self) -> None:
        problems: list[Problem] = []
        for index, recipe in enumerate(self.first_points):
            try:
                self.params_of(recipe)
            except ConfigError as error:
                problems += [problem.below(f"first_points.{index}") for problem in error.problems]
            except IllegalCandidate as error:
                problems.append(Problem(f"first_points.{index}", f"must keep to the caps: {error}"))
        if problems:
            raise ConfigError(problems)
