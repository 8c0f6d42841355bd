"""Files in the exact layout of CIFAR's binary version, but with few images, for tests."""

import io
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from dvt.data.cifar_files import LAYOUTS, CifarLayout

SMALL10 = replace(LAYOUTS["cifar10"], train_images=8, test_images=20)
SMALL100 = replace(LAYOUTS["cifar100"], train_images=300, test_images=100)


def pixel(number: int, channel: int, row: int, column: int) -> int:
    """The value of one pixel of the image of this number."""
    return (7 * number + 60 * channel + 5 * row + 3 * column) % 256


def record(layout: CifarLayout, number: int, label: int) -> bytes:
    """An image as it stands in a file."""
    channel, row, column = np.mgrid[0:3, 0:32, 0:32]
    pixels = ((7 * number + 60 * channel + 5 * row + 3 * column) % 256).astype(np.uint8)
    superclass = bytes([label // 5]) if layout.num_label_bytes == 2 else b""
    return superclass + bytes([label]) + pixels.tobytes()


def contents(layout: CifarLayout) -> dict[str, bytes]:
    """All files; images are numbered through train and test, and so are their labels, modulo the classes."""
    files, number = {}, 0
    for name in (*layout.train, layout.test):
        count = layout.test_images if name == layout.test else layout.train_images
        numbers = range(number, number + count)
        files[name] = b"".join(record(layout, each, each % layout.num_classes) for each in numbers)
        number += count
    ends = "\n\n" if layout.num_classes == 10 else "\n"  # as in the real ones
    files[layout.names] = ("\n".join(f"class {label}" for label in range(layout.num_classes)) + ends).encode()
    return files


def write_folder(folder: Path, layout: CifarLayout) -> Path:
    folder.mkdir(parents=True)
    for name, content in contents(layout).items():
        (folder / name).write_bytes(content)
    return folder


def write_archive(path: Path, layout: CifarLayout, files: dict[str, bytes] | None = None) -> Path:
    """The archive as it is downloaded; other `files` by their full names."""
    named = {f"{layout.folder}/{name}": content for name, content in contents(layout).items()}
    with tarfile.open(path, "w:gz") as archive:
        for name, content in (named if files is None else files).items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path
