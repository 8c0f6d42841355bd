import hashlib
import json
from pathlib import Path

import pytest

from dvt.models.checksums import ChecksumError, check_files, write_checksums

ADVICE = "copy the model's folder again, or register the model again"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.json").write_bytes(b"{}")
    (tmp_path / "b.yaml").write_bytes(b"")
    write_checksums(tmp_path)
    return tmp_path


def test_each_file_has_its_sha256(folder: Path) -> None:
    assert json.loads((folder / "checksums.json").read_text()) == {
        "a.json": hashlib.sha256(b"{}").hexdigest(),
        "b.yaml": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",  # of nothing
    }
    assert write_checksums(folder) == folder / "checksums.json"  # does not count itself
    check_files(folder)


def test_a_changed_file_is_told(folder: Path) -> None:
    (folder / "a.json").write_bytes(b"[]")
    with pytest.raises(ChecksumError) as caught:
        check_files(folder)
    assert str(caught.value) == f"{folder}/a.json must have the checksum in checksums.json, got another; {ADVICE}"


def test_a_file_that_is_gone_is_told(folder: Path) -> None:
    (folder / "b.yaml").unlink()
    with pytest.raises(ChecksumError) as caught:
        check_files(folder)
    assert str(caught.value) == f"{folder}/b.yaml must be there as checksums.json says, got no such file; {ADVICE}"


@pytest.mark.parametrize("text", ["", "[]", "\x00", '{"../a.json": ""}', '{"/etc/passwd": ""}', '{"..": ""}'])
def test_checksums_that_cannot_be_read_are_told(folder: Path, text: str) -> None:
    (folder / "checksums.json").write_text(text)
    with pytest.raises(ChecksumError) as caught:
        check_files(folder)
    assert str(caught.value) == (
        f"{folder}/checksums.json must hold a checksum for each file, got something else; {ADVICE}"
    )


def test_models_from_before_there_were_checksums_pass(folder: Path) -> None:
    (folder / "checksums.json").unlink()
    (folder / "a.json").write_bytes(b"[]")
    check_files(folder)
