"""Packing an image folder into shards: bytes untouched, whole or not there, taken up again where it was.

A shard is put in place whole, and then a record of what it holds beside it, in `.packing/`. Who packs again goes on
behind the last record. When all shards are there, the records are joined to the index and taken away. Beside the
records stands what the images' sizes and dates were, so that nobody goes on with images that have changed meanwhile.
"""

import errno
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dvt.data.decoding import is_image
from dvt.data.errors import DataError
from dvt.data.folder import FolderFiles
from dvt.data.index import INDEX, Shard, ShardIndex, read_index
from dvt.data.objects import Objects, is_remote
from dvt.data.parquet_files import offsets_in, shard_of
from dvt.data.randomness import PURPOSE_PACK, random_order
from dvt.data.s3_client import open_filesystem
from dvt.data.tar_shards import TarWriter

Rows = NDArray[np.int64]

RECORDS = ".packing"
ASKED = "asked.json"  # how a folder is packed; without an index beside it, packing has not come to the end
_SOURCE = "source.txt"  # in RECORDS: a digest of the images' sizes and dates
_READ_AT_ONCE = 64  # files


@dataclass(frozen=True, kw_only=True)
class Packing:
    """How images are packed."""

    format: str  # tar or parquet
    class_names: tuple[str, ...]  # of the images
    shard_bytes: int  # of encoded images, after which a shard is closed
    seed: int  # of the order in which images are packed, which mixes classes


def pack_part(
    images: FolderFiles, folder: str, packing: Packing, objects: Objects, told: Callable[[int], None]
) -> ShardIndex:
    """Pack one part of a data set, or what is left of it.

    Args:
        images: Of the part.
        folder: Where to, a path or an `s3://` address; empty, or begun by the same packing.
        packing: How.
        objects: Reads what is there.
        told: Told how many more images lie in whole shards.

    Raises:
        DataError: If an image cannot be read, names clash, something else lies in the folder, images have changed since
            it was begun, or the disk is full.
    """
    _begin(images, folder, packing, objects)
    if _exists(f"{folder}/{INDEX}"):
        index = read_index(f"{folder}/{INDEX}", objects.read)
        _remove(f"{folder}/{RECORDS}")  # who wrote the index may have been killed before
        told(len(index))
        return index
    _see_unchanged(images, folder, objects)
    keys, order = _keys(images), random_order(len(images), PURPOSE_PACK, packing.seed)
    done = _done(folder, objects)
    told(sum(map(len, done)))
    for chosen, contents in _shards(images, order[sum(map(len, done)) :], packing.shard_bytes):
        name = f"shard-{len(done):05d}.{packing.format}"
        shard, piece = _made(name, [keys[place] for place in chosen], contents, images.labels[chosen], packing)
        _put(f"{folder}/{name}", shard)
        _put(_record(folder, len(done)), piece.to_bytes())
        done.append(piece)
        told(len(piece))
    index = _joined(done, packing)
    _put(f"{folder}/{INDEX}", index.to_bytes())
    _remove(f"{folder}/{RECORDS}")
    return index


def _begin(images: FolderFiles, folder: str, packing: Packing, objects: Objects) -> None:
    """Note what is packed here, or see that it is the same."""
    asked = json.dumps({**vars(packing), "images": images.fingerprint()}, indent=1).encode()
    address = f"{folder}/{ASKED}"
    if _exists(address):
        if objects.read(address) != asked:
            raise DataError(f"{folder} holds other images, or the same packed otherwise; choose another folder")
        return
    if _has_files(folder):
        raise DataError(f"{folder} must be empty or begun by the same command, got other files; choose another folder")
    _put(address, asked)


def _see_unchanged(images: FolderFiles, folder: str, objects: Objects) -> None:
    """Note the images' sizes and dates, or see that they are those that were noted."""
    address, digest = f"{folder}/{RECORDS}/{_SOURCE}", _source_digest(images)
    if not _exists(address) and not _exists(_record(folder, 0)):
        _put(address, digest)
    elif not _exists(address) or objects.read(address) != digest:
        rule = "was begun with images that have changed since, in size or date"
        raise DataError(f"{folder} {rule}; remove it and pack again, or choose another folder")


def _source_digest(images: FolderFiles) -> bytes:
    """What tells these files from other ones of the same names; of a bucket from one listing."""
    first = str(images.files[0])
    listed = images.objects.list(first.rsplit("/", 2)[0]) if is_remote(first) else []
    stored = {each.address: each for each in listed}
    digest = hashlib.sha256()
    for file in images.files:
        found = stored.get(file) or images.objects.size_and_version(file)
        digest.update(f"{'/'.join(Path(file).parts[-2:])}\t{found.size}\t{found.version}\n".encode())
    return digest.hexdigest().encode()


