"""`dvt plan --nodes N --gpus G`: predicts what training a recipe takes on a cluster, before anybody pays for one."""

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from dvt.config import ConfigError, Problem, Recipe, load_recipe, to_dict
from dvt.models import VARIANTS
from dvt.models.told_amounts import told_macs
from dvt.train.plan import Epoch, Nodes, image_s, memory_bytes, plan_epoch, savings, scales, training_macs
from dvt.train.plan_hardware import GPUS, Assumptions, usual

_DEFAULT = "dvt_t2t_vit_14"
_MICRO_BATCH = 64  # the paper's, for a variant without a recipe


def main(words: Sequence[str]) -> int:
    """Run the command; returns its exit code.

    Args:
        words: The command line behind `dvt plan`.
    """
    asked, overrides = _parse(words)
    recipe = load_recipe(_source(asked.recipe), overrides)
    given = _assumptions(asked, recipe)
    place = _place(asked)
    epoch = plan_epoch(recipe, place, given)
    console = Console()
    console.print(_told(recipe, place, epoch, savings(recipe, place, given), asked))
    console.print(_over_scales(recipe, place, given))
    console.print(_taken_for_granted(recipe, place, given, asked.gpu))
    return 0


def _parse(words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="dvt plan",
        description="Predict what training takes on nodes with GPUs: images/s, hours, cost, and what limits it.",
        usage="dvt plan [-h] [--recipe FILE] [--nodes N] [--gpus G] [--gpu KIND] [--OPTION VALUE ...]",
        epilog="Fields are those of the recipe, such as --train.micro-batch-size 128.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--recipe", default=_DEFAULT, help=f"a recipe, or a variant on ImageNet ({', '.join(VARIANTS)}); {_DEFAULT}"
    )
    parser.add_argument("--nodes", type=int, default=1, help="nodes of the cluster; 1")
    parser.add_argument("--gpus", type=int, default=8, help="GPUs of a node; 8")
    parser.add_argument("--gpu", default="h100", help=f"kind of GPU, {', '.join(GPUS)}; h100")
    parser.add_argument("--price-per-gpu-hour", type=float, help="what a GPU costs an hour, in any currency")
    for each in fields(Assumptions):
        flag, by_recipe = f"--{each.name.replace('_', '-')}", "as the recipe says"
        told = by_recipe if each.default is MISSING else f"{each.default:g}"
        parser.add_argument(
            flag, type=int if each.type is int else float, metavar="X", help=f"taken for granted: {told}"
        )
    return parser.parse_known_args(words)


def _source(what: str) -> Path | dict[str, Any]:
    if what not in VARIANTS:
        return Path(what)
    train = {"micro_batch_size": _MICRO_BATCH}
    return {"name": what, "data": {"root": "none"}, "cascade": to_dict(VARIANTS[what]), "train": train}


def _place(asked: argparse.Namespace) -> Nodes:
    problems = [
        Problem(f"--{name}", f"must be at least 1, got {getattr(asked, name)}")
        for name in ("nodes", "gpus")
        if getattr(asked, name) < 1
    ]
    if asked.gpu not in GPUS:
        problems.append(Problem("--gpu", f"must be a kind of GPU, got {asked.gpu!r}; choose from {', '.join(GPUS)}"))
    price = asked.price_per_gpu_hour
    if price is not None and not 0 <= price < math.inf:
        problems.append(Problem("--price-per-gpu-hour", f"must be a number of at least 0, got {price:g}"))
    if problems:
        raise ConfigError(problems)
    return Nodes(nodes=asked.nodes, gpus=asked.gpus, gpu=GPUS[asked.gpu])


def _assumptions(asked: argparse.Namespace, recipe: Recipe) -> Assumptions:
    typed = {each.name: getattr(asked, each.name) for each in fields(Assumptions)}
    values = usual(recipe) | {name: value for name, value in typed.items() if value is not None}
    if "images_per_core_s" not in values:
        rule = (
            f"must be given for data.source {recipe.data.source}, which was not measured: add the images that a core "
            f"prepares in a second"
        )
        raise ConfigError([Problem("--images-per-core-s", rule)])
    return Assumptions(**values)


