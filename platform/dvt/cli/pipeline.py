"""From a recipe to a registered model: train, measure, choose thresholds, record, register.

Every step finds what an earlier, interrupted try of the same command did, and goes on from there.
"""

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ray.train import Checkpoint
from rich.console import Console

from dvt.cli.checkpoint_content import checkpoint_content
from dvt.cli.cluster import describe_nodes
from dvt.cli.cluster_examples import examples_on_cluster
from dvt.cli.measured import measured_report
from dvt.cli.progress import shown
from dvt.config import ExitsConfig, Recipe, StageConfig
from dvt.config.logs import bound
from dvt.exits import FrontReport, StaticReference
from dvt.exits.bootstrap import FrontBands, bootstrap_report
from dvt.models import macs_per_exit
from dvt.tracking import (
    MlflowSinkFactory,
    ModelRecord,
    RunRecord,
    all_handed_on,
    closed_as_it_ends,
    log_and_register_model,
    log_artifacts,
    log_checkpoints,
    log_data,
    log_environment,
    log_front,
    log_metrics,
    open_run,
    page_command,
    ui_command,
)
from dvt.tracking.example_files import write_examples
from dvt.tracking.front_files import write_front_files
from dvt.train.examples import Examples
from dvt.train.past_run import kept_checkpoints
from dvt.train.ray_checkpoint import local_copy
from dvt.train.ray_metrics import ExportedSinkFactory
from dvt.train.ray_report import tell_last_rows
from dvt.train.ray_train import (
    DataSummary,
    predict_on_cluster,
    score_on_cluster,
    summarize_data,
    train_on_cluster,
)
from dvt.train.storage import RUN, RunFolder, open_run_folder
from dvt.train.trace import TRACE

FRONT, STATIC = "front", "static"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What a run ends with: the exits and budgets, and where everything is, by what it is called."""

    report: FrontReport
    places: Mapping[str, str]


@dataclass(frozen=True)
class _Run:
    """One run while it is driven from here."""

    recipe: Recipe
    folder: RunFolder
    record: RunRecord
    console: Console


def run_recipe(recipe: Recipe, tracking_uri: str, budgets: Sequence[float], console: Console) -> Outcome:
    """Run a recipe on the connected cluster, from data to registered model.

    Args:
        recipe: What to run; its paths are absolute.
        tracking_uri: A tracking address that answers.
        budgets: Mean multiply-adds an image to choose thresholds for.
        console: Where a person reads along.

    Raises:
        ConfigError: If the recipe does not fit the images or an earlier run.
        CheckpointError: If a checkpoint cannot be read or written.
        DataError: If the images cannot be used.
        Terminated: If SIGTERM ended it; its last checkpoint is kept.
        TrackingError: If MLflow does not take what there is to record.
        TrainingError: If training cannot go on.
    """
    data = summarize_data(recipe)
    folder = open_run_folder(recipe, recipe.run)
    with _recorded(recipe, folder, tracking_uri) as record:
        log_data(record, recipe.data, data.sizes, data.fingerprints)
        log_environment(record, describe_nodes())
        run = _Run(recipe, folder, record, console)
        best = _train(run)
        static = _static_reference(run, tracking_uri) if recipe.exits.static_reference else None
        report, test = measured_report(
            recipe,
            predict_on_cluster(recipe, best),
            lambda confidence: score_on_cluster(recipe, best, "test", confidence),
            budgets,
            static,
        )
        examples = examples_on_cluster(recipe, best, report.confidence)
        keep_front(folder, record, report, bootstrap_report(report, test), examples)
        model = _keep_model(run, best, report, data)
    folder.finish({"model": model.model_uri, "mlflow_run": record.run_id})
    return Outcome(report, _places(run, model))


@contextmanager
def _recorded(
    recipe: Recipe, folder: RunFolder, tracking_uri: str, parent: RunRecord | None = None
) -> Iterator[RunRecord]:
    """The MLflow run of a run folder, the same one after a restart; closed with how it ended."""
    resume = RunRecord.from_json(folder.read(RUN)) if folder.has(RUN) else None
    record = open_run(recipe, tracking_uri=tracking_uri, run_name=folder.name, resume=resume, parent=parent)
    folder.write(RUN, record.to_json())
    with closed_as_it_ends(record), bound(run_id=record.run_id):
        logger.info("run %s is kept in %s", folder.name, folder.address)
        yield record


def _train(run: _Run) -> Checkpoint:
    """Train, showing how it goes."""
    make_lasting = MlflowSinkFactory.of(run.record)
    tell_last_rows(run.folder, make_lasting)
    make_sink = ExportedSinkFactory(make_lasting, run.folder.name)
    epochs = run.recipe.optimizer.total_epochs
    with all_handed_on(run.record), shown(run.console, run.folder.name, epochs, make_sink) as make_shown:
        best = train_on_cluster(run.recipe, run.folder, make_shown, ends_by_sigterm=True)
    log_checkpoints(run.record, kept_checkpoints(run.folder))
    if run.folder.has(TRACE):
        with tempfile.TemporaryDirectory(prefix="dvt-") as scratch:
            run.folder.get(TRACE, Path(scratch))
            log_artifacts(run.record, Path(scratch) / TRACE, TRACE)
    return best


def _static_reference(run: _Run, tracking_uri: str) -> StaticReference:
    """Train and measure one static model of the last grid with the same recipe, as a run below this one."""
    grid = run.recipe.cascade.token_grids[-1]
    recipe = replace(
        run.recipe,
        name=f"{run.recipe.name}-{STATIC}",
        cascade=replace(run.recipe.cascade, stages=(StageConfig(token_grid=grid),)),
        loss=replace(run.recipe.loss, exit_weights=()),
        exits=ExitsConfig(),
    )
    folder = run.folder.child(STATIC)
    with _recorded(recipe, folder, tracking_uri, parent=run.record) as record:
        checkpoint = _train(_Run(recipe, folder, record, run.console))
        test = score_on_cluster(recipe, checkpoint, "test")
        (macs,) = macs_per_exit(recipe.cascade)
        log_metrics(record, {"test/exit_1/top1": test.top1[0], "exit_1/macs": macs}, step=0)
    return StaticReference(token_grid=grid, macs=macs, test_top1=test.top1[0])


def keep_front(
    folder: RunFolder, record: RunRecord, report: FrontReport, bands: FrontBands, examples: Examples
) -> None:
    """The front as data, table, pictures, page and example images, in the run's folder and with its MLflow run."""
    with tempfile.TemporaryDirectory(prefix="dvt-") as scratch:
        local = Path(scratch) / FRONT
        write_front_files(local, report, bands)
        write_examples(local, examples)
        folder.put(local)
        log_front(record, local)


