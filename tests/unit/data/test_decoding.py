import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from dvt.data.decoding import Room, UndecodableError, decode, decode_as_evaluated
from dvt.inference.preparation import read_image

LIMIT = 2**26
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
COLOUR = Image.fromarray(PIXELS)  # 64 x 48


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def reason(content: bytes, limit: int = LIMIT) -> str:
    """The same of training and of evaluation."""
    reasons = []
    for function in (decode, decode_as_evaluated):
        with pytest.raises(UndecodableError) as raised:
            function(content, 3, limit)
        reasons.append(raised.value.reason)
    assert reasons[0] == reasons[1]
    return reasons[0]


KINDS = {
    "colour JPEG": encoded(COLOUR, "JPEG", quality=90),
    "progressive JPEG": encoded(COLOUR, "JPEG", progressive=True),
    "JPEG of 4:4:4": encoded(COLOUR, "JPEG", subsampling=0),
    "grey JPEG": encoded(COLOUR.convert("L"), "JPEG"),
    "CMYK JPEG": encoded(COLOUR.convert("CMYK"), "JPEG"),
    "PNG": encoded(COLOUR, "PNG"),
    "grey PNG": encoded(COLOUR.convert("L"), "PNG"),
    "palette": encoded(COLOUR.quantize(16), "PNG"),
    "palette with transparency": encoded(COLOUR.quantize(16), "PNG", transparency=bytes(range(16))),
    "alpha": encoded(COLOUR.convert("RGBA"), "PNG"),
    "WebP": encoded(COLOUR, "WEBP", lossless=True),
    "GIF": encoded(COLOUR, "GIF"),
}


@pytest.mark.parametrize("chans", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_training_decodes_to_the_pixels_of_evaluation_and_serving(kind: str, chans: int) -> None:
    pixels = decode(KINDS[kind], chans, LIMIT)
    served = np.asarray(read_image(BytesIO(KINDS[kind]), chans)).reshape(48, 64, chans)
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, served)
    assert np.array_equal(np.asarray(decode_as_evaluated(KINDS[kind], chans, LIMIT)).reshape(48, 64, chans), served)


@pytest.mark.parametrize("kind", ["PNG", "WebP"])
def test_what_is_stored_without_loss_comes_back(kind: str) -> None:
    assert np.array_equal(decode(KINDS[kind], 3, LIMIT), PIXELS)


def test_cmyk_becomes_the_colours_it_was_made_of() -> None:
    difference = decode(KINDS["CMYK JPEG"], 3, LIMIT).astype(int) - PIXELS
    assert np.abs(difference).mean() < 12  # blocks of one colour, which JPEG and the four inks change a little


def test_grey_of_16_bits_keeps_its_high_bytes() -> None:
    grey = Image.fromarray(np.array([[0, 255, 256, 0x7FFF], [0x8000, 0xFF00, 0xFFFF, 0x1234]], dtype=np.uint16))
    content = encoded(grey, "PNG")
    expected = [[0, 0, 1, 0x7F], [0x80, 0xFF, 0xFF, 0x12]]
    assert decode(content, 1, LIMIT)[..., 0].tolist() == expected
    assert decode(content, 3, LIMIT)[..., 2].tolist() == expected


def test_pixels_stay_as_they_are_stored_whatever_exif_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    turned = encoded(COLOUR, "JPEG", quality=90, exif=exif)
    assert np.array_equal(decode(turned, 3, LIMIT), decode(KINDS["colour JPEG"], 3, LIMIT))


def test_nothing_at_all() -> None:
    assert reason(b"") == "empty"


@pytest.mark.parametrize("content", [b"<html>404 Not Found</html>", b"\xff\xd8\xff", b"\x89PNG"])
def test_what_is_no_image(content: bytes) -> None:
    assert reason(content) == "not_an_image"


@pytest.mark.parametrize("kind", ["colour JPEG", "progressive JPEG", "CMYK JPEG", "PNG"])
@pytest.mark.parametrize("left", [0.5, 0.8])
def test_a_truncated_image(kind: str, left: float) -> None:
    content = KINDS[kind]
    assert reason(content[: int(left * len(content))]) == "truncated"


def test_a_corrupt_image() -> None:
    content = bytearray(KINDS["PNG"])
    content[60:80] = bytes(20)  # within the compressed pixels, which have a checksum
    assert reason(bytes(content)) == "corrupt"


def test_a_stray_byte_in_a_jpeg_is_left_to_pillow_as_at_evaluation() -> None:
    content = KINDS["colour JPEG"]
    stray = content[:-2] + b"\x00\x01" + content[-2:]  # before the last marker; all pixels are there
    assert np.array_equal(decode(stray, 3, LIMIT), decode(content, 3, LIMIT))


@pytest.mark.parametrize("kind", ["colour JPEG", "PNG", "GIF"])
def test_a_limit_of_pixels_is_inclusive(kind: str) -> None:
    assert decode(KINDS[kind], 3, 64 * 48).shape == (48, 64, 3)
    assert reason(KINDS[kind], 64 * 48 - 1) == "too_many_pixels"


def test_a_bomb_is_refused_by_its_header_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    jpeg = bytearray(KINDS["colour JPEG"])
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = (20_000).to_bytes(2, "big") * 2  # its height and width
    png = bytearray(KINDS["PNG"])
    png[16:24] = (20_000).to_bytes(4, "big") * 2
    png[29:33] = zlib.crc32(png[12:29]).to_bytes(4, "big")
    monkeypatch.setattr("simplejpeg.decode_jpeg", lambda *_: pytest.fail("it was decoded"))
    monkeypatch.setattr("dvt.data.decoding.read_image", lambda *_: pytest.fail("it was decoded"))
    assert reason(bytes(jpeg)) == "too_many_pixels"
    assert reason(bytes(png)) == "too_many_pixels"


@pytest.mark.parametrize("chans", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_room_that_is_given_does_not_change_pixels(kind: str, chans: int) -> None:
    expected = decode(KINDS[kind], chans, LIMIT)
    room = Room(2 * expected.size + 100)
    for _ in range(2):  # two fit, the third does not
        first, second, third = (decode(KINDS[kind], chans, LIMIT, room) for _ in range(3))
        assert not np.shares_memory(first, second)
        assert all(np.array_equal(each, expected) for each in (first, second, third))
        room.clear()


def test_jpegs_go_into_the_room_one_after_the_other() -> None:
    room = Room(2 * PIXELS.size)
    first, second, third = (decode(KINDS["colour JPEG"], 3, LIMIT, room) for _ in range(3))
    assert second.ctypes.data - first.ctypes.data == PIXELS.size
    assert not np.shares_memory(first, third)
    first[:] = 9
    room.clear()
    assert np.shares_memory(decode(KINDS["JPEG of 4:4:4"], 3, LIMIT, room), first)