def _done(folder: str, objects: Objects) -> list[ShardIndex]:
    """The shards that are whole; the last are read again, as a disk may have lost what it had not written yet."""
    found: list[ShardIndex] = []
    while _exists(_record(folder, len(found))):
        found.append(read_index(_record(folder, len(found)), objects.read))
    while found and not _is_whole(f"{folder}/{found[-1].shards[0].name}", found[-1].shards[0], objects):
        found.pop()
    return found


def _is_whole(address: str, shard: Shard, objects: Objects) -> bool:
    return _exists(address) and hashlib.sha256(objects.read(address)).hexdigest() == shard.sha256


def _shards(images: FolderFiles, order: Rows, shard_bytes: int) -> Iterator[tuple[Rows, list[bytes]]]:
    """Which images a shard holds, and their files."""
    first, contents, size = 0, list[bytes](), 0
    for start in range(0, len(order), _READ_AT_ONCE):
        for image in images.read(order[start : start + _READ_AT_ONCE].tolist()):
            if image.problem:
                raise DataError(f"{image.name} cannot be read ({image.problem}); put it right and pack again")
            if Path(image.name).is_symlink() and not is_image(image.content):  # shards may be published
                raise DataError(f"{image.name} must lead to an image, got another file; take it out and pack again")
            contents.append(image.content)
            size += len(image.content)
            if size >= shard_bytes:
                yield order[first : first + len(contents)], contents
                first, contents, size = first + len(contents), [], 0
    if contents:
        yield order[first:], contents


def _made(
    name: str, keys: list[str], contents: list[bytes], labels: Rows, packing: Packing
) -> tuple[bytes, ShardIndex]:
    """A shard, and what it holds."""
    stems = [key.rpartition(".")[0] for key in keys]
    if packing.format == "parquet":
        content = shard_of(keys, contents, labels.tolist(), packing.class_names)
        offsets = offsets_in(content, contents)
    else:
        writer = TarWriter()
        for key, stem, image, label in zip(keys, stems, contents, labels.tolist(), strict=True):
            writer.add(stem, key[len(stem) :], image, label)
        content = writer.finish()
        offsets = [image.offset for image in writer.images]
    return content, ShardIndex(
        format=packing.format,
        class_names=packing.class_names,
        shards=(Shard(name, len(keys), len(content), hashlib.sha256(content).hexdigest()),),
        shard=np.zeros(len(keys), dtype=np.int32),
        labels=labels,
        offsets=np.array(offsets, dtype=np.int64),
        sizes=np.array([len(image) for image in contents], dtype=np.int64),
        keys=pa.array(stems, pa.string()),
    )


def _joined(pieces: list[ShardIndex], packing: Packing) -> ShardIndex:
    return ShardIndex(
        format=packing.format,
        class_names=packing.class_names,
        shards=tuple(piece.shards[0] for piece in pieces),
        shard=np.repeat(np.arange(len(pieces), dtype=np.int32), [len(piece) for piece in pieces]),
        labels=np.concatenate([piece.labels for piece in pieces]),
        offsets=np.concatenate([piece.offsets for piece in pieces]),
        sizes=np.concatenate([piece.sizes for piece in pieces]),
        keys=pa.concat_arrays([piece.keys for piece in pieces]),
    )


def _keys(images: FolderFiles) -> list[str]:
    """CLASS/FILE of each image; dots inside names become underscores, as keys of WebDataset end at the first dot."""
    keys = []
    for file in images.files:
        path = PurePosixPath(file)
        keys.append(f"{path.parent.name}/{path.stem}".replace(".", "_") + path.suffix.lower())
    stems = [key.rpartition(".")[0] for key in keys]
    twice = next((stem for stem, count in Counter(stems).items() if count > 1), None)
    if twice is not None:
        raise DataError(f"two files are called {twice} but for their endings or dots; rename one and pack again")
    return keys


def _record(folder: str, number: int) -> str:
    return f"{folder}/{RECORDS}/{number:05d}.parquet"


def _exists(address: str) -> bool:
    if not is_remote(address):
        return Path(address).exists()
    filesystem, path = open_filesystem(address)
    filesystem.invalidate_cache()
    return bool(filesystem.exists(path))


def _has_files(folder: str) -> bool:
    if not is_remote(folder):
        return Path(folder).is_dir() and any(Path(folder).iterdir())
    filesystem, path = open_filesystem(folder)
    return bool(filesystem.exists(path) and filesystem.find(path))


def _put(address: str, content: bytes) -> None:
    """Write a file; it is there whole or not at all."""
    try:
        if is_remote(address):
            filesystem, path = open_filesystem(address)
            filesystem.pipe_file(path, content)
            return
        place = Path(address)
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = place.with_name(f".{place.name}.partial")
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(place)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        told = "the disk is full" if full else error.strerror or type(error).__name__
        raise DataError(f"{address} cannot be written: {told}; make room and pack again to go on") from error


def _remove(folder: str) -> None:
    filesystem, path = open_filesystem(folder)
    if filesystem.exists(path):
        filesystem.rm(path, recursive=True)