def _keep_model(run: _Run, best: Checkpoint, report: FrontReport, data: DataSummary) -> ModelRecord:
    """The best checkpoint as a model in MLflow, registered if the recipe asks for it."""
    return register_checkpoint(run.recipe, run.record, best, report, data)


def register_checkpoint(
    recipe: Recipe, record: RunRecord, best: Checkpoint, report: FrontReport, data: DataSummary
) -> ModelRecord:
    """A checkpoint as a model in MLflow, registered as `dvt-<recipe>` with alias candidate if the recipe asks for it.

    Args:
        recipe: What it was trained with.
        record: The run that trained it.
        best: The checkpoint.
        report: What it reached.
        data: What it was trained on.

    Raises:
        CheckpointError: If it cannot be read.
        TrackingError: If MLflow does not take it.
    """
    with local_copy(best) as folder:
        content = checkpoint_content(recipe, folder, report, data.class_names, data.mean, data.std)
        name = f"dvt-{recipe.name}" if recipe.run.is_registered else None
        return log_and_register_model(record, content, registered_name=name)


def told_model(model: ModelRecord) -> str:
    """Where a model is in the registry."""
    if model.registered_name is None:
        return "not registered (run.is_registered is false)"
    return f"{model.registered_name} version {model.version}, alias candidate"


def _places(run: _Run, model: ModelRecord) -> dict[str, str]:
    """Where everything is, by what it is called."""
    front = f"{run.folder.address}/{FRONT}"
    return {
        "front": f"{front}/front.png",
        "front's data": f"{front}/front.json and front.csv",
        "front's page": f"{front}/front.html",
        "checkpoints": f"{run.folder.address}/checkpoints",
        "MLflow run": f"{run.record.run_id} at {run.record.address}",
        "model": told_model(model),
        "see it": page_command(run.record),
        "see its front": ui_command(run.record),
    }
