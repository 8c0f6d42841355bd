import gzip
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dvt.data import DataError
from dvt.data.cifar_files import LAYOUTS, CifarLayout, read_cifar
from tests.unit.data.cifar import SMALL10, SMALL100, contents, pixel, write_archive, write_folder


@pytest.mark.parametrize("layout", [SMALL10, SMALL100], ids=["10", "100"])
def test_images_labels_and_names_are_those_of_the_files(layout: CifarLayout, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / layout.folder, layout)
    archive = write_archive(tmp_path / layout.archive, layout)
    for root in (folder, tmp_path, archive):
        found = read_cifar(str(root), layout)
        num_train = len(layout.train) * layout.train_images
        assert found.train.pixels.shape == (num_train, 3, 32, 32)
        assert found.train.labels.tolist() == [number % layout.num_classes for number in range(num_train)]
        assert found.test.labels.tolist() == [(num_train + n) % layout.num_classes for n in range(layout.test_images)]
        assert found.train.pixels[13, 2, 5, 30] == pixel(13, 2, 5, 30) == (91 + 120 + 25 + 90) % 256
        assert found.test.pixels[4, 0, 31, 0] == pixel(num_train + 4, 0, 31, 0)
        assert found.class_names == tuple(f"class {label}" for label in range(layout.num_classes))


def test_the_files_of_the_real_ones_have_their_published_sizes() -> None:
    assert LAYOUTS["cifar10"].sizes == {
        "data_batch_1.bin": 30_730_000,
        "data_batch_2.bin": 30_730_000,
        "data_batch_3.bin": 30_730_000,
        "data_batch_4.bin": 30_730_000,
        "data_batch_5.bin": 30_730_000,
        "test_batch.bin": 30_730_000,
    }
    assert LAYOUTS["cifar100"].sizes == {"train.bin": 153_700_000, "test.bin": 30_740_000}


def _without(folder: Path) -> None:
    (folder / "data_batch_3.bin").unlink()


def _cut(folder: Path) -> None:
    path = folder / "test_batch.bin"
    path.write_bytes(path.read_bytes()[:-3073])  # a whole image less


def _wrong_label(folder: Path) -> None:
    path = folder / "data_batch_2.bin"
    content = bytearray(path.read_bytes())
    content[3 * 3073] = 10
    path.write_bytes(content)


def _few_names(folder: Path) -> None:
    (folder / "batches.meta.txt").write_text("airplane\nautomobile\n")


def _python(folder: Path) -> None:
    for path in folder.iterdir():
        path.rename(path.with_suffix(""))


BAD_FOLDERS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a batch is missing": (
        _without,
        (
            "{root} must hold the binary version of CIFAR-10, got no data_batch_3.bin; unpack cifar-10-binary.tar.gz "
            "there or name it itself"
        ),
    ),
    "a file is short": (
        _cut,
        "{root}/test_batch.bin must have 61460 bytes, got 58387; take it from cifar-10-binary.tar.gz again",
    ),
    "a label is out of range": (
        _wrong_label,
        (
            "{root}/data_batch_2.bin must hold labels below 10, got 10 of image 3; take it from cifar-10-binary.tar.gz "
            "again"
        ),
    ),
    "names are missing": (
        _few_names,
        (
            "{root}/batches.meta.txt must hold the names of 10 classes, one a line, got 2; take it from "
            "cifar-10-binary.tar.gz again"
        ),
    ),
    "it is the Python version": (
        _python,
        (
            "{root} holds the Python version of CIFAR-10, whose files can run any code when they are read; download "
            "its binary version, cifar-10-binary.tar.gz"
        ),
    ),
}


@pytest.mark.parametrize("name", BAD_FOLDERS)
def test_a_bad_folder_gives_its_sentence(name: str, tmp_path: Path) -> None:
    spoil, sentence = BAD_FOLDERS[name]
    folder = write_folder(tmp_path / "cifar", SMALL10)
    spoil(folder)
    with pytest.raises(DataError) as raised:
        read_cifar(str(folder), SMALL10)
    assert str(raised.value) == sentence.format(root=folder)


def test_a_folder_that_is_not_there() -> None:
    with pytest.raises(DataError) as raised:
        read_cifar("/nowhere/cifar", SMALL10)
    assert str(raised.value) == "/nowhere/cifar cannot be read: there is no such file; put it back or name another"


def test_the_archive_of_the_python_version_is_refused_unread(tmp_path: Path) -> None:
    files = {f"cifar-100-python/{name}": b"cos\nsystem\n(S'touch hacked'\ntR." for name in ("meta", "test", "train")}
    root = write_archive(tmp_path / "cifar-100-python.tar.gz", SMALL100, files)
    with pytest.raises(DataError) as raised:
        read_cifar(str(root), SMALL100)
    assert str(raised.value) == (
        f"{root} holds the Python version of CIFAR-100, whose files can run any code when they are read; download its "
        "binary version, cifar-100-binary.tar.gz"
    )


def test_the_archive_of_the_other_data_set_is_refused(tmp_path: Path) -> None:
    root = write_archive(tmp_path / "cifar-10-binary.tar.gz", SMALL10)
    with pytest.raises(DataError) as raised:
        read_cifar(str(root), SMALL100)
    assert str(raised.value) == (
        f"{root} must hold the binary version of CIFAR-100, got no train.bin, test.bin, fine_label_names.txt; "
        "unpack cifar-100-binary.tar.gz there or name it itself"
    )


@pytest.mark.parametrize("damage", ["cut", "bits", "text", "bomb"])
def test_a_damaged_archive_gives_its_sentence(damage: str, tmp_path: Path) -> None:
    root = write_archive(tmp_path / "cifar-10-binary.tar.gz", SMALL10)
    content = bytearray(root.read_bytes())
    half = len(content) // 2
    if damage == "bits":
        content[half] ^= 0xFF
    bomb = gzip.compress(bytes(10 * sum(SMALL10.sizes.values())))
    root.write_bytes({"cut": content[:half], "bits": content, "text": b"<html>404</html>", "bomb": bomb}[damage])
    with pytest.raises(DataError) as raised:
        read_cifar(str(root), SMALL10)
    assert str(raised.value) == (
        f"{root} must be cifar-10-binary.tar.gz as it is downloaded, got a file that is damaged or no such archive; "
        "download it again"
    )


def test_paths_in_an_archive_lead_nowhere(tmp_path: Path) -> None:
    named = {f"{SMALL10.folder}/{name}": content for name, content in contents(SMALL10).items()}
    evil = {"/tmp/dvt-evil": b"x", f"{SMALL10.folder}/../../evil": b"x", "../evil": b"x"}
    inside = tmp_path / "inside"
    inside.mkdir()
    root = write_archive(inside / "cifar-10-binary.tar.gz", SMALL10, evil | named)
    assert np.array_equal(read_cifar(str(root), SMALL10).train.labels, np.arange(40) % 10)
    assert [path.name for path in tmp_path.rglob("*")] == ["inside", "cifar-10-binary.tar.gz"]


def test_a_member_of_another_size_is_not_unpacked(tmp_path: Path) -> None:
    root = write_archive(tmp_path / "cifar-10-binary.tar.gz", SMALL10)
    with pytest.raises(DataError) as raised:
        read_cifar(str(root), replace(SMALL10, train_images=9))
    assert str(raised.value) == (
        f"{root}/cifar-10-batches-bin/data_batch_1.bin must have 27657 bytes, got 24584; take it from "
        "cifar-10-binary.tar.gz again"
    )
