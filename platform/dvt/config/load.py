"""Recipes from YAML files and dotted overrides, and back; every problem collected and raised once.

A recipe file and a command line go through the same checks: both become one nested dictionary first.
"""

import copy
import dataclasses
import difflib
import itertools
import math
import re
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dvt.config import yaml_text
from dvt.config.cascade import CascadeConfig
from dvt.config.problems import ConfigError, Problem
from dvt.config.recipe import Recipe
from dvt.config.secrets import without_credentials_in
from dvt.config.yaml_text import spell

T = typing.TypeVar("T")


def load_recipe(source: str | Path | Mapping[str, Any] | None, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file and put command-line overrides over it.

    Args:
        source: A YAML file, or the same as nested dictionaries; None starts from defaults, so that `overrides` must
            give what has none.
        overrides: Words as a shell hands them over: `--cascade.image-size 224` or `--cascade.image-size=224`;
            values are YAML, so lists and null can be given. An index reaches into a list, also into one that the
            file leaves at its default: `--cascade.stages.0.token-grid 4`.

    Returns:
        The recipe, valid as a whole.

    Raises:
        ConfigError: With every problem of file and overrides, each naming its field. Rules that compare the parts of
            a section are checked once each part is valid by itself.
    """
    if source is None or isinstance(source, Mapping):
        tree = copy.deepcopy(dict(source or {}))
    else:
        tree = yaml_text.read_fields(Path(source))
    problems = []
    for item in parse_overrides(overrides):
        problem = item if isinstance(item, Problem) else _put(tree, *item)
        if problem is not None:
            problems.append(problem)
    return from_dict(Recipe, tree, problems)


def recipe_from_dict(tree: Mapping[str, Any]) -> Recipe:
    """The recipe that `to_dict` gave `tree` from.

    Raises:
        ConfigError: With every problem of the tree.
    """
    return from_dict(Recipe, tree)


def recipe_to_yaml(recipe: Recipe) -> str:
    """The whole recipe as YAML, defaults included, addresses without their credentials.

    `load_recipe` reads it back to an equal one, but for those.
    """
    return yaml_text.dump(without_credentials_in(to_dict(recipe)))


def cascade_to_yaml(config: CascadeConfig) -> str:
    """The whole model configuration as YAML; `cascade_from_yaml` reads it back to an equal one."""
    return yaml_text.dump(to_dict(config))


def cascade_from_yaml(text: str) -> CascadeConfig:
    """Read a model configuration.

    Raises:
        ConfigError: With every problem of the text.
    """
    return from_dict(CascadeConfig, yaml_text.parse_fields(text, "the cascade"))


def from_dict(cls: type[T], tree: Mapping[str, Any], problems: Iterable[Problem] = ()) -> T:
    """A configuration dataclass from nested dictionaries of YAML's own types.

    Args:
        cls: The dataclass.
        tree: Its fields; unknown ones are told with the nearest known name.
        problems: What was found before; raised together with what is found here.

    Raises:
        ConfigError: With every problem.
    """
    # Imported here because the core must run where pydantic is not installed; only loading needs it.
    from pydantic import TypeAdapter, ValidationError

    found = [*problems, *_unknown_fields(cls, tree)]
    told = {problem.path for problem in found}
    try:
        config = TypeAdapter(cls).validate_python(_fit_fields(cls, tree))
    except ValidationError as error:
        found += [problem for problem in _in_our_words(error.errors()) if problem.path not in told]
        raise ConfigError(found) from error
    if found:
        raise ConfigError(found)
    return config


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration dataclass as nested dictionaries and lists of YAML's own types."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list | tuple) else value

    return typing.cast(dict[str, Any], plain(dataclasses.asdict(config)))


def flatten(tree: Mapping[str, Any], parent: str = "") -> dict[str, Any]:
    """Nested dictionaries and lists as one dictionary of dotted paths to scalars."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{parent}.{key}" if parent else str(key)
        if isinstance(value, list) and any(isinstance(item, dict) for item in value):
            value = dict(enumerate(value))
        if isinstance(value, Mapping):
            flat |= flatten(value, path)
        else:
            flat[path] = value
    return flat


def parse_overrides(given: Sequence[str]) -> Iterator[tuple[str, Any] | Problem]:
    """Dotted paths and values of a command line's `--path value` and `--path=value`; what is neither, as a problem."""
    words = list(given)
    while len(words) > 0:
        word = words.pop(0)
        if len(word) < 3 or not word.startswith("--"):
            yield Problem(word, "must be a field such as --train.seed; put -- before its dotted path")
            continue
        name, equals, text = word[2:].partition("=")
        name = name.replace("-", "_")
        if not equals:
            if not words or words[0].startswith("--"):
                yield Problem(name, "must be followed by a value, got none")
                continue
            text = words.pop(0)
        try:
            yield name, yaml_text.parse(text)
        except ValueError:
            yield Problem(name, f"must be a YAML value, got {text!r}; quote it for the shell")


def _put(tree: dict[Any, Any], dotted: str, value: Any) -> Problem | None:
    """Set the field at `dotted`, creating what stands between; indices reach into lists."""
    *parents, last = dotted.split(".")
    place: Any = tree
    default: Any = {
        field.name: to_dict(field.default_factory())
        for field in dataclasses.fields(Recipe)
        if field.default_factory is not dataclasses.MISSING
    }
    for depth, part in enumerate([*parents, last]):
        key: Any = part
        if isinstance(place, list):
            if not (part.isdecimal() and int(part) < len(place)):
                entries = f"choose from 0 to {len(place) - 1}" if place else "it has none, give the whole list as YAML"
                rule = f"must name an entry of {'.'.join(parents[:depth])}, got {part}; {entries}"
                return Problem(dotted, rule)
            key = int(part)
        elif not isinstance(place, dict):
            return Problem(dotted, f"must lead to a field, got {spell(place)} at {'.'.join(parents[:depth])}")
        if depth == len(parents):
            place[key] = value
            return None
        default = default.get(part) if isinstance(default, dict) else None
        if isinstance(place, dict) and place.get(part) is None:
            place[part] = default if isinstance(default, list) else {}
        place = place[key]
    return None


def _unknown_fields(cls: Any, tree: Any, parent: str = "") -> Iterator[Problem]:
    for name, kind, value in _children(cls, tree):
        path = f"{parent}.{name}" if parent else str(name)
        if kind is None:
            known = [field.name for field in dataclasses.fields(cls)]
            near = difflib.get_close_matches(str(name), known, n=1)
            advice = f"did you mean {near[0]}?" if near else f"choose from {', '.join(known)}"
            yield Problem(path, f"must be a known field, got {spell(name)}; {advice}")
        else:
            yield from _unknown_fields(kind, value, path)


class _Unfit:
    """Stands for a value that pydantic would convert or let pass though nobody can have meant it, so that it does not.

    A boolean is no number to people, and nothing here can be infinite.
    """

    def __init__(self, value: bool | float) -> None:
        self.value = value

    def __repr__(self) -> str:
        return spell(self.value)


def _fit_fields(cls: Any, tree: Any) -> Any:
    """`tree` without its unknown fields, so that the rest can be checked in the same go, and unfit values marked."""
    if isinstance(tree, bool):
        return tree if cls is bool else _Unfit(tree)
    if isinstance(tree, float):
        return tree if math.isfinite(tree) else _Unfit(tree)
    if isinstance(tree, list | tuple):
        return [_fit_fields(kind, value) for _, kind, value in _children(cls, tree)]
    if isinstance(tree, Mapping):
        return {name: _fit_fields(kind, value) for name, kind, value in _children(cls, tree) if kind is not None}
    return tree


def _children(cls: Any, tree: Any) -> Iterator[tuple[Any, Any, Any]]:
    """The name, type and value of every entry of `tree` where `cls` is its type.

    The type of an unknown field is None; where a scalar should stand, entries are of type object.
    """
    if isinstance(tree, list | tuple):
        kind = typing.get_args(cls)[0] if typing.get_origin(cls) is tuple else object  # all entries are of one type
        yield from ((index, kind, value) for index, value in enumerate(tree))
    elif isinstance(tree, Mapping):
        hints = typing.get_type_hints(cls) if dataclasses.is_dataclass(cls) else None
        yield from ((name, object if hints is None else hints.get(name), value) for name, value in tree.items())


_UNION_MEMBER = re.compile(r"(int|float|str|bool|none|(literal|tuple)\[.*\])")
_WANTED = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "float_parsing": "a number",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number",
    "int_type": "a whole number",
    "string_type": "text",
    "tuple_type": "a list",
}


