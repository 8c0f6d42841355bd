"""`dvt export MODEL --output FOLDER`: writes a model for machines without this package, as torch.export and as ONNX."""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dvt.cli.summary import print_places
from dvt.config import ConfigError, Problem
from dvt.models.told_amounts import told_macs
from dvt.serving.exported import CASCADE, READER, ExportedStage, check_can_export, export_model
from dvt.serving.model import open_model


def main(words: Sequence[str]) -> int:
    """Run the command; returns its exit code.

    Args:
        words: The command line behind `dvt export`.
    """
    asked = _parse(words)
    check_can_export()
    output: Path = asked.output
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise ConfigError([Problem("--output", f"must be a new or an empty folder, got {output}; name another")])
    model = open_model(asked.model, asked.tracking_uri, flag="MODEL")
    partial = output.with_name(f".{output.name}.partial")  # the folder is whole or not there
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was ended
    partial.mkdir(parents=True)
    try:
        stages = export_model(model, partial)
        partial.replace(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    console = Console()
    console.print(_table(asked.model, stages))
    if model.thresholds is None:
        told = "The model holds no thresholds: a budget lets all images leave at the last exit that it pays for."
        console.print(told, soft_wrap=True)
    print_places(console, {"cascade": str(output / CASCADE), "reader": f"python {output / READER} IMAGE..."})
    return 0


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="dvt export",
        description="Write each stage of a model as a torch.export program and as ONNX, with its thresholds and a "
        "reader in numpy and onnxruntime that leaves early.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "model", metavar="MODEL", help="models:/NAME@ALIAS, models:/NAME/VERSION or a checkpoint folder"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="a new or an empty folder")
    parser.add_argument(
        "--tracking-uri", help="MLflow server or SQLite file; without it MLFLOW_TRACKING_URI, else runs/mlflow.db"
    )
    return parser.parse_args(words)


def _table(model: str, stages: Sequence[ExportedStage]) -> Table:
    """One row a stage: its files, what leaving there costs, and how far ONNX is from the model."""
    table = Table(title=f"Stages of {model}", title_justify="left")
    for name in ("torch.export", "ONNX"):
        table.add_column(name)
    for name in ("cumulative MACs", "ONNX off by"):
        table.add_column(name, justify="right")
    for stage in stages:
        table.add_row(stage.program, stage.onnx, told_macs(stage.macs), f"{stage.largest_difference:.1g}")
    table.caption = "Off by: the largest difference of a logit, on noise."
    return table
