"""`dvt data`: what a person sees of packing and checking."""

import io
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from dvt.cli.main import main
from dvt.config import DataConfig
from dvt.data.folder import open_class_folders
from dvt.data.index import INDEX, read_index
from dvt.data.objects import Objects
from dvt.data.packing import Packing, pack_part
from tests.unit.data.images import write_folder, write_image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "images", {"ant": 3, "bee": 2}, {"ant": 1, "bee": 1})


def run(*words: str) -> int:
    return main(["data", *words])


def check(root: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    capsys.readouterr()
    return run("check", str(root), "--num-workers", "0"), capsys.readouterr().out


def test_a_folder_is_packed_and_packed_again_in_no_time(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert run("pack", str(folder), str(tmp_path / "packed"), "--format", "parquet") == 0
        told = capsys.readouterr().out
        assert "train: 5 images, 1 shard, " in told
        assert f"dvt train ... --data.source parquet --data.root {tmp_path / 'packed'}" in told.replace("\n", "")
    assert (tmp_path / "packed/train" / INDEX).is_file()
    code, told = check(tmp_path / "packed", capsys)
    assert (code, told.count("all can be read")) == (0, 2)


def bomb() -> bytes:
    """A PNG that says it is 20,000 pixels wide and high."""
    file = io.BytesIO()
    Image.new("L", (1, 1)).save(file, "PNG")
    image = file.getvalue()
    header = b"IHDR" + struct.pack(">II", 20_000, 20_000) + image[24:29]
    return image[:12] + header + struct.pack(">I", zlib.crc32(header)) + image[33:]


def deep_colour() -> bytes:
    """A PNG of 40 x 30 black pixels, 16 bits a colour, which Pillow does not write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 40, 30, 16, 2, 0, 0, 0)
    lines = zlib.compress(bytes(30 * (1 + 40 * 6)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", lines) + chunk(b"IEND", b"")


def test_what_is_bad_or_unusual_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = folder / "train/ant"
    (train / "empty.jpg").write_bytes(b"")
    (train / "page.jpg").write_text("<html>")
    (train / "bomb.png").write_bytes(bomb())
    content = (train / "000.jpg").read_bytes()
    (train / "cut.jpg").write_bytes(content[: len(content) // 2])
    write_image(train / "grey.png", mode="L")
    write_image(train / "palette.png", mode="P")
    Image.new("CMYK", (40, 30)).save(train / "cmyk.jpg")
    Image.new("I;16", (40, 30)).save(train / "deep.png")
    (train / "deep_colour.png").write_bytes(deep_colour())
    turned = Image.new("RGB", (40, 30))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(train / "turned.jpg", exif=exif)
    code, told = check(folder, capsys)
    assert code == 1
    assert "train: 15 images of 2 classes, 2 to 13 a class" in told
    for kind, count in (("CMYK", 1), ("EXIF-rotated", 1), ("16-bit", 2), ("palette", 1), ("grey", 1)):
        assert f"  {kind}: {count}\n" in told, kind
    for name, reason in (
        ("bomb.png", "too many pixels"),
        ("cut.jpg", "truncated"),
        ("empty.jpg", "empty"),
        ("page.jpg", "not an image"),
    ):
        assert f"    {train / name}: {reason}" in told, name
        assert f"  1 bad: {reason}\n" in told
    assert "  width   40 in the median, 90 % from 40 to 40, all from 40 to 40" in told


def test_a_shard_of_another_checksum_is_told(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("pack", str(folder), str(tmp_path / "packed"))
    shard = tmp_path / "packed/train/shard-00000.tar"
    content = bytearray(shard.read_bytes())
    content[-600] ^= 1
    shard.write_bytes(content)
    code, told = check(tmp_path / "packed", capsys)
    assert code == 1
    assert "shard-00000.tar: its checksum is another than the index tells" in told.replace("\n", " ")


def packed(folder: Path, target: Path) -> list[Path]:
    """Pack in shards of some images each; the shards of train."""
    for part, images in zip(
        ("train", "val"), open_class_folders(str(folder), DataConfig(root=str(folder))), strict=True
    ):
        asked = Packing(format="tar", class_names=images.class_names, shard_bytes=1500, seed=0)
        pack_part(images, str(target / part), asked, Objects(), lambda _: None)
    return sorted((target / "train").glob("*.tar"))


def cut(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes()[:700])


@pytest.mark.parametrize("has_index", [True, False])
def test_every_bad_shard_is_told_and_the_others_are_read(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], has_index: bool
) -> None:
    shards = packed(folder, tmp_path / "packed")
    whole = f"it must hold {shards[2].stat().st_size} bytes by its index, got 700"
    assert len(shards) >= 3
    cut(shards[2])
    reasons = {shards[2]: whole}
    if has_index:
        shards[0].unlink()
        reasons[shards[0]] = "it is not there, though the index tells of it"
    else:
        for file in (tmp_path / "packed").glob("*/*.*"):
            if file.suffix != ".tar":
                file.unlink()
        cut(shards[0])
        reasons = dict.fromkeys((shards[0], shards[2]), "is cut off; put the right one there")
    code, told = check(tmp_path / "packed", capsys)
    assert code == 1
    assert "2 shards cannot be read, nor their images\n" in told
    for shard, reason in reasons.items():
        assert f"  {shard}: {reason}\n" in told
    assert " bad: " not in told
    assert told.count("all can be read") == (
        1 if has_index else 2
    )  # of what a shard without an index held nobody knows
    assert told.count("the others can be read") == (1 if has_index else 0)


def test_members_are_held_against_the_index(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards = packed(folder, tmp_path / "packed")
    place = tmp_path / "packed/train" / INDEX
    index = read_index(str(place), Objects().read)
    labels = index.labels.copy()
    labels[0] = 1 - labels[0]
    place.write_bytes(replace(index, labels=labels).to_bytes())
    code, told = check(tmp_path / "packed", capsys)
    assert code == 1
    held = index.shards[0].num_images
    rule = f"it holds {held} images, 1 of them not as the index tells, as {index.keys[0].as_py()}"
    assert f"    {shards[0]}: {rule}\n" in told
    assert told.count("not as the index tells, as") == 2  # the shard, and the count of its kind


@pytest.mark.parametrize(
    ("flag", "message"),
    [("--shard-mib", "--shard-mib must be at least 1, got 0"), ("--seed", "--seed must be at least 0, got -1")],
)
def test_numbers_that_make_no_sense(
    folder: Path, tmp_path: Path, flag: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("pack", str(folder), str(tmp_path / "x"), flag, message.rpartition(" ")[2]) == 2
    assert message in capsys.readouterr().err


def test_a_source_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", str(tmp_path / "nowhere")) != 0
    assert f"{tmp_path / 'nowhere'} cannot be read: there is no such file" in capsys.readouterr().err
