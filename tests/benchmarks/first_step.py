"""The way of a training job from its submission to its first step, with the seconds of each part.

A cluster is started for each round, so that no process of it has imported anything; the job travels with the source, as
a user's does. Part of `tests.benchmarks.training_machinery`.
"""

import json
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from tests.integration.cluster import RayCluster, running_cluster

ROOT = Path(__file__).resolve().parents[2]
# What the job runs: `dvt train`, with the time noted on the way.
JOB = '''
import json, sys, time
from pathlib import Path

marks = {"job client, upload, the job's process": time.time()}
ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "platform"))
from dvt.cli import pipeline, train

OUT = Path(sys.argv.pop(1))
marks["imports of the driver"] = time.time()


def loop(recipe, data, worker, reporter):
    """The loop, until its first row."""
    from dvt.train.loop import train_cascade

    begun = time.time()

    class First:
        latest = staticmethod(reporter.latest)
        keep = staticmethod(reporter.keep)

        def report(self, metrics, step, checkpoint):
            if step == 1 and worker.rank == 0:
                marks = {"Ray Train: workers, process group, images": begun, "first step": time.time()}
                OUT.write_text(json.dumps(marks))
            reporter.report(metrics, step, checkpoint)

    train_cascade(recipe, data, worker, First())


look, fit = pipeline.summarize_data, pipeline.train_on_cluster


def summarize_data(recipe):
    marks["MLflow's schema, joining Ray"] = time.time()
    told = look(recipe)
    marks["first task: process, imports, images"] = time.time()
    return told


def train_on_cluster(recipe, folder, make_sink, **options):
    marks["run folder, MLflow run"] = time.time()
    Path(f"{OUT}.driver").write_text(json.dumps(marks))
    return fit(recipe, folder, make_sink, loop, **options)


pipeline.summarize_data, pipeline.train_on_cluster = summarize_data, train_on_cluster
sys.exit(train.main(sys.argv[1:]))
'''
TINY = [
    *("--recipe", "jobs/recipes/embedded.yaml", "--cluster.num-workers", "2", "--data.train-images", "512"),
    *("--data.calibration-images", "64", "--data.test-images", "64", "--train.log-every-steps", "1"),
    *("--optimizer.epochs", "1", "--optimizer.warmup-epochs", "0", "--optimizer.cooldown-epochs", "0"),
    *("--exits.static-reference", "false", "--cascade.depth", "2"),
]


def print_way_to_first_step(rounds: int) -> None:
    """Medians over rounds, a line each part."""
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        with running_cluster(num_cpus=2) as cluster:
            for name, seconds in _way(cluster).items():
                found.setdefault(name, []).append(seconds)
    for name, each in found.items():
        print(f"  {name}: {statistics.median(each):.1f} s, from {min(each):.1f} to {max(each):.1f}")
    totals = [sum(each) for each in zip(*found.values(), strict=True)]
    print(f"from submission to the first step: {statistics.median(totals):.1f} s, of {rounds} rounds")


def _way(cluster: RayCluster) -> dict[str, float]:
    """Seconds of each part of the way."""
    with tempfile.TemporaryDirectory(prefix="dvt-first-step-") as name:
        source, out = Path(name, "source"), Path(name, "marks.json")
        for folder in ("platform", "jobs"):
            shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
        (source / "timed_job.py").write_text(JOB)
        words = ["python", "timed_job.py", str(out), *TINY, "--run.storage-path", f"{name}/runs"]
        ray = [str(cluster.python), "-m", "ray.scripts.scripts", "job", "submit", "--address", cluster.jobs_address]
        begun = time.time()
        done = subprocess.run(
            [*ray, "--working-dir", ".", "--", *words],
            cwd=source,
            env=cluster.env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        marks = json.loads(Path(f"{out}.driver").read_text()) | json.loads(out.read_text())
    ends = list(marks.values())
    return {part: end - start for part, start, end in zip(marks, [begun, *ends], ends, strict=False)}
