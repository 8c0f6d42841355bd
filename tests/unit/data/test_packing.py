"""Packing: bytes untouched, the same shards each time, whole or not there, taken up again where it was."""

import errno
import hashlib
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet
import pytest

from dvt.config import DataConfig
from dvt.data.errors import DataError
from dvt.data.folder import FolderFiles, open_class_folders
from dvt.data.index import INDEX, read_index
from dvt.data.objects import Objects
from dvt.data.packing import RECORDS, Packing, pack_part
from tests.unit.data.images import write_folder

FORMATS = ["tar", "parquet"]
NAMES = ("ant", "bee")
SHARD_BYTES = 10_000  # about ten of the test's images


def packing(format_: str, **changes: object) -> Packing:
    values: dict[str, object] = {"format": format_, "class_names": NAMES, "shard_bytes": SHARD_BYTES, "seed": 0}
    return Packing(**values | changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("images"), {"ant": 30, "bee": 20}, {"ant": 1, "bee": 1})


@pytest.fixture(scope="module")
def images(root: Path) -> FolderFiles:
    return open_class_folders(str(root), DataConfig(root=str(root)))[0]


def pack(images: FolderFiles, folder: Path, asked: Packing, told: Callable[[int], None] = lambda _: None) -> list[str]:
    """Pack, and tell the digest of each file by its name."""
    pack_part(images, str(folder), asked, Objects(), told)
    return [f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in sorted(folder.iterdir())]


@pytest.mark.parametrize("format_", FORMATS)
def test_the_same_images_give_the_same_bytes(images: FolderFiles, tmp_path: Path, format_: str) -> None:
    first = pack(images, tmp_path / "a", packing(format_))
    assert first == pack(images, tmp_path / "b", packing(format_))
    assert len(first) > 4, "several shards, the index, and what was asked for"
    assert first != pack(images, tmp_path / "c", packing(format_, seed=1))


def test_a_tar_shard_is_what_webdataset_reads(images: FolderFiles, root: Path, tmp_path: Path) -> None:
    pack(images, tmp_path / "train", packing("tar"))
    with tarfile.open(tmp_path / "train/shard-00000.tar") as shard:
        names = shard.getnames()
        image, label = names[:2]
        assert (image.removesuffix(".jpg"), label) == (label.removesuffix(".cls"), f"{image[:-4]}.cls")
        content, text = (shard.extractfile(name) for name in (image, label))
        assert content is not None
        assert text is not None
        assert content.read() == (root / "train" / image).read_bytes()
        assert text.read().decode() == str(NAMES.index(image.partition("/")[0]))


def test_a_parquet_shard_is_what_hugging_face_reads(images: FolderFiles, root: Path, tmp_path: Path) -> None:
    pack(images, tmp_path / "train", packing("parquet"))
    row = pyarrow.parquet.read_table(tmp_path / "train/shard-00000.parquet").slice(3, 1).to_pylist()[0]
    assert row["image"]["bytes"] == (root / "train" / row["image"]["path"]).read_bytes()
    assert row["label"] == NAMES.index(row["image"]["path"].partition("/")[0])


def test_the_index_tells_of_each_shard(images: FolderFiles, tmp_path: Path) -> None:
    pack(images, tmp_path / "train", packing("tar"))
    index = read_index(str(tmp_path / "train" / INDEX), Objects().read)
    for shard in index.shards:
        content = (tmp_path / "train" / shard.name).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (shard.num_bytes, shard.sha256)
    assert sum(shard.num_images for shard in index.shards) == len(index) == len(images)
    classes = index.labels[index.shard == 0].tolist()
    assert len(set(classes)) == 2, "classes are mixed over shards"


@pytest.mark.parametrize("format_", FORMATS)
def test_who_was_killed_goes_on_and_ends_with_the_same_files(
    images: FolderFiles, root: Path, tmp_path: Path, format_: str
) -> None:
    wanted = pack(images, tmp_path / "whole", packing(format_))
    folder = tmp_path / "killed"
    program = (
        "import sys, time; from dvt.config import DataConfig; from dvt.data.folder import open_class_folders;"
        "from dvt.data.objects import Objects; from dvt.data.packing import Packing, pack_part;"
        f"images = open_class_folders({str(root)!r}, DataConfig(root={str(root)!r}))[0];"
        f"asked = Packing(format={format_!r}, class_names={NAMES}, shard_bytes={SHARD_BYTES}, seed=0);"
        f"pack_part(images, {str(folder)!r}, asked, Objects(), lambda count: time.sleep(60 * (count > 0)))"
    )
    process = subprocess.Popen([sys.executable, "-c", program])
    try:
        end = time.monotonic() + 60
        while not (folder / RECORDS / "00000.parquet").exists():
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait(10)
    (folder / f"shard-00001.{format_}").write_bytes(b"half")  # no record tells of it
    counts: list[int] = []
    assert pack(images, folder, packing(format_), counts.append) == wanted
    assert counts[0] > 0, "what was whole is not packed again"
    assert sum(counts) == len(images)


