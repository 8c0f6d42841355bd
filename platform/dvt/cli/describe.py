"""`dvt describe WHAT`: a cascade's stages, parameters, cost by part and relationship maps, from shapes alone."""

import argparse
import difflib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from dvt.config import CascadeConfig, ConfigError, Problem, load_recipe, to_dict
from dvt.models import VARIANTS, Cascade, macs_per_exit, relation_numbers, stage_macs
from dvt.models.told_amounts import told_bytes, told_macs
from dvt.train.checkpoint import load_checkpoint

_PARTS = {
    "tokenizer": "tokenizer",
    "blocks": "blocks",
    "feature_reuse": "feature reuse",
    "relation_reuse": "relationship reuse",
    "head": "head",
    "total": "stage",
}
_MAPS = {
    "handed_on": "of the stage before",
    "hidden": "hidden",
    "mixed": "mixed",
    "resized": "resized, a block at a time",
}


def main(words: Sequence[str]) -> int:
    """Run the command; returns its exit code.

    Args:
        words: The command line behind `dvt describe`.
    """
    parser = argparse.ArgumentParser(
        prog="dvt describe",
        description="Tell a cascade's stages, parameters, multiply-adds by part and memory of relationship maps.",
        usage="dvt describe [-h] WHAT [--cascade.FIELD VALUE ...]",
        allow_abbrev=False,
    )
    parser.add_argument("what", metavar="WHAT", help=f"a variant ({', '.join(VARIANTS)}), recipe or checkpoint folder")
    asked, overrides = parser.parse_known_args(words)
    config = load_recipe(_source(asked.what), overrides).cascade
    console = Console()
    console.print(asked.what, style="bold", highlight=False)
    console.print(headline(config), highlight=False)
    console.print(_table(config))
    return 0


def headline(config: CascadeConfig) -> str:
    """What all stages of a cascade share, as one line."""
    side = f"{config.image_size}x{config.image_size}"
    return (
        f"family {config.family}, {side} pixels of {config.in_chans}, {config.num_classes} classes; "
        f"width {config.embed_dim}, {config.depth} blocks, {config.num_heads} heads, MLP x{config.mlp_ratio:g}"
    )


def _source(what: str) -> Path | dict[str, Any]:
    if what in VARIANTS:  # a recipe needs images, which matter to nothing here
        return {"name": what, "data": {"root": "none"}, "cascade": to_dict(VARIANTS[what])}
    path = Path(what)
    if path.is_dir():
        return to_dict(load_checkpoint(path).recipe)
    if path.is_file():
        return path
    near = difflib.get_close_matches(what, VARIANTS, n=1)
    advice = f"did you mean {near[0]}?" if near else f"choose from {', '.join(VARIANTS)}"
    raise ConfigError([Problem("WHAT", f"must be a variant, a recipe or a checkpoint folder, got {what!r}; {advice}")])


def _table(config: CascadeConfig) -> Table:
    """One column an exit."""
    exits = range(config.num_exits)
    table = Table(show_header=True)
    table.add_column("")
    for index in exits:
        table.add_column(f"exit {index + 1}", justify="right")

    reuses = [config.reuse(index) for index in exits]
    macs, maps = ([count(config, index) for index in exits] for count in (stage_macs, relation_numbers))
    with torch.device("meta"):
        stages = Cascade(config).stages
    sizes = [sum(tensor.numel() for tensor in stage.state_dict().values()) for stage in stages]
    table.add_row("tokens", *(f"{grid}x{grid}" for grid in config.token_grids))
    table.add_row("blocks that read features", *(_or_dash(reuse.feature_depth, str) for reuse in reuses))
    table.add_row("blocks that read relationships", *(_or_dash(reuse.relation_depth, str) for reuse in reuses))
    table.add_row("blocks they are read from", *(_or_dash(reuse.relation_upstream_depth, str) for reuse in reuses))
    table.add_section()
    table.add_row(f"parameters, {sum(sizes):,} in all", *(f"{size:,}" for size in sizes))
    table.add_section()
    for field, name in _PARTS.items():
        table.add_row(f"MACs: {name}", *(_or_dash(getattr(each, field), _told_macs) for each in macs))
    table.add_row("cumulative MACs", *map(_told_macs, macs_per_exit(config)))
    table.add_section()
    for field, name in _MAPS.items():
        table.add_row(f"maps: {name}", *(_or_dash(getattr(each, field), _told_bytes) for each in maps))
    table.caption = "Parameters with fixed tables; MACs and memory (float32) of one image."
    return table


def _or_dash(number: int, tell: Callable[[int], str]) -> str:
    return tell(number) if number else "-"


def _told_macs(macs: int) -> str:
    return told_macs(macs, digits=4)  # as many as the published figures have


def _told_bytes(numbers: int) -> str:
    return told_bytes(4 * numbers)
