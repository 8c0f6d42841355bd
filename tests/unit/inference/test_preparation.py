"""Images as they are sent, prepared for a model; the served model's tests hold the messages."""

import base64
import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from dvt.config import ConfigError
from dvt.inference.preparation import Preparation, inference_transform, read_image

COLOUR = Preparation(
    in_chans=3, image_size=2, mean=(0.5, 0.25, 0.0), std=(0.5, 0.5, 0.25), crop_pct=1.0, interpolation="bilinear"
)


def file_of(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def test_a_file_of_the_models_size_by_hand() -> None:
    pixels = np.zeros((2, 2, 3), np.uint8)
    pixels[0, 1] = (255, 51, 0)
    (image,) = COLOUR([file_of(pixels)])
    assert image[:, 0, 0].tolist() == pytest.approx([-1.0, -0.5, 0.0])
    assert image[:, 0, 1].tolist() == pytest.approx([1.0, (0.2 - 0.25) / 0.5, 0.0])


def test_grey_files_become_colour_and_colour_grey() -> None:
    grey = file_of(np.full((2, 2), 255, np.uint8))
    assert COLOUR([grey])[0, :, 0, 0].tolist() == pytest.approx([1.0, 1.5, 4.0])
    one = Preparation(in_chans=1, image_size=2, mean=(0.0,), std=(1.0,), crop_pct=1.0, interpolation="bilinear")
    red = np.zeros((2, 2, 3), np.uint8)
    red[..., 0] = 255
    assert one([file_of(red)])[0, 0, 0, 0].item() == pytest.approx(76 / 255)  # the luma of red, 0.299


def test_an_array_of_the_models_size_is_normalised_alone() -> None:
    array = np.zeros((3, 2, 2), np.float64)
    array[:, 1, 1] = 1
    (image,) = COLOUR([array])
    assert image.dtype == torch.float32
    assert image[:, 0, 0].tolist() == [-1.0, -0.5, 0.0]
    assert image[:, 1, 1].tolist() == [1.0, 1.5, 4.0]


def test_an_array_of_another_size_is_resized_and_cropped() -> None:
    wide = np.zeros((3, 4, 8), np.float32)  # becomes 2x4, of which the two columns in the middle stay
    wide[:, :, :2] = wide[:, :, 6:] = 1
    (image,) = COLOUR([wide])
    assert image.shape == (3, 2, 2)
    assert image[2].max() < 4 * 0.5  # the bright edges are gone but for what the filter reaches


def test_kinds_may_be_mixed_and_keep_their_order() -> None:
    files = [file_of(np.full((3, 3, 3), value, np.uint8)) for value in (0, 100, 200)]
    images = COLOUR([files[0], base64.b64encode(files[1]).decode(), bytearray(files[2])])
    transform = inference_transform(2, 1.0, "bilinear", COLOUR.mean, COLOUR.std)
    for image, file in zip(images, files, strict=True):
        assert torch.equal(image, transform(read_image(BytesIO(file), 3)))


def test_rows_are_counted_from_the_requests_first() -> None:
    with pytest.raises(ConfigError, match=r"^images\[129\] must be an image file"):
        COLOUR([np.zeros((3, 2, 2)), b""], first=128)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bomb(side: int) -> bytes:
    """A PNG of a few bytes whose header asks for the room of side x side pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [8_193, 12_000, 20_000])  # just above 2**26 pixels; Pillow warns; Pillow refuses
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # as outside of tests
def test_an_image_bomb_is_refused_by_its_header(side: int) -> None:
    sent = bomb(side)
    with pytest.raises(ConfigError) as caught:
        COLOUR([sent])
    assert str(caught.value) == (
        f"images[0] must be an image file such as PNG or JPEG, got {len(sent)} bytes that cannot be read "
        "(it has too many pixels); send another or leave it out"
    )
    with pytest.raises(Image.DecompressionBombError):
        read_image(BytesIO(sent), 3, max_pixels=2**26)


def test_formats_that_run_programs_are_no_images() -> None:
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 2 2\n%%EndComments\n(%pipe%touch made) (w) file\n%%EOF\n"
    Image.open(BytesIO(eps))  # Pillow would take it, and hand it to Ghostscript
    with pytest.raises(ConfigError, match=r"bytes that cannot be read \(it is not an image\)"):
        COLOUR([eps])
