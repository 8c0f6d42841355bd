"""The batch job from end to end: on a real Ray and a real S3 server, and with the driver killed under it."""

import io
import json
import shutil
import signal
import struct
import tarfile
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
import s3fs
import torch

from dvt.data.transforms import inference_transform, read_image
from dvt.exits import PLAIN, ThresholdTable
from dvt.inference import EarlyExit
from dvt.models import Cascade, macs_per_exit
from dvt.serving.batch_output import missing_pieces, open_output
from dvt.serving.batch_work import list_work
from dvt.serving.part_writer import PartWriter
from dvt.serving.prediction import Classifier
from dvt.tracking import check_tracking, log_and_register_model, open_run
from tests.integration.cluster import RayCluster, driving, submitted
from tests.integration.s3_server import S3Server
from tests.unit.data.images import write_image
from tests.unit.tracking.tiny import CASCADE, CLASS_NAMES, MEAN, STD, make_tiny, tiny_recipe

pytestmark = [pytest.mark.ray, pytest.mark.slow]

JOB = "predict.py"
BUCKET = "dvt-batch"
MACS = macs_per_exit(CASCADE)
BUDGET = (MACS[0] + MACS[1]) / 2
COLUMNS = ["image", "label", "class_name", "confidence", "prob", "exit_index", "macs", "error"]


@dataclass(frozen=True)
class Registered:
    """A registered model, as this process knows it."""

    cascade: Cascade
    thresholds: ThresholdTable
    words: list[str]  # how a command line names it

    def classifier(self) -> Classifier:
        thresholds = self.thresholds.at_budget(BUDGET).thresholds
        transform = inference_transform(16, 0.875, "bicubic", (MEAN,), (STD,))
        return Classifier(self.cascade, thresholds, PLAIN, CLASS_NAMES, transform)

    def expected(self, contents: Sequence[bytes]) -> pd.DataFrame:
        """What the engine says of encoded images, read one by one."""
        asked = self.classifier()
        images = torch.stack([asked.transform(read_image(io.BytesIO(content), 1)) for content in contents])
        result = EarlyExit(self.cascade, asked.thresholds)(images)
        labels, exits = result.label.tolist(), result.exit_index.tolist()
        columns = {
            "label": labels,
            "class_name": [CLASS_NAMES[label] for label in labels],
            "confidence": result.confidence.tolist(),
            "prob": result.probs.amax(dim=1).tolist(),
            "exit_index": [index + 1 for index in exits],
            "macs": [MACS[index] for index in exits],
        }
        return pd.DataFrame(columns)


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Registered:
    folder = tmp_path_factory.mktemp("store")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    check_tracking(uri)
    tiny = make_tiny(folder)
    log_and_register_model(
        open_run(tiny_recipe(), tracking_uri=uri, run_name="tiny"), tiny.content, registered_name="dvt-tiny"
    )
    words = ["--model", "models:/dvt-tiny@candidate", "--tracking-uri", uri, "--budget-macs", f"{BUDGET:g}"]
    return Registered(tiny.cascade, tiny.content.thresholds, words)


@pytest.fixture
def bucket(s3: S3Server) -> Any:
    """The server's file system, with an empty bucket."""
    filesystem = s3fs.S3FileSystem(
        key=s3.access_key,
        secret=s3.secret_key,
        endpoint_url=s3.endpoint,
        use_listings_cache=False,
        skip_instance_cache=True,
    )
    if not filesystem.exists(BUCKET):
        filesystem.mkdir(BUCKET)
    yield filesystem
    filesystem.rm(f"{BUCKET}/", recursive=True)


def encoded(folder: Path, count: int) -> list[bytes]:
    return [write_image(folder / f"{index}.png", index).read_bytes() for index in range(count)]


def bomb(image: bytes) -> bytes:
    """A PNG that says it is 20,000 pixels wide and high."""
    header = b"IHDR" + struct.pack(">II", 20_000, 20_000) + image[24:29]
    return image[:12] + header + struct.pack(">I", zlib.crc32(header)) + image[33:]


