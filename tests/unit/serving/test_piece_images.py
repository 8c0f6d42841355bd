"""The images of a piece: members of a shard and rows of a Parquet file, with what is wrong in its place."""

import io
import tarfile
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from dvt.data.image_files import FoundFile
from dvt.serving import piece_images
from dvt.serving.batch_work import Piece, Work, list_work
from dvt.serving.piece_images import PieceImages

NO_COLUMNS = pa.schema([])
SHARD = Work("tar", (), NO_COLUMNS)


def shard_of(path: Path, *members: tuple[str, bytes | None]) -> Path:
    """A tar file with these members; a folder where there is no content."""
    with tarfile.open(path, "w") as shard:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size, member.type = (0, tarfile.DIRTYPE) if content is None else (len(content), tarfile.REGTYPE)
            shard.addfile(member, io.BytesIO(content or b""))
    return path


def images_of(path: Path) -> list[tuple[str, bytes | None, str]]:
    """Name below the shard, content and problem."""
    found = list(PieceImages(Piece(0, (str(path),)), SHARD, "image"))
    return [(file.address.removeprefix(f"{path}"), file.content, file.problem) for file in found]


def test_files_of_a_folder_are_handed_on() -> None:
    images = PieceImages(Piece(0, ("a.png", "s3://b/c.png")), Work("folder", (), NO_COLUMNS), "image")
    assert list(images) == [FoundFile("a.png"), FoundFile("s3://b/c.png")]
    assert images.kept.num_columns == 0


def test_members_of_a_shard(tmp_path: Path) -> None:
    path = shard_of(
        tmp_path / "0.tar",
        ("folder.png", None), ("./a.jpg", b"A"), ("a.cls", b"3"), ("deep/b.input.PNG", b"B"), ("._a.jpg", b"-"),
        (".hidden/c.png", b"-"), ("a.jpg", b"again"),
    )  # fmt: skip
    assert images_of(path) == [("/a.jpg", b"A", ""), ("/deep/b.input.PNG", b"B", ""), ("/a.jpg", b"again", "")]


def test_names_that_lead_out_and_what_is_no_file_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(piece_images, "MAX_ENCODED_BYTES", 4)
    path = shard_of(
        tmp_path / "0.tar", ("/etc/a.png", b"A"), ("../b.png", b"B"), ("c/../../d.png", b"D"), ("e.png", b"12345")
    )
    kinds = {
        "f.png": tarfile.SYMTYPE, "g.png": tarfile.LNKTYPE, "h.png": tarfile.CHRTYPE, "i.png": tarfile.BLKTYPE,
        "j.png": tarfile.FIFOTYPE,
    }  # fmt: skip
    with tarfile.open(path, "a") as shard:
        for name, kind in kinds.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            shard.addfile(member)
        sparse = tarfile.TarInfo("k.png")  # 512 bytes here, and a gigabyte as it is read
        sparse.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": f"{2**30}"}
        sparse.size = 512
        shard.addfile(sparse, BytesIO(b"1\n0\n1\n".ljust(512, b"\0")))
    out = "its name leads out of the shard"
    no_file = "it is not a whole file but a link, a device or one with holes"
    assert images_of(path) == [
        ("//etc/a.png", None, out),
        ("/../b.png", None, out),
        ("/c/../../d.png", None, out),
        ("/e.png", None, "it must be at most 4 bytes, got 5"),
        *((f"/{name}", None, no_file) for name in [*kinds, "k.png"]),
    ]


def test_a_damaged_shard_gives_what_it_has_and_a_row_of_its_own(tmp_path: Path) -> None:
    whole = shard_of(tmp_path / "whole.tar", ("a.png", b"A"), ("b.png", b"B" * 600)).read_bytes()
    # Two blocks for a.png, three for b.png, then zeros.
    cut = tmp_path / "cut.tar"
    cut.write_bytes(whole[: 512 * 3 + 100])
    assert images_of(cut) == [("/a.png", b"A", ""), ("", None, "it is cut off")]
    cut.write_bytes(whole[: 512 * 2])
    assert images_of(cut) == [("/a.png", b"A", ""), ("", None, "it is cut off or damaged after 1 files")]
    cut.write_bytes(whole[: 512 * 2] + b"x" * 512 + whole[512 * 3 :])
    assert images_of(cut) == [("/a.png", b"A", ""), ("", None, "it is cut off or damaged after 1 files")]
    cut.write_bytes(b"no tar file at all")
    assert images_of(cut) == [("", None, "it is not a tar file")]
    assert images_of(tmp_path / "none.tar") == [("", None, "there is no such file")]
    assert images_of(shard_of(tmp_path / "empty.tar", ("a.txt", b"x"))) == [("", None, "it holds no images")]


