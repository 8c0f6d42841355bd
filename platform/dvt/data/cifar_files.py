"""The files of CIFAR-10 and CIFAR-100 in their binary version, which nothing has to unpickle.

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009. A file is records one after the other, each
the label bytes and then 3 x 32 x 32 pixels, red first. The folder may be named, the folder it lies in, or the archive
as it is downloaded: it is read in memory, and nothing of it is written anywhere.

Shapes: `N` images.
"""

import tarfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from gzip import GzipFile
from io import BytesIO
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dvt.data.errors import DataError
from dvt.data.objects import Objects

SIDE = 32  # pixels
NUM_CHANNELS = 3
PIXEL_BYTES = NUM_CHANNELS * SIDE * SIDE
ARCHIVE_SUFFIXES = (".tar.gz", ".tgz")
MOST_UNPACKED = 2  # times the files that are looked for; an archive that unpacks to more is another
_DAMAGED = (tarfile.TarError, OSError, EOFError, zlib.error)  # what reading an archive in memory raises

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class CifarLayout:
    """What the binary version of one of the two data sets consists of."""

    title: str
    archive: str  # what is downloaded
    folder: str  # that it holds
    train: tuple[str, ...]  # files of training images, all of one size
    train_images: int  # in each of them
    test: str
    test_images: int
    names: str  # file of the class names, one a line
    num_classes: int
    num_label_bytes: int  # the last one is the label, an earlier one the superclass
    python_file: str  # a file of the version that has to be unpickled

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each file of images."""
        record = self.num_label_bytes + PIXEL_BYTES
        return dict.fromkeys(self.train, record * self.train_images) | {self.test: record * self.test_images}


LAYOUTS: dict[Literal["cifar10", "cifar100"], CifarLayout] = {
    "cifar10": CifarLayout(
        title="CIFAR-10",
        archive="cifar-10-binary.tar.gz",
        folder="cifar-10-batches-bin",
        train=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        train_images=10_000,
        test="test_batch.bin",
        test_images=10_000,
        names="batches.meta.txt",
        num_classes=10,
        num_label_bytes=1,
        python_file="data_batch_1",
    ),
    "cifar100": CifarLayout(
        title="CIFAR-100",
        archive="cifar-100-binary.tar.gz",
        folder="cifar-100-binary",
        train=("train.bin",),
        train_images=50_000,
        test="test.bin",
        test_images=10_000,
        names="fine_label_names.txt",
        num_classes=100,
        num_label_bytes=2,
        python_file="train",
    ),
}


@dataclass(frozen=True, eq=False)
class CifarPart:
    """Training or test images as they are in the files."""

    pixels: Pixels  # (N, 3, 32, 32)
    labels: NDArray[np.int64]  # (N,)


@dataclass(frozen=True, eq=False)
class CifarFiles:
    """All images of a data set, in memory."""

    train: CifarPart
    test: CifarPart
    class_names: tuple[str, ...]


def read_cifar(root: str, layout: CifarLayout) -> CifarFiles:
    """Read one of the data sets.

    Args:
        root: A path or `s3://` address: the folder of the files, the one it lies in, or the archive.
        layout: Which of the two, from `LAYOUTS`.

    Raises:
        DataError: If a file is missing or not as it should be, or it is the version that has to be unpickled.
    """
    root = root.rstrip("/")
    found = _read_archive(root, layout) if root.lower().endswith(ARCHIVE_SUFFIXES) else _read_folder(root, layout)
    train, test = (
        _join([_decode(f"{root}/{name}", found[name], layout) for name in names])
        for names in (layout.train, (layout.test,))
    )
    return CifarFiles(train, test, _class_names(f"{root}/{layout.names}", found[layout.names], layout))


def _read_folder(root: str, layout: CifarLayout) -> dict[str, bytes]:
    objects = Objects()
    sizes = {found.address.removeprefix(f"{root}/"): found.size for found in objects.list(root)}
    return _read_all(root, sizes, layout, lambda name: objects.read(f"{root}/{name}"))


def _read_archive(root: str, layout: CifarLayout) -> dict[str, bytes]:
    content = Objects().read(root)
    most = MOST_UNPACKED * sum(layout.sizes.values())
    try:
        unpacked = GzipFile(fileobj=BytesIO(content)).read(most + 1)  # to its end, where its checksum is
        if len(unpacked) > most:
            raise tarfile.TarError
        with tarfile.open(fileobj=BytesIO(unpacked), mode="r:") as archive:
            members = {member.name.removeprefix("./"): member for member in archive if member.isfile()}
            sizes = {name: member.size for name, member in members.items()}
            return _read_all(root, sizes, layout, lambda name: _extract(archive, members[name]))
    except _DAMAGED as error:
        raise DataError(
            f"{root} must be {layout.archive} as it is downloaded, got a file that is damaged or no such archive; "
            "download it again"
        ) from error


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    opened = archive.extractfile(member)
    assert opened is not None  # it is a file
    return opened.read()


def _read_all(
    root: str, sizes: Mapping[str, int], layout: CifarLayout, read: Callable[[str], bytes]
) -> dict[str, bytes]:
    """The files by their names, from among all that lie at `root`, once they are found to be as they should."""
    within = f"{layout.folder}/" if any(name.startswith(f"{layout.folder}/") for name in sizes) else ""
    missing = [name for name in (*layout.sizes, layout.names) if within + name not in sizes]
    if missing:
        raise _missing(root, sizes, missing, layout)
    for name, size in layout.sizes.items():
        if sizes[within + name] != size:
            raise DataError(
                f"{root}/{within}{name} must have {size} bytes, got {sizes[within + name]}; "
                f"take it from {layout.archive} again"
            )
    return {name: read(within + name) for name in (*layout.sizes, layout.names)}


def _missing(root: str, shown: Mapping[str, int], missing: Sequence[str], layout: CifarLayout) -> DataError:
    if any(name.rpartition("/")[2] == layout.python_file for name in shown):
        return DataError(
            f"{root} holds the Python version of {layout.title}, whose files can run any code when they are read; "
            f"download its binary version, {layout.archive}"
        )
    return DataError(
        f"{root} must hold the binary version of {layout.title}, got no {', '.join(missing)}; "
        f"unpack {layout.archive} there or name it itself"
    )


def _decode(name: str, content: bytes, layout: CifarLayout) -> CifarPart:
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, layout.num_label_bytes + PIXEL_BYTES)
    labels = records[:, layout.num_label_bytes - 1].astype(np.int64)
    wrong = np.flatnonzero(labels >= layout.num_classes)
    if len(wrong):
        raise DataError(
            f"{name} must hold labels below {layout.num_classes}, got {labels[wrong[0]]} of image {wrong[0]}; "
            f"take it from {layout.archive} again"
        )
    return CifarPart(records[:, layout.num_label_bytes :].reshape(-1, NUM_CHANNELS, SIDE, SIDE), labels)


def _join(parts: Sequence[CifarPart]) -> CifarPart:
    return CifarPart(np.concatenate([part.pixels for part in parts]), np.concatenate([part.labels for part in parts]))


def _class_names(name: str, content: bytes, layout: CifarLayout) -> tuple[str, ...]:
    names = tuple(line.strip() for line in content.decode("utf-8", errors="replace").splitlines() if line.strip())
    if len(names) != layout.num_classes:
        raise DataError(
            f"{name} must hold the names of {layout.num_classes} classes, one a line, got {len(names)}; "
            f"take it from {layout.archive} again"
        )
    return names
