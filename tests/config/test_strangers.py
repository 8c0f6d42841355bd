"""Recipes, spaces and thresholds from strangers are data: no tag makes an object, no text is expanded or imported."""

import json
from pathlib import Path

import pytest

from dvt.config import ConfigError, cascade_from_yaml, load_recipe
from dvt.exits import ThresholdTable
from dvt.search import load_space

ROOT = Path(__file__).resolve().parents[2]
TAGS = {
    "object/apply": "!!python/object/apply:os.mkdir [MARK]",
    "object/new": "!!python/object/new:os.mkdir [MARK]",
    "object": "!!python/object:pathlib.Path {}",
    "name": "!!python/name:os.system",
    "module": "!!python/module:os",
    "tuple": "!!python/tuple [1, 2]",
}


def told(load: object, *args: object) -> str:
    with pytest.raises(ConfigError) as caught:
        load(*args)  # type: ignore[operator]
    return str(caught.value)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "made"


@pytest.mark.parametrize("kind", TAGS)
def test_tags_make_no_objects(kind: str, tmp_path: Path, mark: Path) -> None:
    tag = TAGS[kind].replace("MARK", str(mark))
    name = tag.split()[0].removeprefix("!!")
    of_tag = f"could not determine a constructor for the tag 'tag:yaml.org,2002:{name}'"
    why = f"must be YAML, got an error at line 2: {of_tag}"
    file = tmp_path / "file.yaml"
    file.write_text(f"name: x\ndata: {tag}\n")
    assert told(load_recipe, file) == f"{file} {why}"
    assert told(load_space, file) == f"{file} {why}"
    assert told(cascade_from_yaml, file.read_text()) == f"the cascade {why}"
    assert told(load_recipe, {"name": "x"}, ["--data.root", tag]) == (
        f"data.root must be a YAML value, got {tag!r}; quote it for the shell"
    )
    assert not mark.exists()


def test_a_space_cannot_name_code_or_a_recipe_elsewhere_runs_none(tmp_path: Path, mark: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"name: !!python/object/apply:os.mkdir [{mark}]\n")
    space = tmp_path / "spaces" / "space.yaml"
    space.parent.mkdir()
    space.write_text("name: x\nbase: {recipe: recipe.yaml}\n")
    assert told(load_space, space).startswith("base.")
    assert not mark.exists()


@pytest.mark.parametrize(
    "text", ["$HOME/x", "${HOME}", "{0.__class__.__mro__}", "%(name)s", "{{7*7}}", "__import__('os').getcwd()", "~root"]
)
def test_texts_stay_as_they_are(text: str) -> None:
    recipe = load_recipe({"name": "x", "data": {"root": text}}, ["--run.experiment", json.dumps(text)])
    assert recipe.data.root == text
    assert recipe.run.experiment == text


@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "dvt.cli.main", "../../evil"])
def test_names_of_code_choose_nothing(name: str) -> None:
    for path in ("data.source", "search.sampler"):
        load = load_space if path.startswith("search") else load_recipe
        file = ROOT / ("search_spaces" if path.startswith("search") else "jobs/recipes") / "embedded.yaml"
        assert f"{path} must be " in told(load, file, [f"--{path}", name])


@pytest.mark.parametrize("text", ["!!python/object/apply:os.getcwd []", "__import__('os')"])
def test_thresholds_are_json_alone(text: str) -> None:
    with pytest.raises(ValueError, match=r"^Expecting value"):
        ThresholdTable.from_dict(json.loads(text))
