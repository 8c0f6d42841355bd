"""What is wrong with images, checkpoints and disks ends a run in one sentence, with nothing registered or lost."""

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

from tests.integration.cluster import RayCluster, driving
from tests.integration.test_train_job import client_of, tiny

pytestmark = [pytest.mark.ray, pytest.mark.slow]

NUM_TRAIN = 1_400


@pytest.fixture
def image_root(tmp_path: Path) -> Path:
    """An image folder of two classes that are easy to tell apart."""
    random = np.random.default_rng(0)
    for part, count in (("train", NUM_TRAIN // 2), ("val", 20)):
        for level, name in enumerate(("dark", "light")):
            folder = tmp_path / "images" / part / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(120 * level, 120 * level + 120, (20, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index:04d}.jpg")
    return tmp_path / "images"


def on_folder(root: Path) -> list[str]:
    words = tiny("--data.source", "folder", "--data.root", str(root), epochs=1, workers=1)
    sizes = ["--cascade.in-chans", "3", "--cascade.num-classes", "2", "--cascade.image-size", "16"]
    grids = ["--cascade.stages", "[{token_grid: 2}, {token_grid: 4}]", "--loss.exit-weights", "[]"]
    return [*words, *sizes, *grids, "--data.loader-workers", "1", "--data.calibration-images", "100"]


def truncate(files: list[Path]) -> None:
    for file in files:
        file.write_bytes(file.read_bytes()[:300])


def nothing_registered(client: MlflowClient) -> bool:
    return not client.search_registered_models() and not client.search_model_versions()


def sentence_of(text: str) -> str:
    """The one line that the command ended with."""
    lines = [line for line in text.splitlines() if line.startswith("dvt: ")]
    assert len(lines) == 1, text
    assert "Traceback" not in text
    return lines[0].removeprefix("dvt: ")


def test_one_truncated_training_image_is_skipped_and_told(
    cluster: RayCluster, image_root: Path, tmp_path: Path
) -> None:
    truncate([image_root / "train" / "dark" / "0003.jpg"])
    with driving(on_folder(image_root), cwd=tmp_path, env=cluster.env, python=cluster.python) as driver:
        assert driver.finish() == 0, driver.text
    record = json.loads((tmp_path / "runs" / "embedded-001" / "run.json").read_text())
    skipped = client_of(tmp_path).get_metric_history(record["run_id"], "data/skipped_images")
    assert skipped[-1].value == 1  # of the whole epoch
    assert "1 unreadable images skipped" in driver.text


def test_too_many_truncated_training_images_end_the_run(cluster: RayCluster, image_root: Path, tmp_path: Path) -> None:
    truncate(sorted((image_root / "train" / "light").iterdir())[:40])
    with driving(on_folder(image_root), cwd=tmp_path, env=cluster.env, python=cluster.python) as driver:
        assert driver.finish() == 1, driver.text
    told = sentence_of(driver.text)
    assert "training images" in told
    assert "more than the 0.1% that is let pass" in told
    assert "replace or remove them" in told
    client = client_of(tmp_path)
    assert nothing_registered(client)
    record = json.loads((tmp_path / "runs" / "embedded-001" / "run.json").read_text())
    assert client.get_run(record["run_id"]).info.status == "FAILED"


def test_a_missing_data_root_is_what_was_typed(cluster: RayCluster, tmp_path: Path) -> None:
    with driving(on_folder(tmp_path / "nowhere"), cwd=tmp_path, env=cluster.env, python=cluster.python) as driver:
        assert driver.finish() == 2, driver.text
    assert sentence_of(driver.text).startswith("data.root must ")
    assert str(tmp_path / "nowhere") in driver.text
    assert [path.name for path in (tmp_path / "runs").iterdir() if path.name != "mlflow.db"] in ([], ["mlartifacts"])


def test_a_half_written_checkpoint_is_not_started_from(cluster: RayCluster, tmp_path: Path) -> None:
    folder = tmp_path / "half"
    folder.mkdir()
    (folder / "training_state.pt").write_bytes(b"PK\x03\x04 and no more")
    words = tiny("--train.init-from", str(folder), epochs=1, workers=1)
    with driving(words, cwd=tmp_path, env=cluster.env, python=cluster.python) as driver:
        assert driver.finish() == 1, driver.text
    assert sentence_of(driver.text) == (
        f"{folder}/training_state.pt must be a whole file of a checkpoint, got one that cannot be read; "
        f"use another checkpoint"
    )
    assert nothing_registered(client_of(tmp_path))


@contextlib.contextmanager
def small_disk(place: Path, size: str) -> Iterator[None]:
    """A real file system of this size; skipped where this user may not mount one."""
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("this user may not mount a small file system")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_keeps_the_checkpoint_before(cluster: RayCluster, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    words = tiny(
        "--data.train-images", "2048", "--run.storage-path", str(disk), "--run.tracking-uri", uri, epochs=6, workers=1
    )
    with small_disk(disk, "64m"):
        with driving(words, cwd=tmp_path, env=cluster.env, python=cluster.python) as driver:
            driver.wait_for("epoch 1/6")
            with contextlib.suppress(OSError), (disk / "filler").open("wb") as filler:
                while True:
                    filler.write(bytes(4096))
                    filler.flush()
            assert driver.finish() == 1, driver.text
        told = sentence_of(driver.text)
        assert "No space left on device" in told
        assert "run the same command again" in told
        assert nothing_registered(MlflowClient(tracking_uri=uri))

        (disk / "filler").unlink()
        with driving(words, cwd=tmp_path, env=cluster.env, python=cluster.python) as driver:
            assert driver.finish() == 0, driver.text
        assert "epoch 1/6" not in driver.text  # it went on from the checkpoint
        assert (disk / "embedded-001" / "finished.json").exists()
