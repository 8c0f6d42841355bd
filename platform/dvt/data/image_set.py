"""`FileImages`: a set of images on encoded ones, wherever these lie; decoded, and varied for training.

Shapes: `N` images of the set, `B` batch, `C` channels, `S` image side in pixels.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import DecompressionBombError

from dvt.config import CascadeConfig, DataConfig
from dvt.data.augmenting import Augmenter
from dvt.data.batch_memory import empty_batch
from dvt.data.decoding import NOT_READ, TOO_MANY_PIXELS, Pixels, Room, UndecodableError, decode, decode_as_evaluated
from dvt.data.encoded import EncodedImage, EncodedImages
from dvt.data.errors import DataError
from dvt.data.randomness import PURPOSE_AUGMENT, generator_of, global_randomness_restored
from dvt.data.sets import Batch, Skipped
from dvt.data.transforms import Transform, eval_transform

# Most that is held decoded at a time: enough for 16 images of ImageNet's usual size, and one of any size.
DECODED_IMAGES, DECODED_BYTES = 16, 16 * 2**20
MAX_UNREADABLE_RUN = 100  # images in a row; past that the source is broken, and going on would read all of it


@dataclass(frozen=True, eq=False)
class FileImages:
    """Some of the encoded images, an `ImageSet`.

    Training images are varied and come as bytes, to be normalised on the training device; one that cannot be read is
    replaced by the next that can. Others are prepared as `dvt.inference.preparation` does, normalised.
    """

    images: EncodedImages
    indices: NDArray[np.int64] = field(repr=False)  # (N,) which of them
    config: DataConfig
    cascade: CascadeConfig
    is_training: bool = field(kw_only=True)
    transform: Transform | None = field(default=None, kw_only=True)  # in place of the configuration's, for evaluation

    def __post_init__(self) -> None:
        if self.is_training:
            _ = self._augmenter  # complains of a policy that is none

    def __len__(self) -> int:
        """Number of images."""
        return len(self.indices)

    def empty(self, count: int) -> torch.Tensor | None:
        """See `FillsMemory`; None for evaluation."""
        return empty_batch(count, self.cascade.in_chans, self.cascade.image_size) if self.is_training else None

    def read(self, indices: Sequence[int], *, epoch: int = 0, seed: int = 0, out: torch.Tensor | None = None) -> Batch:
        """The images at `indices`; see `ImageSet` and `FillsMemory`."""
        wanted = self.indices[np.asarray(indices, dtype=np.int64)]
        encoded = self.images.read(wanted.tolist())
        if not self.is_training:
            prepared = torch.stack([self._evaluate(image) for image in encoded])
            return Batch(prepared, torch.from_numpy(self.images.labels[wanted]))
        pixels = empty_batch(len(encoded), self.cascade.in_chans, self.cascade.image_size) if out is None else out
        each, found, skipped = iter(pixels), [], list[Skipped]()
        fence = global_randomness_restored() if self._augmenter.draws_globally else nullcontext()
        with fence:
            for group in self._decoded(indices, encoded, skipped):
                for index, place, decoded in group:
                    self._augmenter.into(next(each), decoded, generator_of(PURPOSE_AUGMENT, seed, epoch, index))
                    found.append(place)
        return Batch(pixels, torch.from_numpy(self.images.labels[self.indices[found]]), tuple(skipped))

    def fingerprint(self) -> str:
        """See `ImageSet`; that of the encoded images, and which of them."""
        digest = hashlib.sha256(self.images.fingerprint().encode())
        digest.update(self.indices.astype("<i8").tobytes())
        return digest.hexdigest()

    @cached_property
    def _augmenter(self) -> Augmenter:
        return Augmenter(self.config, self.cascade)

    @cached_property
    def _transform(self) -> Transform:
        return self.transform or eval_transform(self.config, self.cascade)

    def _evaluate(self, image: EncodedImage) -> torch.Tensor:
        """(C, S, S), normalised."""
        try:
            if image.problem:
                raise UndecodableError(NOT_READ)
            return self._transform(decode_as_evaluated(image.content, self.cascade.in_chans, self.config.max_pixels))
        except (UndecodableError, DecompressionBombError) as error:
            reason = error.reason if isinstance(error, UndecodableError) else TOO_MANY_PIXELS
            why = image.problem or reason.replace("_", " ")
            raise DataError(f"{image.name} cannot be read as an image ({why}); replace or remove it") from error

    def _decoded(
        self, indices: Sequence[int], encoded: Sequence[EncodedImage], skipped: list[Skipped]
    ) -> Iterator[list[tuple[int, int, Pixels]]]:
        """Groups of: index, index of the image in its place, its pixels. A group's pixels are good until the next.

        Decoding drives all else out of the processor's caches, so what follows is done to some images at a time.
        """
        room, group, held = Room(DECODED_BYTES), list[tuple[int, int, Pixels]](), 0
        for index, image in zip(indices, encoded, strict=True):
            pixels, place, failed = self._decode_or_replace(image, index, room)
            skipped += failed
            group.append((index, place, pixels))
            held += pixels.nbytes
            if len(group) == DECODED_IMAGES or held >= DECODED_BYTES:
                yield group
                room.clear()
                group, held = [], 0
        yield group

    def _decode_or_replace(self, image: EncodedImage, index: int, room: Room) -> tuple[Pixels, int, list[Skipped]]:
        """The pixels of the image at `index`, or of the next one that reads; its index; what did not read."""
        failed: list[Skipped] = []
        for place in range(index, index + min(len(self), MAX_UNREADABLE_RUN)):
            found = place % len(self)
            if place > index:
                (image,) = self.images.read([int(self.indices[found])])
            try:
                if image.problem:
                    raise UndecodableError(NOT_READ)
                return decode(image.content, self.cascade.in_chans, self.config.max_pixels, room), found, failed
            except UndecodableError as error:
                failed.append(Skipped(image.name, error.reason))
        raise DataError(
            f"{failed[0].name} and the training images after it, {len(failed)} in all, cannot be read as images; "
            "replace or remove them"
        )