def _told(recipe: Recipe, place: Nodes, epoch: Epoch, saved: Mapping[str, float], asked: argparse.Namespace) -> Table:
    """What is predicted, a line each."""
    table = Table(show_header=False, box=None, pad_edge=False, title_justify="left")
    table.title = f"{recipe.name} on {place.nodes} x {place.gpus} {asked.gpu}"
    epochs, train = recipe.optimizer.total_epochs, recipe.train
    hours = epochs * epoch.seconds / 3600
    gpu_hours, price = hours * place.total, asked.price_per_gpu_hour
    memory, has = memory_bytes(recipe) / 1e9, place.gpu.memory_gb
    table.add_row("images/s", f"{epoch.images_per_s:,.0f}, {epoch.images_per_s / place.total:,.0f} a GPU")
    table.add_row("hours", f"{hours:,.1f} for {epochs} epochs of {epoch.steps:,} steps, {epoch.seconds:,.1f} s each")
    table.add_row("GPU hours", f"{gpu_hours:,.0f}")
    table.add_row("cost", "add --price-per-gpu-hour" if price is None else f"{gpu_hours * price:,.0f}")
    table.add_row("images a step", f"{train.micro_batch_size * train.grad_accum_steps * place.total:,}")
    table.add_row("memory a GPU", f"{memory:.1f} of {has:g} GB{'' if memory < has else ': too little'}")
    first = next(iter(saved))
    table.add_row("limited by", f"{first}, of which half would save {100 * saved[first]:.0f} % of the time")
    table.add_row(
        "time goes to", ", ".join(f"{name} {100 * epoch.parts[name] / epoch.seconds:.1f} %" for name in epoch.ranked)
    )
    return table


def _over_scales(recipe: Recipe, place: Nodes, given: Assumptions) -> Table:
    """The same on 8 to 1,024 GPUs; efficiency is images/s a GPU beside those of one GPU, limits as `savings` are."""
    alone = plan_epoch(recipe, Nodes(nodes=1, gpus=1, gpu=place.gpu), given).images_per_s
    title = "the same on other numbers of GPUs"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))  # for 80 columns
    for name in ("GPUs", "a step", "images/s", "hours", "efficiency", "limited by", "then by"):
        table.add_column(name, justify="left" if name.endswith("by") else "right", no_wrap=True)
    each_step = recipe.train.micro_batch_size * recipe.train.grad_accum_steps
    for other in scales(place):
        if other.total * each_step > given.train_images:
            table.add_row(f"{other.total:,}", f"{other.total * each_step:,}", *"-" * 5)
            continue
        epoch = plan_epoch(recipe, other, given)
        (first, most), (second, less), *_ = savings(recipe, other, given).items()
        table.add_row(
            f"{other.total:,}",
            f"{other.total * each_step:,}",
            f"{epoch.images_per_s:,.0f}",
            f"{recipe.optimizer.total_epochs * epoch.seconds / 3600:,.1f}",
            f"{100 * epoch.images_per_s / other.total / alone:.1f} %",
            f"{first} {100 * most:.0f} %",
            f"{second} {100 * less:.0f} %",
        )
    return table


def _taken_for_granted(recipe: Recipe, place: Nodes, given: Assumptions, kind: str) -> Table:
    """Every number that the plan leans on, and the option that changes it."""
    table = Table(show_header=False, box=None, pad_edge=False, title="taken for granted", title_justify="left")
    macs, gpu = training_macs(recipe), place.gpu
    table.add_row("training an image", f"{told_macs(macs)} multiply-adds, {1e3 * image_s(recipe, gpu, given):.3g} ms")
    told = f"{gpu.tflops:g} TFLOP/s bfloat16, {gpu.memory_gb:g} GB, {gpu.link_gb_s:g} GB/s to the others"
    table.add_row(f"--gpu {kind}", told)
    for each in fields(Assumptions):
        table.add_row(f"--{each.name.replace('_', '-')}", f"{getattr(given, each.name):,.10g}")
    return table