def shard(*members: tuple[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


def read_parts(filesystem: Any, folder: str) -> list[pd.DataFrame]:
    return [pd.read_parquet(filesystem.open(path)) for path in sorted(filesystem.glob(f"{folder}/part-*.parquet"))]


def assert_rows(rows: pd.DataFrame, wanted: pd.DataFrame) -> None:
    rows = rows[list(wanted.columns)].reset_index(drop=True)
    pd.testing.assert_frame_equal(rows, wanted, rtol=1e-4, check_dtype=False)


def test_shards_of_a_bucket(
    cluster: RayCluster, s3: S3Server, bucket: Any, registered: Registered, tmp_path: Path
) -> None:
    images = encoded(tmp_path, 5)
    bucket.pipe_file(
        f"{BUCKET}/shards/0.tar", shard(("a.png", images[0]), ("../b.png", images[1]), ("c.png", bomb(images[2])))
    )
    bucket.pipe_file(f"{BUCKET}/shards/1.tar", shard(("d.png", images[3]), ("d.cls", b"3"), ("e.png", images[4][:200])))
    words = ["--input", f"s3://{BUCKET}/shards", "--output", f"s3://{BUCKET}/predictions", "--num-workers", "1"]
    told = submitted(cluster, "python", f"jobs/{JOB}", *registered.words, *words, env=s3.env)

    first, second = read_parts(bucket, f"{BUCKET}/predictions")
    assert list(first.columns) == COLUMNS
    inside = f"s3://{BUCKET}/shards"
    assert list(first.image) == [f"{inside}/0.tar/a.png", f"{inside}/0.tar/../b.png", f"{inside}/0.tar/c.png"]
    assert list(first.error[1:]) == ["its name leads out of the shard", "it has too many pixels"]
    assert list(second.image) == [f"{inside}/1.tar/d.png", f"{inside}/1.tar/e.png"]
    assert list(second.error[1:]) == ["it is damaged"]
    assert_rows(pd.concat([first[:1], second[:1]]), registered.expected([images[0], images[3]]))

    manifest = json.loads(bucket.cat_file(f"{BUCKET}/predictions/_manifest.json"))
    assert (manifest["num_parts"], manifest["num_images"], manifest["num_failed"]) == (2, 5, 3)
    assert manifest["job"]["model_version"] == "1"
    assert "predict: part 2/2 · 5 images · " in told
    assert "3 could not be read" in told
    assert f"predictions  s3://{BUCKET}/predictions" in told
    for noise in ("Dataset", "ray.data", "MapBatches"):
        assert noise not in told


def test_folders_and_parquet_of_a_bucket(
    s3: S3Server, bucket: Any, registered: Registered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a worker does it, in this process."""
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    images = encoded(tmp_path, 6)
    broken = [*images[:4], b"no image", images[5]]
    for index, image in enumerate(broken):
        bucket.pipe_file(f"{BUCKET}/images/{index % 2}/{index}.png", image)
    cells = [{"bytes": image, "path": f"{index}.png"} for index, image in enumerate(broken)]
    with bucket.open(f"{BUCKET}/tables/a.parquet", "wb") as file:
        pa.parquet.write_table(pa.table({"image": cells, "label": range(6)}), file, row_group_size=2)

    def rows_of(name: str, *keep: str) -> list[pd.DataFrame]:
        work = list_work(f"s3://{BUCKET}/{name}", None, 3, "image", keep)
        writer = PartWriter(work, open_output(f"s3://{BUCKET}/out-{name}"), "image", 64)
        classifier = registered.classifier()
        engine = classifier.engine(torch.device("cpu"))
        assert sum(writer.write(piece, classifier, engine).num_failed for piece in work.pieces) == 1
        assert missing_pieces(writer.folder, work) == []
        return read_parts(bucket, f"{BUCKET}/out-{name}")

    parts = rows_of("tables", "label")
    assert [list(part.input_label) for part in parts] == [[0, 1, 2, 3], [4, 5]]
    rows = pd.concat(parts)
    assert list(rows.columns) == [*COLUMNS, "input_label"]
    assert list(rows.image) == [f"s3://{BUCKET}/tables/a.parquet#{row}" for row in range(6)]
    assert list(rows.error[rows.error.notna()]) == ["it is not an image"]
    assert_rows(rows[rows.error.isna()], registered.expected([*images[:4], images[5]]))

    parts = rows_of("images")
    rows = pd.concat(parts)
    assert list(rows.image) == [f"s3://{BUCKET}/images/{index % 2}/{index}.png" for index in (0, 2, 4, 1, 3, 5)]
    assert_rows(rows[rows.error.isna()], registered.expected([images[index] for index in (0, 2, 1, 3, 5)]))


def test_a_killed_job_makes_what_is_missing_and_nothing_twice(
    cluster: RayCluster, registered: Registered, tmp_path: Path
) -> None:
    num_parts, part_size = 40, 10
    images = tmp_path / "images"
    for index in range(num_parts * part_size):
        path = images / f"{index % 3}" / f"{index:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if index < 20:
            write_image(path, index, size=(900, 700))
        else:
            number = index % 20
            shutil.copy(images / f"{number % 3}" / f"{number:03d}.jpg", path)
    (images / "0" / "399a.jpg").write_bytes(b"no image")
    output = tmp_path / "out"

    def parts() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in output.glob("part-*.parquet")}

    words = [
        *(*registered.words, "--input", "images", "--output", "out", "--part-size", f"{part_size}"),
        *("--num-workers", "1"),
    ]  # fmt: skip
    with driving(words, cwd=tmp_path, env=cluster.env, python=cluster.python, job=JOB) as driver:
        end = time.monotonic() + 120
        while len(parts()) < 3:
            assert driver.process.poll() is None, driver.text
            assert time.monotonic() < end, driver.text
            time.sleep(0.01)
        driver.process.send_signal(signal.SIGKILL)
        assert driver.finish() == -signal.SIGKILL
    while cluster.processes("ray::MapWorker"):  # they may end the part that they are at
        assert time.monotonic() < end
        time.sleep(0.1)
    before = parts()
    assert 3 <= len(before) < num_parts, "the job must be killed in the middle"
    assert not (output / "_manifest.json").exists()

    (images / "0" / "late.jpg").write_bytes(b"came after the list was made")
    with driving(words, cwd=tmp_path, env=cluster.env, python=cluster.python, job=JOB) as driver:
        assert driver.finish() == 0, driver.text
        assert f"41 parts from image files, {len(before)} there already" in driver.text
    after = parts()
    assert {name: after[name] for name in before} == before
    assert len(after) == num_parts + 1
    rows = pd.read_parquet(output)
    assert sorted(rows.image) == sorted(str(path) for path in images.rglob("*.jpg") if path.name != "late.jpg")
    good = rows[rows.error.isna()].sort_values("image")
    assert_rows(good, registered.expected([Path(image).read_bytes() for image in good.image]))
    assert not list(output.glob(".*"))
