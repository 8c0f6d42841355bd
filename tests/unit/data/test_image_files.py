"""Image files as people name them: found in order, read ahead in bounded memory, never stopping at a broken one."""

import os
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import torch
from PIL import Image

from dvt.data.image_files import FoundFile, find_files, read_files
from dvt.data.transforms import inference_transform, read_image
from tests.unit.data.images import write_image

TRANSFORM = inference_transform(16, 0.875, "bicubic", (0.5,), (0.5,))


def test_a_folder_gives_its_images_by_name_at_any_depth(tmp_path: Path) -> None:
    for name in ("b/2.PNG", "b/1.jpg", "a/deep/3.webp", "0.bmp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in ("notes.txt", ".hidden.png", ".git/4.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = ["0.bmp", "a/deep/3.webp", "b/1.jpg", "b/2.PNG"]
    assert list(find_files(str(tmp_path))) == [FoundFile(str(tmp_path / name)) for name in names]


def test_a_file_is_taken_whatever_it_is_called(tmp_path: Path) -> None:
    assert list(find_files(f"{tmp_path}/scan.dat")) == [FoundFile(f"{tmp_path}/scan.dat")]


def test_a_thin_image_is_not_resized_until_it_fills_memory(tmp_path: Path) -> None:
    """Its shorter side of one pixel would become 18, and the longer one as many times longer."""
    path = tmp_path / "thin.png"
    Image.new("L", (300_000, 1)).save(path)
    assert path.stat().st_size < 10_000
    (read,) = read_files(find_files(str(path)), TRANSFORM, 1, ahead=1)
    assert (read.image, read.problem) == (None, "it has too many pixels")


def test_an_empty_folder_is_told(tmp_path: Path) -> None:
    (found,) = find_files(str(tmp_path))
    assert found.problem == "it holds no images (.bmp, .jpeg, .jpg, .pgm, .png, .ppm, .tif, .tiff, .webp)"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0)
    try:
        assert list(find_files(str(tmp_path))) == [FoundFile(str(tmp_path), "it may not be read")]
    finally:
        tmp_path.chmod(0o700)


@pytest.fixture
def remote() -> Iterator[str]:
    """A folder of another file system, which fsspec reaches as it does a bucket."""
    filesystem = fsspec.filesystem("memory")
    yield "memory://images"
    filesystem.rm("/images", recursive=True)


def test_addresses_of_other_file_systems(tmp_path: Path, remote: str) -> None:
    filesystem = fsspec.filesystem("memory")
    content = write_image(tmp_path / "x.png").read_bytes()
    for name in ("b/1.png", "a.png", ".hidden.png", "notes.txt"):
        filesystem.pipe(f"/images/{name}", content)
    found = [*find_files(remote), *find_files(f"{remote}/none.png")]
    assert [file.address for file in found] == [f"memory:///images/{name}" for name in ("a.png", "b/1.png")] + [
        f"{remote}/none.png"
    ]
    *read, missing = read_files(found, TRANSFORM, 1, ahead=4)
    for file in read:
        assert file.image is not None
        assert torch.equal(file.image, TRANSFORM(read_image(tmp_path / "x.png", 1)))
    assert (missing.image, missing.problem) == (None, "there is no such file")


def test_an_address_of_an_unknown_kind_is_told() -> None:
    (found,) = find_files("what://is/this.png")
    assert found.problem == "Protocol not known: what"


def test_images_come_in_order_and_are_read_no_further_ahead_than_asked(tmp_path: Path) -> None:
    files = [FoundFile(str(write_image(tmp_path / f"{index:02d}.png", index))) for index in range(20)]
    taken: list[str] = []

    def noted() -> Iterator[FoundFile]:
        for file in files:
            taken.append(file.address)
            yield file

    got = []
    for read in read_files(noted(), TRANSFORM, 1, ahead=5):
        got.append(read.address)
        assert len(taken) - len(got) <= 4 or len(taken) == 20
    assert got == [file.address for file in files]


def test_problems_pass_through_in_their_place(tmp_path: Path) -> None:
    good = str(write_image(tmp_path / "good.png"))
    (tmp_path / "bad.png").write_bytes(b"nothing")
    files = [FoundFile("x", "it is late"), FoundFile(good), FoundFile(str(tmp_path / "bad.png")), FoundFile(good)]
    read = list(read_files(files, TRANSFORM, 1, ahead=1))
    assert [file.problem for file in read] == ["it is late", "", "it is not an image", ""]
    assert [file.image is None for file in read] == [True, False, True, False]


def test_a_file_that_was_read_already_is_not_looked_for(tmp_path: Path) -> None:
    content = write_image(tmp_path / "0.png").read_bytes()
    inside, outside = read_files(
        [FoundFile("shard.tar/0.png", content=content), FoundFile(str(tmp_path / "0.png"))], TRANSFORM, 1, 2
    )
    assert inside.address == "shard.tar/0.png"
    assert inside.image is not None
    assert outside.image is not None
    assert torch.equal(inside.image, outside.image)


def test_files_of_other_kinds_can_be_found(tmp_path: Path) -> None:
    for name in ("0.TAR", "1.png", "2.tar.gz", ".3.tar"):
        (tmp_path / name).touch()
    assert list(find_files(str(tmp_path), (".tar",))) == [FoundFile(f"{tmp_path}/0.TAR")]
    (found,) = find_files(str(tmp_path), (".parquet",))
    assert found.problem == "it holds no images (.parquet)"