def _location(error: Any) -> list[str]:
    # A union adds its member's name to the path; it is no field of ours.
    return [str(part) for part in error["loc"] if not _UNION_MEMBER.fullmatch(str(part))]


def _in_our_words(errors: Iterable[Any]) -> Iterator[Problem]:
    """pydantic's errors as problems; what the members of a union say of one value becomes one sentence."""
    for location, group in itertools.groupby(errors, key=_location):
        first, *others = group
        context, got = first.get("ctx", {}), spell(first["input"])
        path = ".".join(location) or "the recipe"
        if isinstance(cause := context.get("error"), ConfigError):
            yield from (problem.below(".".join(location)) for problem in cause.problems)
        elif first["type"] == "missing":
            yield Problem(path, "must be given")
        elif first["type"] == "dataclass_type":
            yield Problem(path, f"must hold fields and values, got {got}")
        elif first["type"] == "too_long":
            yield Problem(path, f"must hold {context['max_length']} values, got {context['actual_length']}")
        else:
            yield Problem(path, f"must be {' or '.join(map(_wanted, [first, *others]))}, got {got}")


def _wanted(error: Any) -> str:
    if error["type"] == "literal_error":
        return str(error["ctx"]["expected"])
    return _WANTED.get(error["type"], f"valid ({error['msg']})")