def test_a_shard_that_the_disk_lost_is_packed_again(images: FolderFiles, tmp_path: Path) -> None:
    wanted = pack(images, tmp_path / "a", packing("tar"))
    folder = tmp_path / "b"

    def stop_after_two(_: int) -> None:
        if (folder / RECORDS / "00001.parquet").exists():
            raise StopError

    with pytest.raises(StopError):
        pack(images, folder, packing("tar"), stop_after_two)
    (folder / "shard-00001.tar").write_bytes(bytes((folder / "shard-00001.tar").stat().st_size))
    assert pack(images, folder, packing("tar")) == wanted


class StopError(Exception):
    """Ends a packing."""


def stop(count: int) -> None:
    if count:
        raise StopError


def grow(file: Path) -> None:
    found = file.stat()
    file.write_bytes(file.read_bytes() + b"x")
    os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns))


def touch(file: Path) -> None:
    os.utime(file, ns=(0, 0))


@pytest.mark.parametrize("change", [grow, touch])
def test_images_that_changed_before_a_packing_goes_on(tmp_path: Path, change: Callable[[Path], None]) -> None:
    root = write_folder(tmp_path, {"ant": 12}, {"ant": 1})
    images = open_class_folders(str(root), DataConfig(root=str(root)))[0]
    asked = packing("tar", class_names=("ant",), shard_bytes=4000)
    with pytest.raises(StopError):
        pack(images, tmp_path / "packed", asked, stop)
    with pytest.raises(StopError):  # unchanged, it goes on: with the next shard
        pack(images, tmp_path / "packed", asked, lambda _: stop(len([*tmp_path.glob("packed/*.tar")]) == 2))
    change(Path(images.files[11]))
    rule = "was begun with images that have changed since, in size or date"
    with pytest.raises(DataError) as raised:
        pack(images, tmp_path / "packed", asked)
    told = f"{tmp_path}/packed {rule}; remove it and pack again, or choose another folder"
    assert str(raised.value) == told
    (tmp_path / "packed" / RECORDS / "source.txt").unlink()  # nobody knows
    with pytest.raises(DataError, match=rule):
        pack(images, tmp_path / "packed", asked)


def test_packing_again_finds_all_done(images: FolderFiles, tmp_path: Path) -> None:
    wanted = pack(images, tmp_path / "a", packing("tar"))
    counts: list[int] = []
    assert pack(images, tmp_path / "a", packing("tar"), counts.append) == wanted
    assert counts == [50]
    (tmp_path / "a" / RECORDS).mkdir()  # as of one that was killed right after it wrote the index
    assert pack(images, tmp_path / "a", packing("tar")) == wanted


def test_another_packing_or_other_files_are_refused(images: FolderFiles, tmp_path: Path) -> None:
    pack(images, tmp_path / "a", packing("tar"))
    with pytest.raises(DataError, match=r"/a holds other images, or the same packed otherwise; choose another folder$"):
        pack(images, tmp_path / "a", packing("tar", seed=1))
    (tmp_path / "b").mkdir()
    (tmp_path / "b/notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"/b must be empty or begun by the same command, got other files; choose"):
        pack(images, tmp_path / "b", packing("tar"))


def test_names_that_clash_are_refused(tmp_path: Path) -> None:
    root = write_folder(tmp_path, {"ant": 2}, {"ant": 1})
    (root / "train/ant/001.jpg").rename(root / "train/ant/000.png")
    images = open_class_folders(str(root), DataConfig(root=str(root)))[0]
    with pytest.raises(DataError, match=r"^two files are called ant/000 but for their endings or dots; rename one"):
        pack(images, tmp_path / "packed", packing("tar", class_names=("ant",)))


def test_an_image_that_is_gone_stops_the_packing(tmp_path: Path) -> None:
    root = write_folder(tmp_path, {"ant": 2}, {"ant": 1})
    images = open_class_folders(str(root), DataConfig(root=str(root)))[0]
    (root / "train/ant/001.jpg").unlink()
    with pytest.raises(DataError, match=r"ant/001.jpg cannot be read: there is no such file; put it back or name"):
        pack(images, tmp_path / "packed", packing("tar", class_names=("ant",)))
    (root / "train/ant/001.jpg").mkdir()
    with pytest.raises(DataError, match=r"ant/001.jpg cannot be read \(is a directory\); put it right and pack again$"):
        pack(images, tmp_path / "packed", packing("tar", class_names=("ant",)))


def test_a_link_to_what_is_no_image_is_not_packed(tmp_path: Path) -> None:
    """Shards may be published, and image folders come from strangers."""
    root = write_folder(tmp_path / "images", {"ant": 3, "bee": 3}, {"ant": 1, "bee": 1})
    (tmp_path / "credentials").write_text("aws_secret_access_key = planted")
    link = next((root / "train" / "ant").iterdir())
    link.unlink()
    link.symlink_to(tmp_path / "credentials")
    images, _ = open_class_folders(str(root), DataConfig(root=str(root)))
    with pytest.raises(DataError) as told:
        pack(images, tmp_path / "packed", packing("tar"))
    assert str(told.value) == f"{link} must lead to an image, got another file; take it out and pack again"
    link.unlink()
    link.symlink_to(next((root / "train" / "bee").iterdir()))  # as a set that was put together by links
    assert pack(images, tmp_path / "again", packing("tar"))


def test_a_full_disk_is_told_of(images: FolderFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DataError, match=r"cannot be written: the disk is full; make room and pack again to go on$"):
        pack(images, tmp_path / "a", packing("tar"))
