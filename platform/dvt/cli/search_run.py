"""`dvt search run SPACE`: train candidates over the cluster, find the front of all, register the best."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ray.train import Checkpoint
from rich.console import Console

from dvt.cli.cluster import connected
from dvt.cli.cluster_examples import examples_on_cluster
from dvt.cli.measured import measured_report
from dvt.cli.pipeline import keep_front, register_checkpoint, told_model
from dvt.cli.progress import shown
from dvt.cli.search import space_file
from dvt.cli.search_progress import InheritedProgress, SearchProgress, print_search
from dvt.cli.search_record import SearchRecord
from dvt.cli.search_report import keep_report
from dvt.cli.summary import print_places, print_report
from dvt.cli.train import at_home, without_password
from dvt.config import CascadeConfig
from dvt.exits import ExitScores, FrontReport, checked_budgets
from dvt.exits.bootstrap import bootstrap_report
from dvt.models import macs_per_exit
from dvt.search import Space, load_space
from dvt.search.finetune import choose_finalists, finetuned_space, measuring_space, shared_recipe
from dvt.search.inherited import INHERITED
from dvt.search.ray_metrics import SearchGauges
from dvt.search.ray_supernet import measure_inherited, train_shared
from dvt.search.ray_tune import SearchObserver, search_on_cluster
from dvt.search.record import open_search_folder, open_study, read_result, read_shared
from dvt.search.results import SearchResult, TrialResult
from dvt.search.study import Candidate
from dvt.search.supernet import SHARED
from dvt.search.trial import checkpoint_name, trial_folder
from dvt.tracking import (
    MlflowSinkFactory,
    ModelRecord,
    all_handed_on,
    check_tracking,
    page_command,
    resolve_tracking_uri,
)
from dvt.tracking.search_files import chosen_trials
from dvt.train.errors import TrainingError
from dvt.train.ray_checkpoint import kept_checkpoint
from dvt.train.ray_metrics import ExportedSinkFactory
from dvt.train.ray_report import tell_last_rows
from dvt.train.ray_train import (
    DataSummary,
    predict_on_cluster,
    score_on_cluster,
    summarize_data,
)
from dvt.train.storage import RunFolder


def run(words: Sequence[str], prog: str = "dvt search run", default_space: Path | None = None) -> int:
    """Run the command; returns its exit code.

    Args:
        words: The command line behind `dvt search run`.
        prog: What the command is called.
        default_space: The space where the command line names none; None where it is the first argument.
    """
    space = _asked_space(words, prog, default_space)
    uri = resolve_tracking_uri(space.base.run.tracking_uri, space.base.run.storage_path)
    check_tracking(uri)
    space = replace(
        space, base=without_password(space.base), first_points=tuple(map(without_password, space.first_points))
    )
    console = Console()
    with connected(space.base.cluster, has_dashboard=space.base.cluster.most_workers > 1):
        data = summarize_data(space.base)
        folder = open_search_folder(space, space.base.run)
        with SearchRecord.opened(space, folder, uri) as record:
            result = _search(space, folder, record, console)
            print_search(console, result)
            outcome = _finalists(space, folder, record, result, data, console)
            places = keep_report(folder, result, record.parent)
    if outcome is not None:
        print_report(console, outcome.report)
        places["model"] = told_model(outcome.model)
    places["MLflow run"] = f"{record.parent.run_id} at {record.parent.address}"
    places["see it"] = page_command(record.parent)
    print_places(console, places)
    return 0


def _search(space: Space, folder: RunFolder, record: SearchRecord, console: Console) -> SearchResult:
    """Train candidates, showing how it goes."""
    if space.search.mode == "supernet":
        shared, finalists = _share(space, folder, record, console)
        _run_trials(finetuned_space(space, finalists), folder, record, console, shared)
    else:
        _run_trials(space, folder, record, console)
    result = read_result(space, folder)
    if result.trials and all(trial.state == "failed" for trial in result.trials):
        raise TrainingError(
            f"one of the {len(result.trials)} trials in {folder.address} must be trained, got none; mend that, and "
            f"search again with another run.name. The last one failed: {result.trials[-1].why}"
        )
    return result


def _run_trials(
    space: Space, folder: RunFolder, record: SearchRecord, console: Console, shared: Checkpoint | None = None
) -> None:
    known = read_result(space, folder).trials
    with (
        SearchProgress.shown(console, folder.name, space) as progress,
        SearchGauges.exported(folder.name, known) as gauges,
    ):
        study = open_study(space, folder, on_refused=progress.refused)
        sent = replace(space, search=replace(space.search, study_uri=None))  # its password is the driver's alone
        search_on_cluster(sent, folder, study, _All((record, progress, gauges)), shared)


def _share(
    space: Space, folder: RunFolder, record: SearchRecord, console: Console
) -> tuple[Checkpoint, list[CascadeConfig]]:
    """Train shared weights and measure cascades with them; returns the weights, and the cascades to train on."""
    epochs = shared_recipe(space).optimizer.total_epochs
    title = f"{folder.name}: shared weights"
    make_lasting = MlflowSinkFactory.of(record.parent)
    tell_last_rows(folder.child(SHARED), make_lasting)
    make_exported = ExportedSinkFactory(make_lasting, f"{folder.name}-{SHARED}")
    with all_handed_on(record.parent), shown(console, title, epochs, make_exported) as make_sink:
        shared = train_shared(space, folder, make_sink)
    measuring = measuring_space(space)
    study = open_study(measuring, folder, INHERITED)
    known = read_shared(space, folder).inherited
    with InheritedProgress.shown(console, folder.name, measuring.search.num_trials, known) as progress:
        measure_inherited(measuring, folder, study, shared, progress)
    return shared, choose_finalists(space, read_shared(space, folder).inherited)


@dataclass(frozen=True)
class _All:
    """Tells the lasting record first, then those who read along."""

    observers: tuple[SearchObserver, ...]

    def started(self, candidate: Candidate) -> None:
        for observer in self.observers:
            observer.started(candidate)

    def measured(self, candidate: Candidate, metrics: Mapping[str, float]) -> None:
        for observer in self.observers:
            observer.measured(candidate, metrics)

    def ended(self, candidate: Candidate, state: str, why: str) -> None:
        for observer in self.observers:
            observer.ended(candidate, state, why)


@dataclass(frozen=True)
class _Outcome:
    report: FrontReport
    model: ModelRecord


def _finalists(
    space: Space, folder: RunFolder, record: SearchRecord, result: SearchResult, data: DataSummary, console: Console
) -> _Outcome | None:
    """Measure what holds a point of the front on the test images, which nothing has touched before; register the best.

    Returns:
        What the trial of the largest hypervolume reached; None if no trial was trained to the end.
    """
    outcome = None
    for trial in chosen_trials(result):
        console.print(f"{trial.recipe.name}: measuring on the test images", highlight=False)
        place, own = trial_folder(folder, trial.number), record.of(trial.number)
        checkpoint = kept_checkpoint(place, checkpoint_name(place))
        report, test = _measured(trial, checkpoint)
        examples = examples_on_cluster(trial.recipe, checkpoint, report.confidence)
        keep_front(place, own, report, bootstrap_report(report, test), examples)
        if trial is result.best:
            # Named by the space, so that each search of it makes another version of one model.
            named = replace(trial.recipe, name=space.name)
            outcome = _Outcome(report, register_checkpoint(named, own, checkpoint, report, data))
    return outcome


def _measured(trial: TrialResult, checkpoint: Checkpoint) -> tuple[FrontReport, ExitScores]:
    recipe = trial.recipe
    return measured_report(
        recipe,
        predict_on_cluster(recipe, checkpoint),
        lambda confidence: score_on_cluster(recipe, checkpoint, "test", confidence),
        checked_budgets(macs_per_exit(recipe.cascade), recipe.exits.budgets_macs),
        static=None,
    )


def _asked_space(words: Sequence[str], prog: str, default: Path | None) -> Space:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Search a space of cascades over the cluster. The same command run again goes on.",
        epilog=(
            "Other fields are those of the base recipe, such as --data.root FOLDER, and with --search. in front those "
            "of the search, such as --search.sampler random."
        ),
        allow_abbrev=False,
    )
    if default is None:
        parser.add_argument("space", metavar="SPACE", help="a file of search_spaces/, or its name there")
    else:
        parser.add_argument("--space", default=str(default), metavar="FILE", help="the search space (%(default)s)")
    parser.add_argument("--trials", type=int, metavar="N", help="candidates to train (search.num_trials)")
    parser.add_argument("--max-parallel", type=int, metavar="M", help="trials at a time (search.max_parallel)")
    asked, others = parser.parse_known_args(words)
    settings = {"num-trials": asked.trials, "max-parallel": asked.max_parallel}
    for name, value in settings.items():
        others += [] if value is None else [f"--search.{name}", str(value)]
    space = load_space(space_file(asked.space), others)
    return replace(space, base=at_home(space.base), first_points=tuple(map(at_home, space.first_points)))
