"""`dvt front RUN_OR_CHECKPOINT`: measures a trained cascade again and draws everything there is to see of its front.

Images are scored on this machine, without a cluster; the thresholds are chosen anew on the calibration images.
"""

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from dvt.cli.amounts import read_macs
from dvt.cli.front_examples import draw_examples, sheet_budget
from dvt.cli.front_target import FRONT, Target, open_target
from dvt.cli.measured import measured_report
from dvt.cli.scoring_shown import scoring_shown
from dvt.cli.summary import print_places, print_report
from dvt.config import ConfigError, Problem
from dvt.data import DataSets, open_data
from dvt.exits import Confidence, ExitScores, FrontReport, checked_budgets
from dvt.exits.bootstrap import bootstrap_report
from dvt.inference import measure_latency, profile_of, read_profiles
from dvt.models import macs_per_exit
from dvt.tracking import log_front, page_command, ui_command
from dvt.tracking.example_files import write_examples
from dvt.tracking.front_files import save_picture, write_front_files
from dvt.train.checkpoint import load_checkpoint, load_model
from dvt.train.evaluate import predict_images, score_with_labels
from dvt.train.examples import Examples, look_at_examples

CONTACT_SHEET = "contact_sheet.png"


@dataclass(frozen=True)
class _Measured:
    """A cascade's report, and what it is made of."""

    data: DataSets
    report: FrontReport
    test: ExitScores
    test_labels: NDArray[np.int64]  # (N,)
    seconds_per_exit: Sequence[float]  # (E,), cumulative, an image
    examples: Examples  # test images for the page of `dvt ui`


def main(words: Sequence[str]) -> int:
    """Run the command; returns its exit code.

    Args:
        words: The command line behind `dvt front`.
    """
    asked = _parse(words)
    budget_macs = _budget(asked.budget_macs)
    console = Console()
    with open_target(asked.what, asked.tracking_uri, asked.is_recorded) as target:
        measured = _measure(target, console)
        report = measured.report
        with tempfile.TemporaryDirectory(prefix="dvt-") as scratch:
            local = Path(scratch) / FRONT
            _write(local, measured, budget_macs)
            places = _keep(local, asked.output, target, report)
    print_report(console, report)
    print_places(console, places)
    return 0


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="dvt front",
        description="Draw and store the front of a trained cascade: accuracy over cost and how sure it is, who leaves "
        "where, a contact sheet of images by exit, an interactive page, JSON and CSV.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "what",
        metavar="RUN_OR_CHECKPOINT",
        help="an MLflow run's id, a run's folder (also s3://), or a checkpoint folder",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help="where to write; without it the run's folder, else fronts/NAME"
    )
    parser.add_argument(
        "--budget-macs", metavar="MACS", help="budget of the contact sheet, as 1.2G; without it the middle reported one"
    )
    parser.add_argument(
        "--tracking-uri",
        help="MLflow server or SQLite file; without it MLFLOW_TRACKING_URI, else the run's own or runs/mlflow.db",
    )
    parser.add_argument("--no-record", dest="is_recorded", action="store_false", help="leave the MLflow run as it is")
    return parser.parse_args(words)


def _budget(asked: str | None) -> float | None:
    macs = None if asked is None else read_macs("--budget-macs", asked)
    if isinstance(macs, Problem):
        raise ConfigError([macs])
    return macs


def _measure(target: Target, console: Console) -> _Measured:
    """Look at calibration and test images, showing how it goes."""
    recipe = load_checkpoint(target.checkpoint).recipe
    data = open_data(recipe.data, recipe.cascade)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_model(target.checkpoint).to(device)
    labels: list[NDArray[np.int64]] = []

    def score_test(confidence: Confidence) -> ExitScores:
        with scoring_shown(console, "test", len(data.test)) as on_batch:
            scores, of_images = score_with_labels(
                model, data.test, recipe.data, device, confidence=confidence, on_batch=on_batch
            )
        labels.append(of_images)
        return scores

    with scoring_shown(console, "calibration", len(data.calibration)) as on_batch:
        calibration = predict_images(model, data.calibration, recipe.data, device, on_batch=on_batch)
    budgets = checked_budgets(macs_per_exit(recipe.cascade), recipe.exits.budgets_macs)
    earlier = target.earlier_report()
    static = None if earlier is None else earlier.static_reference
    report, test = measured_report(recipe, calibration, score_test, budgets, static)
    profile = profile_of(read_profiles(target.checkpoint), device)
    if profile is None:  # a quick one, for this picture alone
        profile = measure_latency(model, batch_sizes=(32,), repeats=3)
    examples = look_at_examples(model.eval(), data, device, report.confidence)
    return _Measured(data, report, test, labels[0], profile.seconds_per_exit(), examples)


def _write(local: Path, measured: _Measured, budget_macs: float | None) -> None:
    """All files of the front into one folder."""
    report = measured.report
    try:
        sheet = draw_examples(
            report, sheet_budget(report, budget_macs), measured.data, measured.test, measured.test_labels
        )
    except ConfigError as error:  # speaks of a budget; here it is a flag
        raise ConfigError(Problem("--budget-macs", problem.rule) for problem in error.problems) from error
    bands = bootstrap_report(report, measured.test)
    write_front_files(local, report, bands, measured.seconds_per_exit)
    write_examples(local, measured.examples)
    if sheet is not None:
        save_picture(sheet, local / CONTACT_SHEET)


def _keep(local: Path, output: Path | None, target: Target, report: FrontReport) -> dict[str, str]:
    """Copy the files to where they belong; where they are, by what they are called."""
    if output is None and target.folder is not None:
        target.folder.put(local)
        place = f"{target.folder.address}/{FRONT}"
    else:
        output = output if output is not None else Path("fronts") / report.recipe
        shutil.copytree(local, output, dirs_exist_ok=True)
        place = str(output)
    pictures = {
        "front": "front.png",
        "front over time": "front_time.png",
        "where images leave": "shares.png",
        "images by exit": CONTACT_SHEET,
        "interactive page": "front.html",
    }
    places = {name: f"{place}/{file}" for name, file in pictures.items() if (local / file).exists()}
    places["front's data"] = f"{place}/front.json and front.csv"
    if target.record is None:
        return places | {"MLflow run": "not recorded"}
    log_front(target.record, local)
    told = f"{target.record.run_id} at {target.record.address}, artifact folder {FRONT}"
    return places | {
        "MLflow run": told,
        "see it": page_command(target.record),
        "see its front": ui_command(target.record),
    }
