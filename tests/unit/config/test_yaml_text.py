"""YAML as people write it: what is a number, what is a word, and what is refused."""

import math
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dvt.config.yaml_text import dump, parse, spell

VALUES = [
    ("2e-3", 2e-3),
    ("1e-6", 1e-6),
    ("1E5", 1e5),
    ("-.5", -0.5),
    ("3.", 3.0),
    (".inf", math.inf),
    ("-.inf", -math.inf),
    ("7", 7),
    ("1_000_000", 1_000_000),
    ("true", True),
    ("False", False),
    ("off", "off"),
    ("no", "no"),
    ("on", "on"),
    ("yes", "yes"),
    ("y", "y"),
    ("null", None),
    ("~", None),
    ("", None),
    ("2026-01-02", "2026-01-02"),
    ("rand-m9-mstd0.5-inc1", "rand-m9-mstd0.5-inc1"),
    ("'1e5'", "1e5"),
    ("[1, a, null]", [1, "a", None]),
    ("{a: {b: off}}", {"a": {"b": "off"}}),
]


@pytest.mark.parametrize(("text", "value"), VALUES)
def test_scalars(text: str, value: Any) -> None:
    read = parse(text)
    assert read == value
    assert type(read) is type(value)


def test_not_a_number() -> None:
    assert math.isnan(parse(".nan"))


def test_a_mapping_can_be_merged_into_others() -> None:
    read = parse("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\n")
    assert read["b"] == {"x": 1, "y": 3}


def test_aliases_of_a_usual_number_are_read() -> None:
    text = "a: &a [1, 2]\nb: &b [*a, *a]\nc: [" + ", ".join(["*b"] * 100) + "]\n"
    assert parse(text)["c"] == [[[1, 2], [1, 2]]] * 100


@pytest.mark.parametrize(
    ("first", "next_line"),
    [("a0: &a0 [x, x, x]", "a{0}: &a{0} [{1}]"), ("a0: &a0 {x: 1}", "a{0}: &a{0} {{y: [{1}]}}")],
)
def test_a_few_lines_do_not_stand_for_more_than_fits_into_memory(first: str, next_line: str) -> None:
    lines = [next_line.format(level, ", ".join([f"*a{level - 1}"] * 10)) for level in range(1, 10)]
    with pytest.raises(ValueError, match="more than 100,000 values, with those that aliases stand for"):
        parse("\n".join([first, *lines]))


def test_a_mapping_that_is_merged_again_and_again_is_refused() -> None:
    lines = [f"a{level}: &a{level}\n" + f"  <<: [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, 10)]
    with pytest.raises(ValueError, match="more than 100,000 values"):
        parse("\n".join(["a0: &a0 {x: 1}", *lines]))


def test_a_long_value_is_shown_in_part() -> None:
    assert spell("x" * 1000) == "'" + "x" * 299 + "..."
    assert spell("x" * 100) == repr("x" * 100)


REFUSED = [
    ("a: b: c", "an error at line 1: mapping values are not allowed here"),
    ("[1", "an error at line 1: expected ',' or ']', but got '<stream end>'"),
    ("a: 1\nb:\n  c: 1\n  c: 2\n", "an error at line 4: c twice"),
    ("a: 1\n---\nb: 2\n", "an error at line 2: found another document"),
    (
        "a: !!python/name:os.system x",
        "an error at line 1: could not determine a constructor for the tag 'tag:yaml.org,2002:python/name:os.system'",
    ),
    ("a: &a [*a]", "an error at line 1: an alias that holds itself"),
    ("[" * 100_000, "an error: lists or fields within one another that go too deep"),
    ("a: !!int x", "an error: invalid literal for int() with base 10: 'x'"),
    ("\x00", "an error: special characters are not allowed"),
]


@pytest.mark.parametrize(("text", "reason"), REFUSED)
def test_what_is_not_yaml_is_told_with_its_line(text: str, reason: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the message is compared below
        parse(text)
    assert str(caught.value) == reason


trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, max_examples=60)
@given(tree=trees)
@example(
    tree={"name": "1e5", "branch": "12e34567", "answer": "off", "day": "2026-01-02", "none": "null", "merge": "<<"}
)
@example(tree={"<<": 1, "1e5": 2, "": 3})
def test_what_is_written_is_read_back(tree: Any) -> None:
    assert parse(dump(tree)) == tree


@pytest.mark.parametrize(
    ("value", "spelt"), [(None, "null"), (True, "true"), (False, "false"), (1, "1"), (1.5, "1.5"), ("a", "'a'")]
)
def test_values_are_spelt_as_in_yaml(value: Any, spelt: str) -> None:
    assert spell(value) == spelt
