"""Images in a bucket: packed, checked and read from there by every source, the same as from a disk."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dvt.cli.main import main
from dvt.config import DataConfig
from dvt.data import DataError, open_data, train_batches
from tests.contract.test_encoded_images import by_content, open_source
from tests.integration.s3_server import S3Server
from tests.unit.data.images import cascade, write_folder

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("s3_settings")]

BUCKET = "dvt-data"
CLASSES = {"ant": 7, "bee": 30, "cat": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("images"), CLASSES, {"ant": 1, "bee": 1, "cat": 1})


@pytest.fixture(scope="module")
def client(s3: S3Server, folder: Path) -> Iterator[Any]:
    opened = s3.client()
    opened.create_bucket(Bucket=BUCKET)
    for path in folder.rglob("*.jpg"):
        opened.upload_file(str(path), BUCKET, f"folder/{path.relative_to(folder)}")
    yield opened
    opened.close()


def root_of(source: str, folder: Path, client: Any) -> str:
    """The root of a source in the bucket, packed there on first use."""
    kind = source.removeprefix("foreign ")
    root = f"s3://{BUCKET}/{source.replace(' ', '-')}"
    if source != "folder" and main(["data", "pack", str(folder), root, "--format", kind]) != 0:
        raise AssertionError(f"{root} must be packed")
    if source.startswith("foreign"):
        for part in ("train", "val"):
            for name in ("index.parquet", "asked.json"):
                client.delete_object(Bucket=BUCKET, Key=f"{source.replace(' ', '-')}/{part}/{name}")
    return root


@pytest.mark.parametrize("source", ["folder", "tar", "foreign tar", "parquet", "foreign parquet"])
def test_every_source_reads_the_same_from_a_bucket(source: str, folder: Path, client: Any) -> None:
    images = open_source(source, root_of(source, folder, client))
    order = list(range(len(images)))[::-1]
    found = {image.content: int(images.labels[place]) for place, image in zip(order, images.read(order), strict=True)}
    assert found == by_content(folder)
    assert (images.blocks is None) == (source == "folder")


def test_a_packed_bucket_is_checked_and_trained_from(
    folder: Path, client: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = root_of("tar", folder, client)
    capsys.readouterr()
    assert main(["data", "check", root, "--num-workers", "1"]) == 0
    told = capsys.readouterr().out
    assert "train: 41 images of 3 classes, 4 to 30 a class" in told
    assert told.count("all can be read") == 2
    config = DataConfig(source="tar", root=root, calibration_images=5, cache_dir=str(tmp_path / "cache"), cache_gib=1)
    data = open_data(config, cascade(3))
    arguments: dict[str, Any] = {"epoch": 0, "rank": 0, "world_size": 1, "batch_size": 6, "seed": 1}
    batches = list(train_batches(data, seen_images=0, num_workers=0, **arguments))
    again = list(train_batches(data, seen_images=12, num_workers=2, **arguments))
    assert len(batches) == 6
    assert all(torch.equal(one.images, other.images) for one, other in zip(batches[2:], again, strict=True))
    assert any((tmp_path / "cache").rglob("*")), "what was read is kept on the disk"


def test_a_shard_that_vanishes_or_changes_is_told_of(folder: Path, client: Any) -> None:
    root = root_of("tar", folder, client)
    data = open_data(DataConfig(source="tar", root=root, calibration_images=5), cascade(3))
    key = "tar/train/shard-00000.tar"
    content = client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
    client.put_object(Bucket=BUCKET, Key=key, Body=content[:-512] + bytes(511) + b"x")
    with pytest.raises(
        DataError, match=rf"^s3://{BUCKET}/{key} is not the object that was opened: its content or size"
    ):
        data.train.read([0, 1])
    client.delete_object(Bucket=BUCKET, Key=key)
    with pytest.raises(DataError, match=rf"^s3://{BUCKET}/{key} could be read before and cannot now: there is no such"):
        data.train.read([0, 1])
    client.put_object(Bucket=BUCKET, Key=key, Body=content)
