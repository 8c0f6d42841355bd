"""YAML as people write it today: `2e-3` is a number, `off` and `no` are words, a key stands once in its mapping.

PyYAML speaks YAML 1.1, where `2e-3` is text, `off` is false and the last of two equal keys wins in silence.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from dvt.config.problems import ConfigError, Problem

_BOOL = re.compile(r"^(true|True|TRUE|false|False|FALSE)$")
_FLOAT = re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$")
_FLOAT_STARTS = list("-+.0123456789")
_MOST_SPELLED = 300  # characters of a value in a message
_REPLACED = (":bool", ":float", ":timestamp")


MOST_VALUES = 100_000  # of a text, with each alias counted as what it stands for


class _Loader(yaml.SafeLoader):
    """Reads plain data only, and no more of it than memory is made for, whatever a short text stands for."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._sizes: dict[yaml.Node, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        mark, is_alias = self.peek_event().start_mark, self.check_event(yaml.AliasEvent)  # type: ignore[no-untyped-call]
        node = super().compose_node(parent, index)
        if node is not None and not is_alias:
            values = node.value if isinstance(node, yaml.CollectionNode) else ()
            parts = [part for each in values for part in (each if isinstance(each, tuple) else (each,))]
            self._sizes[node] = 1 + sum(self._sizes[part] for part in parts)
        if node not in self._sizes:
            raise yaml.composer.ComposerError(problem="an alias that holds itself", problem_mark=mark)
        if self._sizes[node] > MOST_VALUES:
            rule = f"more than {MOST_VALUES:,} values, with those that aliases stand for"
            raise yaml.composer.ComposerError(problem=rule, problem_mark=mark)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: list[Any] = []
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue  # `<<: *other` may stand more than once
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(problem=f"{key} twice", problem_mark=key_node.start_mark)
            seen.append(key)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(_REPLACED)]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", _BOOL, list("tTfF"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, _FLOAT_STARTS)


class _Dumper(yaml.SafeDumper):
    """Writes text in quotes wherever YAML 1.1 or `_Loader` would take it for something else."""


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, _FLOAT_STARTS)


def parse(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        ValueError: If it is not YAML; the message says why, and at which line.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506  _Loader is a SafeLoader
    except RecursionError as error:
        raise ValueError("an error: lists or fields within one another that go too deep") from error
    except (yaml.YAMLError, ValueError) as error:  # the latter from a value that is not what its tag says
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
        where = f" at line {mark.line + 1}" if mark else ""
        raise ValueError(f"an error{where}: {reason.removeprefix('but ')}") from error


def parse_fields(text: str, source: str) -> dict[Any, Any]:
    """The fields and values of a YAML text that came from `source`.

    Raises:
        ConfigError: If it is not YAML, or something else than fields and values.
    """
    try:
        tree = parse(text)
    except ValueError as error:
        raise ConfigError([Problem(source, f"must be YAML, got {error}")]) from error
    if not isinstance(tree, dict):
        kind = {type(None): "nothing", list: "a list"}.get(type(tree), "one value")
        raise ConfigError([Problem(source, f"must hold fields and values, got {kind}")])
    return tree


def read_fields(path: Path, asked_by: str = "--recipe") -> dict[Any, Any]:
    """The fields and values of a YAML file.

    Args:
        path: The file.
        asked_by: What a person named the file with, for the message.

    Raises:
        ConfigError: If the file cannot be read or used.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = "not a text file" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise ConfigError([Problem(asked_by, f"must name a readable YAML file, got {path} ({reason})")]) from error
    return parse_fields(text, str(path))


def dump(tree: Any) -> str:
    """Plain data as YAML that `parse`, and any reader of YAML 1.1, reads back to the same."""
    text: str = yaml.dump(tree, Dumper=_Dumper, sort_keys=False, width=120)
    return text


def spell(value: Any) -> str:
    """A value as a message shows it: null, true and false as YAML has them, text in quotes; a long one in part."""
    words = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return words[value]
    text = repr(value)
    return text if len(text) <= _MOST_SPELLED else f"{text[:_MOST_SPELLED]}..."
