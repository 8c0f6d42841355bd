"""`dvt train`: reads what was asked for and hands it to the pipeline."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import tyro
from rich.console import Console

from dvt.cli.cluster import connected
from dvt.cli.pipeline import run_recipe
from dvt.cli.summary import print_places, print_report
from dvt.config import DataConfig, Recipe, load_recipe, recipe_to_yaml
from dvt.config.secrets import without_credentials
from dvt.exits import checked_budgets
from dvt.models import macs_per_exit
from dvt.tracking import check_tracking, resolve_tracking_uri
from dvt.train.init_from import TIMM_PREFIX


def main(words: Sequence[str], default_recipe: Path | None = None) -> int:
    """Run the command; returns its exit code.

    Args:
        words: The command line behind `dvt train`.
        default_recipe: The recipe where the command line names none.
    """
    asked, overrides = _parse(words)
    recipe = at_home(load_recipe(asked.recipe or default_recipe, overrides))
    if asked.print_config:
        print(recipe_to_yaml(recipe), end="")
        return 0
    budgets = checked_budgets(macs_per_exit(recipe.cascade), recipe.exits.budgets_macs)
    uri = resolve_tracking_uri(recipe.run.tracking_uri, recipe.run.storage_path)
    check_tracking(uri)
    recipe = without_password(recipe)
    console = Console()
    with connected(recipe.cluster):
        outcome = run_recipe(recipe, uri, budgets, console)
    print_report(console, outcome.report)
    print_places(console, outcome.places)
    return 0


def _parse(words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The command's own options, and what is left for the recipe; `--help` tells both and ends."""
    parser = argparse.ArgumentParser(prog="dvt train", add_help=False, allow_abbrev=False)
    parser.add_argument("--recipe", type=Path)
    parser.add_argument("--print-config", action="store_true")
    parser.add_argument("-h", "--help", action="store_true")
    asked, overrides = parser.parse_known_args(words)
    if asked.help:
        shown_recipe = load_recipe(asked.recipe) if asked.recipe else Recipe(name="NAME", data=DataConfig(root="ROOT"))
        tyro.cli(
            Recipe,
            default=shown_recipe,
            args=["--help"],
            prog="dvt train [--recipe FILE] [--print-config]",
            description=(
                "Train a cascade, choose its early-exit thresholds, record the run in MLflow and register the model. "
                "--recipe FILE reads a recipe, whose values stand as defaults below; every field can be overridden, "
                "with YAML as its value (null, [1, 2]); --print-config prints what would run, and runs nothing. "
                "The same command run again goes on with an unfinished run."
            ),
            config=(tyro.conf.FlagConversionOff,),
        )
    return asked, overrides


def at_home(recipe: Recipe) -> Recipe:
    """The recipe with local paths made absolute, as workers stand in other folders."""
    home = home_folder()
    run = replace(recipe.run, storage_path=absolute(recipe.run.storage_path, home))
    data = recipe.data if recipe.data.root is None else replace(recipe.data, root=absolute(recipe.data.root, home))
    train = recipe.train
    if train.init_from is not None and not train.init_from.startswith(TIMM_PREFIX):
        train = replace(train, init_from=absolute(train.init_from, home))
    return replace(recipe, run=run, data=data, train=train)


def without_password(recipe: Recipe) -> Recipe:
    """The recipe with MLflow's address as it may be shown, for workers and files."""
    uri = recipe.run.tracking_uri
    return recipe if uri is None else replace(recipe, run=replace(recipe.run, tracking_uri=without_credentials(uri)))


def home_folder() -> Path:
    """The folder that relative paths are meant in: this one, but the home folder in a submitted job."""
    # The folder of a submitted job is a copy that Ray removes; what a run leaves must outlive it.
    is_job_copy = "runtime_resources" in Path.cwd().parts
    return Path.home() if is_job_copy else Path.cwd()


def absolute(path: str, home: Path) -> str:
    """A local path that means the same in every working directory; other addresses as they are."""
    return path if "://" in path else os.path.normpath(home / Path(path).expanduser())
