"""From encoded bytes to pixels: JPEG by libjpeg-turbo through simplejpeg, everything else by Pillow.

What simplejpeg refuses, as CMYK or a stray byte between two markers, Pillow decides on, as it does at evaluation. Where
both decode a colour JPEG they give the same pixels. Pixels stay as they are stored, whatever EXIF says of turning them:
so do timm and torchvision, with which the published numbers were measured.

Shapes: `H` height and `W` width of the image as stored, `c` channels, 1 is grey and 3 is colour.
"""

import warnings
from io import BytesIO

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from dvt.inference.preparation import FORMATS, UNREADABLE, read_image

Pixels = NDArray[np.uint8]

# Why an image cannot be used; what they are counted by.
EMPTY = "empty"
NOT_AN_IMAGE = "not_an_image"
TRUNCATED = "truncated"
CORRUPT = "corrupt"
TOO_MANY_PIXELS = "too_many_pixels"
NOT_READ = "not_read"  # its bytes could not be had, as of a file that is gone

_JPEG = b"\xff\xd8\xff"


class UndecodableError(Exception):
    """An image that cannot be used, for one of the reasons above."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Room:
    """Memory that JPEGs are decoded into one after the other; what does not fit gets memory of its own."""

    def __init__(self, num_bytes: int) -> None:
        self._memory: NDArray[np.uint8] = np.empty(num_bytes, dtype=np.uint8)
        self._used = 0

    def take(self, num_bytes: int) -> NDArray[np.uint8] | None:
        """The next bytes, if so many are left."""
        end = self._used + num_bytes
        if end > len(self._memory):
            return None
        piece, self._used = self._memory[self._used : end], end
        return piece

    def clear(self) -> None:
        """Begin anew; what was decoded is used no more."""
        self._used = 0


def decode(content: bytes, in_chans: int, max_pixels: int, room: Room | None = None) -> Pixels:
    """Decode for training.

    Args:
        content: An encoded image.
        in_chans: Channels of the model: 1 is grey, 3 is colour.
        max_pixels: Refuse larger images by their header, before room for them is made.
        room: Where the pixels go if they fit; None makes new memory.

    Returns:
        (H, W, c)

    Raises:
        UndecodableError: If it cannot be decoded, or is too large.
    """
    if content.startswith(_JPEG):
        pixels = _decode_jpeg(content, in_chans, max_pixels, room)
        if pixels is not None:
            return pixels
    pixels = np.array(decode_as_evaluated(content, in_chans, max_pixels))  # a copy: torch wants to be able to write
    return pixels[..., None] if in_chans == 1 else pixels


def is_image(content: bytes) -> bool:
    """Whether a file begins as images do; it may be damaged further on."""
    try:
        Image.open(BytesIO(content), formats=FORMATS).close()
    except UNREADABLE as error:
        return not isinstance(error, UnidentifiedImageError)
    return True


def decode_as_evaluated(content: bytes, in_chans: int, max_pixels: int) -> Image.Image:
    """Decode as `dvt.inference.preparation` does, for evaluation; see `decode`."""
    if not content:
        raise UndecodableError(EMPTY)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(BytesIO(content), formats=FORMATS) as file:  # reads the header alone
                _check_size(file.height, file.width, max_pixels)
        return read_image(BytesIO(content), in_chans)
    except (Image.DecompressionBombWarning, *UNREADABLE) as error:
        raise UndecodableError(_reason_of(error)) from error


def _decode_jpeg(content: bytes, in_chans: int, max_pixels: int, room: Room | None) -> Pixels | None:
    """The pixels of a JPEG, or None where Pillow is to decide."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        _check_size(height, width, max_pixels)
        if colours not in ("Gray", "YCbCr", "RGB"):
            return None
        wanted = "GRAY" if in_chans == 1 and colours == "Gray" else "RGB"
        piece = None if room is None else room.take(height * width * (1 if wanted == "GRAY" else 3))
        pixels: Pixels = simplejpeg.decode_jpeg(content, wanted, buffer=piece)  # strict: a truncated file is an error
    except ValueError:
        return None
    if in_chans == 1 and wanted == "RGB":
        return np.array(Image.fromarray(pixels).convert("L"))[..., None]  # rounds as at evaluation
    return pixels


def _check_size(height: int, width: int, max_pixels: int) -> None:
    if height * width > max_pixels:
        raise UndecodableError(TOO_MANY_PIXELS)


def _reason_of(error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombWarning | Image.DecompressionBombError):
        return TOO_MANY_PIXELS
    if isinstance(error, UnidentifiedImageError):
        return NOT_AN_IMAGE
    return TRUNCATED if "truncated" in str(error).lower() else CORRUPT  # Pillow 12 tells them apart by words alone
