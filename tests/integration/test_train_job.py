"""The training job from end to end: on a real Ray, with workers and drivers killed under it."""

import hashlib
import json
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.infra.dashboard import wait_for_answers
from tests.integration.cluster import ROOT, RayCluster, driving, ray_environment, submitted

pytestmark = [pytest.mark.ray, pytest.mark.slow]

TINY = [
    "--recipe", str(ROOT / "jobs" / "recipes" / "embedded.yaml"),
    "--cascade.embed-dim", "16", "--cascade.num-heads", "2", "--cascade.depth", "2", "--cascade.drop-path", "0.1",
    "--data.train-images", "512", "--data.calibration-images", "64", "--data.test-images", "64",
    "--train.micro-batch-size", "32", "--train.ema-decay", "0.9",
    "--optimizer.warmup-epochs", "0", "--optimizer.cooldown-epochs", "0",
    "--exits.static-reference", "false",
]  # fmt: skip


def tiny(*words: str, epochs: int, workers: int) -> list[str]:
    return [*TINY, "--optimizer.epochs", str(epochs), "--cluster.num-workers", str(workers), *words]


def client_of(folder: Path) -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{folder / 'runs' / 'mlflow.db'}")


def last_weights(run: Path) -> dict[str, str]:
    """The digests of the weights in the run's newest checkpoint."""
    folder = max((run / "checkpoints").glob("checkpoint_2*"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.safetensors"))}


def test_two_workers_train_measure_and_register(tmp_path: Path) -> None:
    """No Ray runs where this command looks, so it starts one."""
    ray_folder = Path(f"/tmp/dvt-{hashlib.sha256(str(tmp_path).encode()).hexdigest()[:8]}")  # short, for Unix sockets
    ray_folder.mkdir()
    try:
        words = tiny("--exits.static-reference", "true", "--train.log-every-steps", "4", epochs=2, workers=2)
        words += ["--train.trace-steps", "2"]
        with driving(words, cwd=tmp_path, env=ray_environment(ray_folder)) as driver:
            code = driver.finish()
    finally:
        shutil.rmtree(ray_folder, ignore_errors=True)
    assert code == 0, driver.text
    run = tmp_path / "runs" / "embedded-001"
    report = json.loads((run / "front" / "front.json").read_text())
    examples = json.loads((run / "front" / "examples.json").read_text())["images"]  # read by a task on the cluster
    assert {len(image["confidence"]) for image in examples} == {len(report["exits"])}
    assert len(report["budgets"]) == 3
    assert report["static_reference"]["token_grid"] == report["exits"][-1]["token_grid"]
    assert (run / "front" / "front.png").read_bytes().startswith(b"\x89PNG")
    assert "dvt-embedded version 1, alias candidate" in driver.text
    assert re.search(r"epoch 2/2 · step 16 · loss \d", driver.text)

    client = client_of(tmp_path)
    version = client.get_model_version_by_alias("dvt-embedded", "candidate")
    record = json.loads((run / "run.json").read_text())
    assert version.run_id == record["run_id"]
    kept = client.get_run(record["run_id"])
    assert kept.info.status == "FINISHED"
    traced = {artifact.path for artifact in client.list_artifacts(record["run_id"], "trace")}
    assert traced == {"trace/trace.json.gz", "trace/operators.txt"}
    assert kept.data.params["optimizer.epochs"] == "2"
    assert [point.step for point in client.get_metric_history(record["run_id"], "train/loss")] == [4, 8, 12, 16]
    inputs = {each.dataset.name: json.loads(each.dataset.profile) for each in kept.inputs.dataset_inputs}
    assert {name: profile["num_rows"] for name, profile in inputs.items()} == {
        "embedded-train": 512,
        "embedded-calibration": 64,
        "embedded-test": 64,
    }
    assert {file.path for file in client.list_artifacts(kept.info.run_id)} >= {"environment.txt", "hardware.json"}
    hours = [point.value for point in client.get_metric_history(record["run_id"], "cost/cpu_hours")]
    assert 0 < hours[0] < hours[-1] < 1
    assert 0 < kept.data.metrics["system/node_0/system_memory_usage_percentage"] < 100
    models = client.search_logged_models([record["experiment_id"]], f"source_run_id = '{record['run_id']}'")
    (model,) = (each for each in models if each.model_type == "dvt")
    kept_models = [each for each in models if each.model_type == "dvt-checkpoint"]
    assert all(Path(each.tags["checkpoint.address"], "model.safetensors").is_file() for each in kept_models)
    (best,) = (each for each in kept_models if each.tags["checkpoint.is_best"] == "true")
    assert {metric.key: metric.step for metric in best.metrics}["calibration/top1_mean"] in (8, 16)
    metrics = {metric.key: metric.value for metric in model.metrics}
    for row in report["exits"]:
        assert metrics[f"test/exit_{row['exit_index']}/top1"] == pytest.approx(row["test_top1"])
        assert metrics[f"exit_{row['exit_index']}/macs"] == row["macs"]


def test_a_killed_worker_is_replaced(cluster: RayCluster, tmp_path: Path) -> None:
    words = tiny("--data.train-images", "2048", epochs=4, workers=2)
    with driving(words, cwd=tmp_path, env=cluster.env, python=cluster.python) as driver:
        driver.wait_for("epoch 1/4")
        # What the upload of a worker leaves that was killed before.
        half = tmp_path / "runs" / "embedded-001" / "checkpoints" / "checkpoint_2026-01-01_00-00-00.000000"
        half.mkdir()
        (half / "model.safetensors").write_bytes(b"half")
        time.sleep(0.3)  # into the second epoch
        for victim in ("ray::RayTrainWorker", "ray::_QueueActor"):  # the other hands on what is shown
            cluster.processes(victim)[0].send_signal(signal.SIGKILL)
        wait_for_answers(cluster, "Training")  # other workers start meanwhile
        assert driver.finish() == 0, driver.text
    assert "the run is shown no longer" in driver.text
    assert not half.exists()
    record = json.loads((tmp_path / "runs" / "embedded-001" / "run.json").read_text())
    client = client_of(tmp_path)
    epochs = {point.value for point in client.get_metric_history(record["run_id"], "epoch")}
    assert epochs == {1, 2, 3, 4}
    assert len(client.search_runs([record["experiment_id"]])) == 1


def test_an_ended_driver_goes_on_bit_for_bit(cluster: RayCluster, tmp_path: Path) -> None:
    words = tiny("--data.train-images", "2048", epochs=8, workers=1)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
    with driving(words, cwd=whole, env=cluster.env, python=cluster.python) as driver:
        assert driver.finish() == 0, driver.text

    # SIGKILL: test_s3_storage.py, and of the process that trains itself tests/resume.
    for ending, code in ((signal.SIGINT, 130), (signal.SIGTERM, 75)):
        with driving(words, cwd=broken, env=cluster.env, python=cluster.python) as driver:
            driver.wait_for("/8 · step ")  # an epoch done, others to come
            driver.process.send_signal(ending)
            assert driver.finish() == code, driver.text
        if ending == signal.SIGINT:
            assert "interrupted; run the same command again to go on from the last checkpoint" in driver.text
        if ending == signal.SIGTERM:
            assert driver.text.endswith(
                "dvt: ended by SIGTERM, resumable; run the same command again to go on from the last checkpoint\n"
            )
    with driving(words, cwd=broken, env=cluster.env, python=cluster.python) as driver:
        assert driver.finish() == 0, driver.text
    assert "epoch 1/8" not in driver.text

    assert last_weights(broken / "runs" / "embedded-001") == last_weights(whole / "runs" / "embedded-001")
    client = client_of(broken)
    record = json.loads((broken / "runs" / "embedded-001" / "run.json").read_text())
    assert len(client.search_runs([record["experiment_id"]])) == 1
    assert client.get_run(record["run_id"]).info.status == "FINISHED"
    assert not (broken / "runs" / "embedded-002").exists()


def test_what_is_submitted_is_the_project_alone(cluster: RayCluster) -> None:
    """`test_many_nodes.py` trains by it."""
    words = ("jobs/train_imagenet.py", "--recipe", "jobs/recipes/embedded.yaml", "--print-config")
    assert "name: embedded" in submitted(cluster, *words)
    shipped = [path for path in cluster.folder.rglob("_ray_pkg_*") if (path / "jobs").is_dir()]
    assert shipped
    for folder in shipped:
        assert not {".git", ".venv", "runs", "data", "tests"} & {path.name for path in folder.iterdir()}
        assert (folder / "platform" / "dvt" / "data").is_dir()
