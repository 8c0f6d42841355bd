"""`dvt search describe SPACE`: what an architecture search space holds, before anything is trained."""

import argparse
from collections.abc import Iterator, Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from dvt.cli.describe import headline
from dvt.cli.search import space_file
from dvt.config import CascadeConfig, Recipe, flatten, to_dict
from dvt.config.yaml_text import spell
from dvt.models.told_amounts import told_bytes, told_macs
from dvt.search import CascadeCost, Space, load_space
from dvt.search.choices import BACKBONE_FIELDS, REUSE_FIELDS

_SAMPLES, _SEED = 5, 0
_MOST_COUNTED = 2_000  # cascades that are all looked at for their number within the caps; it takes 0.1 s a thousand
_DRAWS = 1_000  # random candidates that stand for more


def describe(words: Sequence[str]) -> int:
    """Run the command; returns its exit code.

    Args:
        words: The command line behind `dvt search describe`.
    """
    parser = argparse.ArgumentParser(
        prog="dvt search describe",
        description="Tell a search space's choices, its size, its cheapest and dearest cascade, and five samples.",
        usage="dvt search describe [-h] SPACE [--FIELD VALUE ...]",
        epilog="Fields are those of the base recipe, such as --cascade.image-size 192.",
        allow_abbrev=False,
    )
    parser.add_argument("space", metavar="SPACE", help="a file of search_spaces/, or its name there")
    asked, overrides = parser.parse_known_args(words)
    path = space_file(asked.space)
    space = load_space(path, overrides)
    console = Console()
    console.print(space.name, style="bold", highlight=False)
    console.print(headline(space.base.cascade), highlight=False)
    console.print(_choices(space))
    samples = space.sample(np.random.default_rng(_SEED), _SAMPLES)
    console.print(_cascades(space, samples))
    if space.training:
        console.print(_training(space, samples))
    return 0


def _choices(space: Space) -> Table:
    """One line a choice, cap and budget, and the size."""
    table = Table(show_header=False, box=None, pad_edge=False)
    choices, caps = space.cascade, space.constraints
    for name in ("num_exits", "token_grids", *REUSE_FIELDS, "feature_reuse_dim", *BACKBONE_FIELDS):
        values = getattr(choices, name)
        if values:
            table.add_row(f"cascade.{name}", ", ".join(map(str, values)))
    if choices.is_reuse_shared:
        table.add_row("cascade.is_reuse_shared", "true: all later stages take the same depths")
    for path, choice in space.training.items():
        table.add_row(path, str(choice))
    if caps.max_macs is not None:
        table.add_row("MACs of the last exit", f"at most {told_macs(caps.max_macs)}")
    if caps.max_parameters is not None:
        table.add_row("parameters", f"at most {caps.max_parameters:,}")
    if caps.max_map_mib is not None:
        table.add_row("relationship maps", f"at most {caps.max_map_mib:g} MiB an image and stage")
    budgets = space.budgets
    if budgets.unit == "macs":
        table.add_row("budgets", f"{told_macs(budgets.low)} to {told_macs(budgets.high)} mean MACs an image")
    else:
        table.add_row("budgets", f"{budgets.low:g} to {budgets.high:g} ms, the mean of an image by itself")
    table.add_row("first points", str(len(space.first_points)))
    table.add_row("size", f"{space.size():,} cascades, {_share(space)}")
    return table


def _share(space: Space) -> str:
    if space.size() <= _MOST_COUNTED:
        return f"{sum(1 for _ in space.legal_cascades()):,} of them within the caps"
    share = space.count_legal(np.random.default_rng(_SEED), _DRAWS) / _DRAWS
    return f"caps aside; of {_DRAWS:,} random candidates {100 * share:.3g} % are within the caps"


def _cascades(space: Space, samples: Sequence[Recipe]) -> Table:
    """One line an exit of the cheapest, the dearest and the sampled cascades."""
    table = Table(title="Its cheapest and its dearest cascade, and random ones", title_justify="left")
    has_backbones = len(space.cascades.backbones()) > 1
    backbone = ["backbone"] if has_backbones else []
    table.add_column("", no_wrap=True)
    for name in (*backbone, "tokens", "features", "maps", "context", "MACs", "parameters", "map\nmemory"):
        table.add_column(name, justify="right", no_wrap=True)
    named = {"cheapest": space.cheapest(), "dearest": space.dearest()}
    named |= {f"sample {number}": recipe.cascade for number, recipe in enumerate(samples, start=1)}
    for name, config in named.items():
        for cells in _lines(name, config):
            table.add_row(*(cells if has_backbones else [cells[0], *cells[2:]]))
        table.add_section()
    table.caption = (
        f"{'backbone: blocks x width, heads; ' * has_backbones}features: blocks that read them; maps: blocks that add "
        "relationships < blocks upstream that hand them on; context: channels of features; MACs: of leaving at the "
        "exit; map memory: of one image, float32."
    )
    return table


def _lines(name: str, config: CascadeConfig) -> Iterator[list[str]]:
    """The cells of one cascade, an exit a line; what is the whole cascade's stands in the first."""
    cost, reuses = CascadeCost.of(config), [config.reuse(index) for index in range(config.num_exits)]
    context = str(config.feature_reuse_dim) if any(reuse.feature_depth for reuse in reuses) else "-"
    backbone = f"{config.depth}x{config.embed_dim}, {config.num_heads}"
    size = [f"{cost.parameters:,}", told_bytes(cost.map_bytes) if cost.map_bytes else "-"]
    for index, (grid, reuse) in enumerate(zip(config.token_grids, reuses, strict=True)):
        maps = f"{reuse.relation_depth} < {reuse.relation_upstream_depth}" if reuse.relation_depth else "-"
        exits = [f"{grid}x{grid}", str(reuse.feature_depth or "-"), maps]
        macs = told_macs(cost.macs[index], digits=4)
        if index == 0:
            yield [name, backbone, *exits, context, macs, *size]
        else:
            yield ["", "", *exits, "", macs, "", ""]


def _training(space: Space, samples: Sequence[Recipe]) -> Table:
    """One line a sample: its training fields."""
    table = Table(title="Training of the random ones", title_justify="left")
    table.add_column("")
    for path in space.training:
        table.add_column(path, justify="right")
    for number, recipe in enumerate(samples, start=1):
        fields = flatten(to_dict(recipe))
        values = [fields[path] for path in space.training]
        cells = [f"{value:.3g}" if isinstance(value, float) else spell(value) for value in values]
        table.add_row(f"sample {number}", *cells)
    return table
