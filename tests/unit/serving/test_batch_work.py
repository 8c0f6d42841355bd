"""The input of a batch job: told apart by its files' names, listed, and cut into pieces."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from dvt.config import ConfigError
from dvt.serving.batch_work import Format, Piece, Work, list_work, pieces_of, pieces_table


def listed(
    address: Path | str, *, asked: Format | None = None, part_size: int = 2, column: str = "image", keep: str = ""
) -> Work:
    return list_work(str(address), asked, part_size, column, tuple(filter(None, keep.split(","))))


def refused(address: Path | str, **words: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        listed(address, **words)  # type: ignore[arg-type]
    return list(map(str, caught.value.problems))


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def write_parquet(path: Path, rows: int, group: int, kind: pa.DataType | None = None, **columns: pa.Array) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = pa.array([b"x"] * rows, kind or pa.binary())
    pa.parquet.write_table(pa.table({"image": images, **columns}), path, row_group_size=group)
    return path


def test_a_folder_is_cut_into_runs_of_images(tmp_path: Path) -> None:
    names = [tmp_path / name for name in ("b.webp", "c.png", "d.png", "e/0.png", "e/1.JPG")]
    touch(*names, tmp_path / "notes.txt", tmp_path / ".hidden.png")
    work = listed(tmp_path)
    assert work.format == "folder"
    told = [(piece.number, [Path(each) for each in piece.addresses], piece.num_images) for piece in work.pieces]
    assert told == [(0, names[:2], 2), (1, names[2:4], 2), (2, names[4:], 1)]


def test_a_shard_is_a_piece(tmp_path: Path) -> None:
    touch(tmp_path / "1.tar", tmp_path / "0.tar")
    work = listed(tmp_path)
    pieces = (Piece(0, (str(tmp_path / "0.tar"),)), Piece(1, (str(tmp_path / "1.tar"),)))
    assert (work.format, work.pieces) == ("tar", pieces)
    assert listed(tmp_path / "1.tar").pieces == (Piece(0, (str(tmp_path / "1.tar"),)),)


def test_row_groups_are_joined_until_there_are_enough_rows(tmp_path: Path) -> None:
    first = write_parquet(tmp_path / "a.parquet", rows=7, group=2)  # 2, 2, 2, 1
    second = write_parquet(tmp_path / "b.parquet", rows=5, group=5)
    runs = [(0, str(first), 0, 2, 0, 4), (1, str(first), 2, 4, 4, 3), (2, str(second), 0, 1, 0, 5)]
    pieces = listed(tmp_path, part_size=3).pieces
    assert pieces == tuple(Piece(n, (file,), begin, end, row, count) for n, file, begin, end, row, count in runs)


def test_kept_columns_are_named_after_their_input(tmp_path: Path) -> None:
    numbers = pa.array([1, 2], pa.int32())
    write_parquet(tmp_path / "a.parquet", rows=2, group=2, label=numbers, id=pa.array(["x", "y"]))
    kept = listed(tmp_path, keep="id,label").kept
    assert kept == pa.schema({"input_id": pa.string(), "input_label": pa.int32()})


@pytest.mark.parametrize("kind", [pa.large_binary(), pa.struct({"bytes": pa.binary(), "path": pa.string()})])
def test_bytes_and_structs_of_bytes_are_images(tmp_path: Path, kind: pa.DataType) -> None:
    images = pa.array([None], kind)
    pa.parquet.write_table(pa.table({"picture": images}), tmp_path / "a.parquet")
    assert len(listed(tmp_path, column="picture").pieces) == 1


def test_work_is_read_back_as_it_was(tmp_path: Path) -> None:
    pieces = (Piece(0, ("a/\udcff.png", "b.png"), num_images=2), Piece(7, ("c.parquet",), 1, 3, 20, 9))
    work = Work("parquet", pieces, pa.schema({"input_id": pa.large_string()}))
    pa.parquet.write_table(work.to_table(), tmp_path / "work.parquet")
    assert Work.from_table(pa.parquet.read_table(tmp_path / "work.parquet")) == work
    assert pieces_of(pieces_table(pieces[1:])) == pieces[1:]


INPUT = "--input must be images, .tar shards or .parquet files, or a folder of one of them, got"


def test_what_is_no_input_is_refused(tmp_path: Path) -> None:
    touch(tmp_path / "notes.txt", tmp_path / "some" / "0.png")
    for name in ("none", "none.tar"):
        assert refused(tmp_path / name) == [f"{INPUT} {tmp_path / name}: there is no such file"]
    assert refused(tmp_path / "notes.txt") == [f"{INPUT} {tmp_path}/notes.txt"]
    assert refused(tmp_path, asked="tar") == [f"{INPUT} {tmp_path}: it holds no images (.tar)"]
    told = "--keep-columns must come with Parquet input, got folder input; leave it out"
    assert refused(tmp_path / "some", keep="id") == [told]


def test_the_index_beside_packed_shards_is_no_input(tmp_path: Path) -> None:
    touch(tmp_path / "shard-00000.tar", tmp_path / "index.parquet")
    work = list_work(str(tmp_path), None, 10, "image", ())
    assert (work.format, [piece.addresses for piece in work.pieces]) == (
        "tar",
        [(str(tmp_path / "shard-00000.tar"),)],
    )


def test_several_kinds_must_be_told_apart(tmp_path: Path) -> None:
    touch(tmp_path / "0.png", tmp_path / "1.png", tmp_path / "0.tar")
    (told,) = refused(tmp_path)
    assert told == (
        "--format must be given where there are several kinds of input, got 2 of folder and 1 of tar; "
        "choose from folder, tar"
    )
    assert len(listed(tmp_path, asked="folder").pieces) == 1


def test_columns_must_be_there_and_hold_images(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "a.parquet", rows=1, group=1, id=pa.array([1]))
    holds = f"and {file}, which holds image, id"
    assert refused(tmp_path, column="jpg", keep="name") == [
        f"--image-column must name a column of every file, got 'jpg' {holds}",
        f"--keep-columns must name a column of every file, got 'name' {holds}",
    ]
    (told,) = refused(tmp_path, column="id")
    assert told == (
        "--image-column must name a column of encoded images (binary, or a struct with binary `bytes`), got 'id' of "
        f"int64 in {file}"
    )
    other = write_parquet(tmp_path / "b.parquet", rows=1, group=1, id=pa.array(["1"]))
    assert refused(tmp_path, keep="id") == [
        f"--keep-columns must be of one type in all files, got id of int64 in {file} and id of string in {other}"
    ]


def test_a_damaged_parquet_file_is_told_before_anything_is_done(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and nothing more")
    (told,) = refused(tmp_path)
    assert told == (
        f"--input must hold Parquet files that can be read, got {tmp_path}/a.parquet: it is damaged; "
        "replace or remove it"
    )
