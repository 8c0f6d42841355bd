"""Search spaces from YAML files: every problem of a file told at once, before anything is started."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dvt.config import ConfigError, Problem, Recipe, from_dict, load_recipe, recipe_from_dict, to_dict
from dvt.config.load import parse_overrides
from dvt.config.yaml_text import read_fields, spell
from dvt.search.choices import SpaceFile
from dvt.search.space import Space
from dvt.search.training import TrainingChoice, training_choices

_SEARCH = "--search."


def load_space(path: str | Path, overrides: Sequence[str] = ()) -> Space:
    """Read a search space.

    Args:
        path: The YAML file. Where its `base` names a recipe, that is looked for from the folder above the file's, which
            is the repository for `search_spaces/NAME.yaml`.
        overrides: Fields as a shell hands them over: of the base recipe, such as `--data.root` and a folder, and, with
            `search` in front, of the search, such as `--search.sampler random`.

    Returns:
        The space, valid as a whole.

    Raises:
        ConfigError: With every problem of file, base and overrides; rules between them once each is valid by itself.
    """
    path = Path(path)
    settings, base_overrides = _search_settings(overrides)
    tree = _merged(read_fields(path, "SPACE"), {"search": settings} if settings else {})
    return space_from_dict(tree, path.resolve().parent.parent, base_overrides)


def space_from_dict(tree: Mapping[str, Any], folder: Path, base_overrides: Sequence[str] = ()) -> Space:
    """A search space from the fields of its file.

    Args:
        tree: The fields.
        folder: Where the path of a base recipe starts.
        base_overrides: Fields of the base recipe as a shell hands them over.

    Raises:
        ConfigError: With every problem.
    """
    problems: list[Problem] = []
    base: Recipe | None = None
    if "base" in tree:
        try:
            base = _load_base(tree["base"], folder, base_overrides)
        except ConfigError as error:
            problems += error.problems
    training: dict[str, TrainingChoice] = {}
    if base is not None and isinstance(tree.get("training"), Mapping):
        try:
            training = training_choices(tree["training"], base)
        except ConfigError as error:
            problems += error.problems
    file = from_dict(SpaceFile, tree, problems)
    assert base is not None  # from_dict raises the problems, of which a base that is missing is one
    return Space(
        name=file.name,
        base=base,
        cascade=file.cascade,
        budgets=file.budgets,
        constraints=file.constraints,
        training=training,
        first_points=_first_points(tree.get("first_points", ()), base),
        search=file.search,
    )


def _search_settings(words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Fields of the search, and the words that are left for the base recipe."""
    own: list[str] = []
    others: list[str] = []
    is_own = False
    for word in words:
        if word.startswith("--"):
            is_own = word.startswith(_SEARCH)
        (own if is_own else others).append(word)
    settings: dict[str, Any] = {}
    problems: list[Problem] = []
    for pair in parse_overrides(own):
        if isinstance(pair, Problem):
            problems.append(pair)
        else:
            settings = _merged(settings, _nested(pair[0].removeprefix("search."), pair[1]))
    if problems:
        raise ConfigError(problems)
    return settings, others


def _nested(path: str, value: Any) -> dict[str, Any]:
    """A tree with one value, at a dotted path."""
    name, _, rest = path.partition(".")
    return {name: _nested(rest, value) if rest else value}


def _load_base(given: Any, folder: Path, overrides: Sequence[str]) -> Recipe:
    changes: Mapping[str, Any] = {}
    if isinstance(given, Mapping) and "recipe" in given:
        changes = {name: value for name, value in given.items() if name != "recipe"}
        given = given["recipe"]
    if isinstance(given, str):
        place = folder / given
        if not place.is_file():
            rule = f"must name a recipe from {folder}, got {given}, where no file is; check the path"
            raise ConfigError([Problem("base", rule)])
        source: Any = place
    elif isinstance(given, Mapping):
        source = given
    else:
        raise ConfigError([Problem("base", f"must be the path of a recipe, or its fields, got {spell(given)}")])
    try:
        # The command line has the last word, also over what the space changes of its recipe.
        return load_recipe(_merged(to_dict(load_recipe(source)), changes) if changes else source, overrides)
    except ConfigError as error:
        raise ConfigError(problem.below("base") for problem in error.problems) from error


def _first_points(given: Sequence[Any], base: Recipe) -> tuple[Recipe, ...]:
    points, problems = [], []
    for index, changes in enumerate(given):
        place = f"first_points.{index}"
        if not isinstance(changes, Mapping):
            problems.append(Problem(place, f"must hold recipe fields and values, got {spell(changes)}"))
            continue
        try:
            points.append(recipe_from_dict(_merged(to_dict(base), changes)))
        except ConfigError as error:
            problems += [problem.below(place) for problem in error.problems]
    if problems:
        raise ConfigError(problems)
    return tuple(points)


def _merged(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`tree` with `changes` in place of what it has; lists are replaced whole."""
    merged = copy.deepcopy(dict(tree))
    for name, value in changes.items():
        before = merged.get(name)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            merged[name] = _merged(before, value)
        else:
            merged[name] = value
    return merged