def parquet_images(path: Path, keep: str = "", part_size: int = 100) -> list[PieceImages]:
    work = list_work(str(path), None, part_size, "image", tuple(filter(None, keep.split(","))))
    return [PieceImages(piece, work, "image") for piece in work.pieces]


def test_rows_of_a_parquet_file(tmp_path: Path) -> None:
    structs = [{"bytes": b"A", "path": "a.png"}, {"bytes": None, "path": "b.png"}, None, {"bytes": b"D", "path": None}]
    table = pa.table({"image": structs, "label": [5, 6, 7, 8], "id": ["w", "x", "y", "z"]})
    path = tmp_path / "a.parquet"
    pa.parquet.write_table(table, path, row_group_size=1)
    first, second = parquet_images(path, keep="id,label", part_size=3)
    none = "there are no bytes"
    assert list(first) == [
        FoundFile(f"{path}#0", content=b"A"),
        FoundFile(f"{path}#1", none),
        FoundFile(f"{path}#2", none),
    ]
    assert list(second) == [FoundFile(f"{path}#3", content=b"D")]
    assert first.kept.to_pydict() == {"input_id": ["w", "x", "y"], "input_label": [5, 6, 7]}
    assert second.kept.to_pydict() == {"input_id": ["z"], "input_label": [8]}


def test_a_small_parquet_file_is_not_read_as_a_large_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal cells take the room of one in the file; as they are read each has its own."""
    monkeypatch.setattr(piece_images, "MAX_ENCODED_BYTES", 2**20 - 1)
    path = tmp_path / "a.parquet"
    pa.parquet.write_table(pa.table({"image": [bytes(2**20)] * 256}), path, compression="zstd")
    assert path.stat().st_size < 2**12
    (piece,) = parquet_images(path, part_size=256)
    before = pa.total_allocated_bytes()
    problems = [(file.problem, pa.total_allocated_bytes() - before) for file in piece]
    assert {problem for problem, _ in problems} == {"it must be at most 1,048,575 bytes, got 1,048,576"}
    assert max(held for _, held in problems) < 40 * 2**20


def test_damage_inside_a_parquet_file_costs_the_rows_it_hits(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    images = [bytes([index]) * 2000 for index in range(6)]
    table = pa.table({"image": images, "id": range(6)})
    pa.parquet.write_table(table, path, row_group_size=2, compression="none", use_dictionary=False)
    content = bytearray(path.read_bytes())
    start = content.index(images[2]) - 60
    content[start : start + 60] = b"\xff" * 60  # the header of the second group's page
    path.write_bytes(content)
    (piece,) = parquet_images(path, keep="id")
    found = list(piece)
    assert [file.address for file in found] == [f"{path}#{row}" for row in range(6)]
    assert [file.content for file in found] == [images[0], images[1], None, None, images[4], images[5]]
    assert {file.problem for file in found[2:4]} == {"its part of the file cannot be read: it is damaged"}
    assert piece.kept.to_pydict() == {"input_id": [0, 1, None, None, 4, 5]}


def test_a_parquet_file_that_has_gone_gives_its_rows_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pa.parquet.write_table(pa.table({"image": [b"A"] * 5, "id": range(5)}), path, row_group_size=2)
    _, piece, _ = parquet_images(path, keep="id", part_size=2)
    path.unlink()
    problem = "its part of the file cannot be read: there is no such file"
    assert list(piece) == [FoundFile(f"{path}#2", problem), FoundFile(f"{path}#3", problem)]
    assert piece.kept.to_pydict() == {"input_id": [None, None]}
