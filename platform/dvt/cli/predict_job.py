"""`jobs/predict.py`: classifies many images on a Ray cluster into a folder of Parquet files, and goes on where it was.

`dvt predict` is the same for a few images on this machine.
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from rich.console import Console

from dvt.cli.asked_model import add_model_flags, asked_classifier, batch_size_problems, budget_problems
from dvt.cli.cluster import connected
from dvt.cli.predict_job_progress import PartProgress
from dvt.cli.predict_output import told_summary
from dvt.cli.summary import print_places
from dvt.cli.train import absolute, home_folder
from dvt.config import ClusterConfig, ConfigError, Problem
from dvt.serving.batch_output import (
    MANIFEST,
    BatchJob,
    Counts,
    begin,
    finish,
    kept_work,
    missing_pieces,
    open_output,
    read_counts,
)
from dvt.serving.batch_work import FORMATS, list_work
from dvt.serving.model import OpenedModel, open_model
from dvt.serving.part_writer import PartWriter
from dvt.serving.prediction import Classifier
from dvt.serving.ray_predict import predict_on_cluster, worker_device_name, workers_with_room
from dvt.tracking import resolve_tracking_uri
from dvt.tracking.lookup import ModelAddress, find_version

AUTO = "auto"


def main(words: Sequence[str]) -> int:
    """Run the job; returns its exit code. Images that cannot be read are counted, and no failure of the job.

    Args:
        words: The command line behind `jobs/predict.py`.
    """
    asked = _parse(words)
    cluster = _checked(asked)
    model, version = _open_model(asked)
    console = Console(highlight=False)
    # Ray 2.60 tells each driver with a pool of Ray Data's actors of a bug of its own (issue 53727), as an error.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    with connected(ClusterConfig()):
        room = workers_with_room(cluster)
        cluster = replace(cluster, num_workers=min(asked.num_workers or room, room))
        classifier = asked_classifier(asked, model, partial(worker_device_name, cluster))
        folder = open_output(asked.output)
        job = _job(asked, classifier, version)
        work = kept_work(folder, job)
        if work is None:
            keep = asked.keep_columns
            work = list_work(asked.input, job.format, asked.part_size, asked.image_column, keep)
            begin(folder, job, work)
        writer = PartWriter(work, folder, asked.image_column, asked.batch_size)
        counts, rate = _predict(classifier, writer, cluster, console)
    finish(folder, job, work, counts, classifier.macs)
    console.print(told_summary(classifier.macs, counts.left, counts.num_failed, rate), style="bold", soft_wrap=True)
    print_places(console, {"predictions": folder.address, "manifest": f"{folder.address}/{MANIFEST}"})
    return 0


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="jobs/predict.py",
        description="Classify many images on a Ray cluster, spending on each no more than it needs.",
        epilog="The same command run again makes the parts that are missing.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--input", required=True, metavar="ADDRESS", help="a folder of images, .tar shards or .parquet files; or s3://"
    )
    parser.add_argument("--output", required=True, metavar="FOLDER", help="where Parquet files go; or s3://")
    add_model_flags(parser)
    parser.add_argument(
        "--format", choices=(AUTO, *FORMATS), default=AUTO, help="what the input is; auto tells by the files' names"
    )
    parser.add_argument("--image-column", default="image", metavar="NAME", help="of Parquet input; image")
    parser.add_argument(
        "--keep-columns", default="", metavar="A,B", help="of Parquet input; the output names them input_A, input_B"
    )
    parser.add_argument(
        "--part-size", type=int, default=1024, metavar="N", help="images a part, 1024; a shard is always one part"
    )
    parser.add_argument("--num-workers", type=int, metavar="N", help="at most; without it as many as have room")
    parser.add_argument("--cpus-per-worker", type=float, default=1, metavar="N", help="CPU cores of a worker; 1")
    parser.add_argument("--use-gpu", action="store_true", help="give each worker a GPU")
    return parser.parse_args(words)


def _checked(asked: argparse.Namespace) -> ClusterConfig:
    """Refuse what can be seen to be wrong before anything is loaded; returns what the cluster is asked for."""
    problems = [*budget_problems(asked), *batch_size_problems(asked)]
    if asked.part_size < 1:
        problems.append(Problem("--part-size", f"must be at least 1, got {asked.part_size}"))
    asked.keep_columns = tuple(name for name in asked.keep_columns.split(",") if name)
    home = home_folder()
    asked.input, asked.output = absolute(asked.input, home), absolute(asked.output, home)
    cluster = ClusterConfig()
    try:
        cluster = ClusterConfig(
            num_workers=1 if asked.num_workers is None else asked.num_workers,
            use_gpu=asked.use_gpu,
            cpus_per_worker=asked.cpus_per_worker,
        )
    except ConfigError as error:  # speaks of a recipe's fields; here they are flags
        problems += [Problem(f"--{each.path.replace('_', '-')}", each.rule) for each in error.problems]
    if problems:
        raise ConfigError(problems)
    return cluster


def _open_model(asked: argparse.Namespace) -> tuple[OpenedModel, str | None]:
    """The model, and which version it is of a registered one: an alias may be moved at any time."""
    try:
        address = ModelAddress.parse(asked.model)
    except ValueError:
        return open_model(asked.model, asked.tracking_uri), None
    uri = resolve_tracking_uri(asked.tracking_uri, str(home_folder() / "runs"))
    version = find_version(uri, address)
    if version is None:
        return open_model(asked.model, uri), None
    return open_model(f"models:/{version.name}/{version.version}", uri), str(version.version)


def _job(asked: argparse.Namespace, classifier: Classifier, version: str | None) -> BatchJob:
    return BatchJob(
        input=asked.input,
        format=None if asked.format == AUTO else asked.format,
        image_column=asked.image_column,
        keep_columns=asked.keep_columns,
        part_size=asked.part_size,
        model=asked.model,
        model_version=version,
        model_digest=classifier.digest(),
        thresholds=classifier.thresholds,
        confidence=classifier.confidence,
    )


def _predict(
    classifier: Classifier, writer: PartWriter, cluster: ClusterConfig, console: Console
) -> tuple[Counts, float | None]:
    """Make the parts that are missing, showing how it goes; returns what all came to, and images a second."""
    work, folder = writer.work, writer.folder
    missing = missing_pieces(folder, work)
    numbers = {piece.number for piece in missing}
    done = read_counts(folder, [piece for piece in work.pieces if piece.number not in numbers])
    num_exits = len(classifier.thresholds)
    with PartProgress.shown(console, work, done) as progress:
        if missing:
            for counts in predict_on_cluster(classifier, missing, writer, cluster):
                done.append(counts)
                progress.tell(counts)
    return Counts.total(done, num_exits), progress.rate
