"""Shards as a source: what is trained on, and shards that are damaged, hostile or others than their index tells of."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

from dvt.config import ConfigError, DataConfig
from dvt.data import Batch, open_data
from dvt.data.errors import DataError
from dvt.data.index import INDEX, ShardIndex, read_index
from dvt.data.objects import Objects
from dvt.data.packing import ASKED
from tests.contract.test_encoded_images import pack
from tests.unit.data.images import cascade, write_folder, write_image

CLASSES = {"ant": 8, "bee": 8}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "folder", CLASSES, {"ant": 2, "bee": 2})


@pytest.fixture
def packed(folder: Path, tmp_path: Path) -> Path:
    pack(str(folder), str(tmp_path / "packed"), "tar", shard_bytes=3000)
    return tmp_path / "packed"


def config(source: str, root: Path) -> DataConfig:
    return DataConfig(source=source, root=str(root), calibration_images=4)  # type: ignore[arg-type]


def refused(root: Path, source: str = "tar") -> str:
    with pytest.raises(DataError) as error:
        open_data(config(source, root), cascade(2))
    return str(error.value).removeprefix(str(root))


def tar_of(path: Path, *members: tuple[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("source", ["tar", "parquet"])
def test_three_disjoint_sets_of_the_same_pixels_as_in_the_folder(folder: Path, tmp_path: Path, source: str) -> None:
    pack(str(folder), str(tmp_path / source), source)
    data = open_data(config(source, tmp_path / source), cascade(2))
    plain = open_data(config("folder", folder), cascade(2))
    assert data.class_names == ("ant", "bee")
    assert [len(part) for part in (data.train, data.calibration, data.test)] == [12, 4, 4]
    assert data.calibration.read(range(4)).labels.bincount().tolist() == [2, 2]
    found, wanted = data.test.read(range(4)), plain.test.read(range(4))

    def rows(batch: Batch) -> dict[bytes, int]:
        pairs = zip(batch.images, batch.labels.tolist(), strict=True)
        return {image.numpy().tobytes(): label for image, label in pairs}

    assert rows(found) == rows(wanted)
    assert data.train.read(range(12)).images.dtype == torch.uint8


def test_a_damaged_image_in_a_shard_is_replaced_and_named(folder: Path, tmp_path: Path) -> None:
    (folder / "train/ant/003.jpg").write_bytes(b"no image")
    pack(str(folder), str(tmp_path / "packed"), "tar")
    data = open_data(config("tar", tmp_path / "packed"), cascade(2))
    skipped = {each for part in (data.train,) for each in part.read(range(len(part))).skipped}
    assert {(Path(each.name).name, each.reason) for each in skipped} <= {("003", "not_an_image")}


def test_shards_that_are_not_there_or_not_as_packed(packed: Path, folder: Path) -> None:
    shard = packed / "train/shard-00001.tar"
    content = shard.read_bytes()
    shard.write_bytes(content + b"more")
    size = len(content)
    told = f"must hold {size} bytes by its index, got {size + 4}; put the right one back or pack again"
    assert refused(packed) == f"/train/shard-00001.tar {told}"
    shard.unlink()
    assert refused(packed) == (
        "/train/shard-00001.tar is not there, though the index tells of it; put it back or pack again"
    )
    with pytest.raises(ConfigError, match=r"data.source must be tar, as .*/train was packed, got parquet$"):
        open_data(config("parquet", packed), cascade(2))
    with pytest.raises(ConfigError, match=r"data.root must hold shards of train in train/\*.tar or \*train\*.tar, got"):
        open_data(config("tar", folder), cascade(2))


@pytest.mark.parametrize("part", ["train", "val"])
def test_a_part_that_was_not_packed_to_the_end_is_no_source(packed: Path, part: str) -> None:
    (packed / part / INDEX).unlink()
    assert refused(packed) == f"/{part} must be packed to the end, got no {INDEX}; run the same dvt data pack again"


def test_a_shard_that_changes_while_it_is_read_is_noticed(packed: Path) -> None:
    data = open_data(config("tar", packed), cascade(2))
    for shard in (packed / "train").glob("*.tar"):
        shard.write_bytes(bytes(shard.stat().st_size + 512))
    with pytest.raises(DataError, match=r"is not the object that was opened: its content or size has changed since"):
        data.train.read(range(4))


def column(table: pa.Table, name: str, value: int) -> pa.Table:
    """The table with another value in the first row of a column."""
    at = table.schema.get_field_index(name)
    values = table.column(name).to_numpy().copy()
    values[0] = value
    return table.set_column(at, table.schema.field(at), pa.array(values))


Change = Callable[[dict[str, Any], pa.Table], object]
CHANGES: list[tuple[Change, str]] = [
    (lambda header, _: header.update(version=2), "its version must be 1, got 2"),
    (lambda header, _: header.update(format="zip"), "format must be one of tar, parquet, got zip"),
    (lambda header, _: header.pop("shards"), "it lacks 'shards'"),
    (lambda _, table: column(table, "label", 2), "labels must be from 0 to 1, got 2"),
    (lambda _, table: column(table, "label", -1), "labels must be from 0 to 1, got -1"),
    (lambda _, table: column(table, "offset", 10**9), "an image lies beyond the end of its shard"),
    (lambda _, table: table.slice(1), "the images of a shard are others than its header says"),
]


@pytest.mark.parametrize(("change", "why"), CHANGES)
def test_an_index_that_contradicts_itself(packed: Path, change: Change, why: str) -> None:
    path = packed / "train" / INDEX
    table = pyarrow.parquet.read_table(path)
    header = json.loads(table.schema.metadata[b"dvt"])
    changed = change(header, table)  # of the header in place, or another table
    table = changed if isinstance(changed, pa.Table) else table
    pyarrow.parquet.write_table(table.replace_schema_metadata({b"dvt": json.dumps(header).encode()}), path)
    assert refused(packed) == f"/train/{INDEX} is not an index of shards ({why}); run dvt data pack again"


def test_an_index_that_is_something_else(packed: Path) -> None:
    (packed / "train" / INDEX).write_bytes(b"<html>404</html>")
    assert refused(packed).startswith(f"/train/{INDEX} is not an index of shards (")


def test_an_index_comes_back_as_it_was_written(packed: Path) -> None:
    index = read_index(str(packed / "train" / INDEX), Objects().read)
    again = read_index("again", lambda _: index.to_bytes())
    for name in ("shard", "labels", "offsets", "sizes"):
        np.testing.assert_array_equal(getattr(index, name), getattr(again, name))
    assert (index.keys, index.shards, index.fingerprint()) == (again.keys, again.shards, again.fingerprint())
    assert isinstance(again, ShardIndex)


IMAGE = b"\xff\xd8\xff"


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        ([("/etc/a.jpg", IMAGE)], " holds /etc/a.jpg, a name that leads out of the shard; do not use the shard"),
        ([("../a.jpg", IMAGE)], " holds ../a.jpg, a name that leads out of the shard; do not use the shard"),
        ([("a.jpg", IMAGE)], " holds a without a label in a.cls; add one"),
        ([("a.jpg", IMAGE), ("a.cls", b"x")], "/a.cls must be a number of at least 0, got b'x'; mend it"),
        ([("a.jpg", IMAGE), ("a.cls", b"-1")], "/a.cls must be a number of at least 0, got b'-1'; mend it"),
        (
            [("a.jpg", IMAGE), ("a.json", b"{}")],
            "/a.json must be an object with \"label\", a number of at least 0, got b'{}'; mend it",
        ),
    ],
)
def test_members_of_foreign_shards_that_are_refused(
    tmp_path: Path, members: list[tuple[str, bytes]], sentence: str
) -> None:
    tar_of(tmp_path / "train/0.tar", *members)
    assert refused(tmp_path) == f"/train/0.tar{sentence}"


def test_foreign_shards_with_json_links_and_hidden_files(tmp_path: Path) -> None:
    image = write_image(tmp_path / "a.jpg").read_bytes()
    for name in ("imagenet-train-000.tar", "imagenet-val-000.tar"):
        members = [(f"{key}.jpg", image) for key in "abcd"] + [(".hidden.jpg", b"")]
        labels = [(f"{key}.json", json.dumps({"label": place % 2}).encode()) for place, key in enumerate("abcd")]
        tar_of(tmp_path / "shards" / name, *members, *labels)
    kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
    with tarfile.open(tmp_path / "shards/imagenet-train-000.tar", "a") as tar:
        for place, kind in enumerate(kinds):
            link = tarfile.TarInfo(f"e{place}.jpg")
            link.type, link.linkname = kind, "/etc/passwd"
            tar.addfile(link)
    data = open_data(DataConfig(source="tar", root=str(tmp_path / "shards"), calibration_images=2), cascade(2))
    assert [len(part) for part in (data.train, data.calibration, data.test)] == [2, 2, 4]
    assert data.class_names == ("0", "1")
    assert data.test.read(range(4)).labels.tolist() == [0, 1, 0, 1]


def test_foreign_shards_that_are_no_shards(packed: Path) -> None:
    for extra in [*packed.rglob(INDEX), *packed.rglob(ASKED)]:
        extra.unlink()
    shard = packed / "train/shard-00000.tar"
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    told = refused(packed)
    assert told.startswith("/train/shard-00000.tar is cut off")
    shard.write_bytes(b"no tar file at all" * 100)
    assert refused(packed) == "/train/shard-00000.tar is not a tar file; put the right one there"


def parquet_of(path: Path, **columns: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pa.table(columns), path)


def test_foreign_parquet_that_is_none(tmp_path: Path) -> None:
    file = tmp_path / "train-0.parquet"
    file.write_bytes(b"PAR1")
    assert refused(tmp_path, "parquet") == (
        "/train-0.parquet is not a Parquet file of images and labels, or is damaged; replace it"
    )
    parquet_of(file, image=[b"x"])
    assert refused(tmp_path, "parquet") == (
        "/train-0.parquet must hold the columns image and label, got none called label"
    )
    parquet_of(file, image=[b"x", b"y"], label=[0, None])
    assert refused(tmp_path, "parquet") == "/train-0.parquet holds 1 images without a label; take them out"
    parquet_of(file, image=[b"x", b"y"], label=[0, -1])
    parquet_of(tmp_path / "validation-0.parquet", image=[b"x"], label=[0])
    assert refused(tmp_path, "parquet") == f"labels of train in {tmp_path} must be from 0 to 0, got -1; mend them"


def test_parquet_images_without_bytes_are_problems(tmp_path: Path) -> None:
    image = write_image(tmp_path / "a.jpg").read_bytes()
    for part in ("train", "validation"):
        parquet_of(tmp_path / f"{part}-0.parquet", image=[image, None, image], label=[0, 1, 1])
    data = open_data(DataConfig(source="parquet", root=str(tmp_path), calibration_images=1), cascade(2))
    skipped = data.train.read(range(2)).skipped
    assert [(Path(each.name).name, each.reason) for each in skipped] in ([("train-0.parquet#1", "not_read")], [])
