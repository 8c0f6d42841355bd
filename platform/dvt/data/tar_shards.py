"""Tar shards as WebDataset writes them: KEY.jpg beside KEY.cls with the label, found by walking through the headers.

Nothing is extracted, and no name leads anywhere: of a member only its place in the shard is used. Names that would lead
out of a folder are refused all the same, as a shard that has them was made to do harm or by mistake.
"""

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO, RawIOBase
from pathlib import PurePosixPath

from dvt.data.errors import DataError
from dvt.data.folder import IMAGE_SUFFIXES
from dvt.data.object_file import ObjectFile
from dvt.data.objects import Objects

LABEL_SUFFIX = ".cls"
_JSON_SUFFIX = ".json"
_HEADER_BYTES = tarfile.BLOCKSIZE
_MOST_LABEL_BYTES = 2**16  # of a .cls or .json member
_MOST_HEADER_BYTES = 2**20  # of one read of headers; a long name is a member of its own


@dataclass(frozen=True)
class TarImage:
    """An image in a shard."""

    key: str  # name without its ending
    label: int
    offset: int  # first byte of the encoded image
    size: int  # its bytes


def scan_shard(address: str, objects: Objects) -> list[TarImage]:
    """The images of a shard, in its order.

    Args:
        address: Of the shard.
        objects: Reads it.

    Raises:
        DataError: If it is no tar file, cut off, has names that lead out of it, or an image has no label.
    """
    return scan_file(address, ObjectFile(address, objects, _MOST_HEADER_BYTES))


def scan_file(address: str, file: RawIOBase | BytesIO) -> list[TarImage]:
    """The images of a shard that is open; see `scan_shard`.

    Args:
        address: Of the shard, for messages.
        file: The shard.
    """
    images: dict[str, tuple[int, int]] = {}
    labels: dict[str, int] = {}
    for member in _members(address, file):
        if leads_out(member.name):
            raise DataError(f"{address} holds {member.name}, a name that leads out of the shard; do not use the shard")
        if not member.isreg() or member.issparse() or PurePosixPath(member.name).name.startswith("."):
            continue
        key, suffix = _split(member.name)
        if suffix in IMAGE_SUFFIXES:
            images[key] = (member.offset_data, member.size)
        elif suffix in (LABEL_SUFFIX, _JSON_SUFFIX):
            labels[key] = _label(address, member, file, suffix)
    without = [key for key in images if key not in labels]
    if without:
        raise DataError(f"{address} holds {without[0]} without a label in {without[0]}{LABEL_SUFFIX}; add one")
    return [TarImage(key, labels[key], offset, size) for key, (offset, size) in images.items()]


def leads_out(name: str) -> bool:
    """Whether a member of this name would be put outside of the folder that its shard is unpacked to."""
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts


def _split(name: str) -> tuple[str, str]:
    """The key and the ending: as in WebDataset, a key ends at the first dot of the file's name."""
    folder, _, file = name.rpartition("/")
    stem, _, suffix = file.partition(".")
    return f"{folder}/{stem}" if folder else stem, f".{suffix.lower()}"


def _members(address: str, file: RawIOBase | BytesIO) -> Iterator[tarfile.TarInfo]:
    """The members' headers; of their contents nothing is read."""
    try:
        with tarfile.open(fileobj=file, mode="r:") as shard:  # tarfile reads headers and skips contents
            yield from shard
            end = shard.offset
    except tarfile.ReadError as error:
        told = "cut off" if "unexpected end of data" in str(error) else "not a tar file"
        raise DataError(f"{address} is {told}; put the right one there") from error
    except (OSError, tarfile.TarError) as error:
        raise DataError(f"{address} is damaged; put the right one there") from error
    # tarfile takes any header that it cannot read for the end, once one was read.
    file.seek(end)
    if file.read(_HEADER_BYTES) != tarfile.NUL * _HEADER_BYTES:
        raise DataError(f"{address} is cut off or damaged behind byte {end}; put the right one there")


def _label(address: str, member: tarfile.TarInfo, file: RawIOBase | BytesIO, suffix: str) -> int:
    file.seek(member.offset_data)  # tarfile seeks for itself before it reads on
    text = file.read(min(member.size, _MOST_LABEL_BYTES)) or b""
    try:
        value = json.loads(text)
        if suffix == _JSON_SUFFIX:
            value = value["label"]
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ValueError
    except (KeyError, TypeError, ValueError) as error:  # ValueError of text that is no JSON, too
        what = 'an object with "label", a number' if suffix == _JSON_SUFFIX else "a number"
        raise DataError(f"{address}/{member.name} must be {what} of at least 0, got {text[:40]!r}; mend it") from error
    return int(value)


class TarWriter:
    """Makes a shard in memory, the same bytes for the same images."""

    def __init__(self) -> None:
        self._file = BytesIO()
        self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115  closed below
        self.images: list[TarImage] = []

    @property
    def num_bytes(self) -> int:
        """Bytes so far."""
        return self._file.tell()

    def add(self, key: str, suffix: str, content: bytes, label: int) -> None:
        """Add an image; `suffix` begins with a dot."""
        offset = self._add(f"{key}{suffix}", content)
        self._add(f"{key}{LABEL_SUFFIX}", str(label).encode())
        self.images.append(TarImage(key, label, offset, len(content)))

    def finish(self) -> bytes:
        """The shard."""
        self._tar.close()
        return self._file.getvalue()

    def _add(self, name: str, content: bytes) -> int:
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(content), 0o644
        self._tar.addfile(member, BytesIO(content))
        return self._file.tell() - -(-len(content) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
