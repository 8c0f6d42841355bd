"""What every source of encoded images must do, wherever and however they lie."""

import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest

from dvt.config import DataConfig
from dvt.data.encoded import EncodedImages
from dvt.data.folder import open_class_folders
from dvt.data.objects import Objects
from dvt.data.packing import Packing, pack_part
from dvt.data.shard_source import open_parts
from tests.unit.data.images import write_folder

CLASSES = {"ant": 7, "bee": 130, "cat": 4}  # more than a row group of one class


def pack(root: str, target: str, format_: str, shard_bytes: int = 20_000) -> None:
    """Pack both parts of a folder."""
    parts = open_class_folders(root, DataConfig(root=root))
    packing = Packing(format=format_, class_names=parts[0].class_names, shard_bytes=shard_bytes, seed=3)
    for part, images in zip(("train", "val"), parts, strict=True):
        pack_part(images, f"{target}/{part}", packing, Objects(), lambda _: None)


def open_source(source: str, root: str) -> EncodedImages:
    """The training images."""
    config = DataConfig(source=source.removeprefix("foreign "), root=root)  # type: ignore[arg-type]
    return (open_class_folders if source == "folder" else open_parts)(root, config)[0]


SOURCES = ["folder", "tar", "foreign tar", "parquet", "foreign parquet"]


def lay_out(source: str, folder: Path, root: Path) -> str:
    """The images of `folder` as a source has them; returns its root."""
    if source == "folder":
        return str(folder)
    pack(str(folder), str(root), source.removeprefix("foreign "))
    if source.startswith("foreign"):  # shards as they come from elsewhere, with nothing beside them
        for extra in [*root.rglob("index.parquet"), *root.rglob("asked.json")]:
            extra.unlink()
    return str(root)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("images"), CLASSES, {"ant": 1, "bee": 1, "cat": 1})


@pytest.fixture(scope="module", params=SOURCES)
def images(request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> EncodedImages:
    return open_source(request.param, lay_out(request.param, folder, tmp_path_factory.mktemp("packed")))


def by_content(folder: Path) -> dict[bytes, int]:
    """The label of each file."""
    names = sorted(CLASSES)
    return {path.read_bytes(): names.index(path.parent.name) for path in (folder / "train").rglob("*.jpg")}


def test_every_image_is_there_once_with_its_label(images: EncodedImages, folder: Path) -> None:
    wanted = by_content(folder)
    found = images.read(range(len(images)))
    assert len(images) == len(wanted) == sum(CLASSES.values())
    assert {image.content: int(label) for image, label in zip(found, images.labels, strict=True)} == wanted
    assert not any(image.problem for image in found)
    assert images.labels.dtype == np.int64


def test_images_come_in_the_order_that_was_asked_for(images: EncodedImages) -> None:
    order = [140, 3, 77, 3, 0, 101]
    wanted = [images.read([index])[0] for index in order]
    assert images.read(order) == wanted
    assert images.read([]) == []
    assert len({image.name for image in wanted}) == 5, "each has a name of its own"


def test_blocks_are_one_number_an_image(images: EncodedImages) -> None:
    if images.blocks is not None:
        assert images.blocks.shape == (len(images),)
        assert (np.diff(images.blocks) >= 0).all()


def test_a_copy_in_another_process_reads_the_same(images: EncodedImages) -> None:
    images.read([5])  # what is open must not travel
    copy = pickle.loads(pickle.dumps(images))  # noqa: S301  just made here
    assert copy.read([5, 100]) == images.read([5, 100])


def _read(images: EncodedImages, indices: list[int]) -> list[bytes]:
    return [image.content for image in images.read(indices)]


def test_a_forked_process_reads_the_same(images: EncodedImages) -> None:
    wanted = _read(images, [1, 120])
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(_read, (images, [1, 120])) == wanted


def test_the_fingerprint_is_of_the_images(
    images: EncodedImages, folder: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    source: str = request.node.callspec.params["images"]
    again = open_source(source, lay_out(source, folder, tmp_path / "again"))
    assert images.fingerprint() == again.fingerprint(), "wherever they lie"
    other = write_folder(tmp_path / "other", {**CLASSES, "cat": 5}, {"ant": 1})
    assert images.fingerprint() != open_source(source, lay_out(source, other, tmp_path / "packed")).fingerprint()


def test_class_names(images: EncodedImages, request: pytest.FixtureRequest) -> None:
    source: str = request.node.callspec.params["images"]
    is_numbered = source == "foreign tar"  # WebDataset's shards name no classes
    assert images.class_names == (("0", "1", "2") if is_numbered else ("ant", "bee", "cat"))
