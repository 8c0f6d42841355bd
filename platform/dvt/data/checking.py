"""Checking a data set: every shard against its checksum and index, every image decoded, by processes of all cores."""

import hashlib
import multiprocessing
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from io import BytesIO

import numpy as np
import pyarrow as pa
from PIL import Image, ImageFile, UnidentifiedImageError

from dvt.config import DataConfig
from dvt.data.decoding import UndecodableError, decode
from dvt.data.encoded import EncodedImages
from dvt.data.errors import DataError
from dvt.data.packed import PackedImages
from dvt.data.tar_shards import TarImage, scan_file
from dvt.inference.preparation import FORMATS

_BATCH = 64  # images that a process is handed at once
_ORIENTATION = 0x0112  # EXIF's tag
_SIXTEEN_BIT = ("I", "I;16", "I;16B", "I;16L", "F")


@dataclass(frozen=True)
class ImageFacts:
    """What is to be told of an image; without a size if it cannot be read."""

    name: str
    num_bytes: int
    size: tuple[int, int] | None = None  # width, height
    kinds: tuple[str, ...] = ()  # what is unusual about it
    problem: str = ""


@dataclass
class Findings:
    """What was found in one part of a data set."""

    num_images: int
    per_class: tuple[int, ...]
    num_bytes: list[int] = field(default_factory=list)
    widths: list[int] = field(default_factory=list)
    heights: list[int] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    bad: list[tuple[str, str]] = field(default_factory=list)  # name and reason
    bad_shards: list[tuple[str, str]] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Whether nothing is wrong."""
        return not self.bad and not self.bad_shards

    def add(self, facts: ImageFacts) -> None:
        """Count an image."""
        self.num_bytes.append(facts.num_bytes)
        self.kinds.update(facts.kinds)
        if facts.problem:
            self.bad.append((facts.name, facts.problem))
        elif facts.size is not None:
            self.widths.append(facts.size[0])
            self.heights.append(facts.size[1])


def check_part(
    images: EncodedImages,
    config: DataConfig,
    num_processes: int,
    told: Callable[[int], None],
    unread: Collection[str] = (),
) -> Findings:
    """Look at every image of a part of a data set.

    Args:
        images: Of the part.
        config: How large an image may be.
        num_processes: That decode; 0 decodes in this one.
        told: Told how many more images were looked at, or need not be.
        unread: Addresses of shards that are known to be bad; their images are not looked at.
    """
    counts = Counter(images.labels.tolist())
    findings = Findings(len(images), tuple(counts[label] for label in range(len(images.class_names))))
    places = np.arange(len(images))
    if isinstance(images, PackedImages):
        addresses = [f"{images.address}/{shard.name}" for shard in images.index.shards]
        is_read = np.array([address not in unread for address in addresses], dtype=np.bool_)
        places = places[is_read[images.index.shard]]
        told(len(images) - len(places))
        for number in np.flatnonzero(is_read).tolist():
            findings.bad_shards += _shard_faults(images, number, addresses[number])
    requests = [places[first : first + _BATCH].tolist() for first in range(0, len(places), _BATCH)]
    for batch in _looked_at(images, config.max_pixels, requests, num_processes):
        for facts in batch:
            findings.add(facts)
        told(len(batch))
    return findings


def _shard_faults(images: PackedImages, number: int, address: str) -> Iterator[tuple[str, str]]:
    """What is wrong with a shard that was packed here; of a tar its members are held against the index."""
    shard = images.index.shards[number]
    if not shard.sha256:  # it was scanned, and the index was made of what it holds
        return
    content = images.objects.read(address)
    if hashlib.sha256(content).hexdigest() != shard.sha256:
        yield address, "its checksum is another than the index tells"
    if images.index.format != "tar":
        return
    try:
        found = set(scan_file(address, BytesIO(content)))
    except DataError as error:
        yield address, str(error).removeprefix(f"{address} ")
        return
    rows = np.flatnonzero(images.index.shard == number)
    columns = (images.index.keys.take(pa.array(rows)).to_pylist(), images.index.labels[rows].tolist())
    spans = (images.index.offsets[rows].tolist(), images.index.sizes[rows].tolist())
    wanted = set(map(TarImage, *columns, *spans))
    if found != wanted:
        key = min(image.key for image in found ^ wanted)
        yield address, f"it holds {len(found)} images, {len(found - wanted)} of them not as the index tells, as {key}"


def _looked_at(
    images: EncodedImages, max_pixels: int, requests: Sequence[Sequence[int]], num_processes: int
) -> Iterator[list[ImageFacts]]:
    look = _Look(images, max_pixels)
    if num_processes == 0:
        yield from map(look, requests)
        return
    # Not fork: the libraries of buckets have threads, which a forked process lacks.
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(num_processes, context, initializer=_begin, initargs=(look,)) as pool:
            yield from pool.map(_work, requests)
    except BrokenProcessPool as error:
        rule = "a process that decodes images was ended from outside, perhaps for want of memory"
        raise DataError(f"{rule}; check again with fewer --num-workers") from error


@dataclass(frozen=True)
class _Look:
    images: EncodedImages
    max_pixels: int

    def __call__(self, indices: Sequence[int]) -> list[ImageFacts]:
        return [
            ImageFacts(image.name, 0, problem=image.problem)
            if image.problem
            else look_at(image.name, image.content, self.max_pixels)
            for image in self.images.read(indices)
        ]


_look: list[_Look] = []  # of this process, which is one of a pool's


def _begin(look: _Look) -> None:
    _look[:] = [look]


def _work(indices: Sequence[int]) -> list[ImageFacts]:
    return _look[0](indices)


def look_at(name: str, content: bytes, max_pixels: int) -> ImageFacts:
    """What there is to tell of an encoded image."""
    try:
        decode(content, 3, max_pixels)
    except UndecodableError as error:
        return ImageFacts(name, len(content), problem=error.reason.replace("_", " "))
    try:
        with Image.open(BytesIO(content), formats=FORMATS) as image:
            return ImageFacts(name, len(content), image.size, tuple(_kinds(image)))
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f"{name} was decoded, and its header cannot be read; tell of it as a fault here") from error


def _kinds(image: ImageFile.ImageFile) -> Iterator[str]:
    """What is unusual about an image, in a word or two each."""
    if image.mode in ("L", "1", "LA"):
        yield "grey"
    if image.mode in ("P", "PA"):
        yield "palette"
    if image.mode == "CMYK":
        yield "CMYK"
    if image.mode in _SIXTEEN_BIT or any(";16" in str(tile) for tile in image.tile):  # of colour Pillow keeps 8
        yield "16-bit"
    if image.getexif().get(_ORIENTATION, 1) != 1:
        yield "EXIF-rotated"
