"""CIFAR read from a real S3 server is CIFAR read from the disk."""

from pathlib import Path

import numpy as np
import pytest

from dvt.data import DataError
from dvt.data.cifar_files import read_cifar
from tests.integration.s3_server import S3Server
from tests.unit.data.cifar import SMALL100, write_archive, write_folder


@pytest.mark.usefixtures("s3_settings")
def test_a_folder_and_an_archive_in_a_bucket(s3: S3Server, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "here", SMALL100)
    archive = write_archive(tmp_path / SMALL100.archive, SMALL100)
    client = s3.client()
    client.create_bucket(Bucket="cifar")
    for path in folder.iterdir():
        client.upload_file(str(path), "cifar", f"data/{SMALL100.folder}/{path.name}")
    client.upload_file(str(archive), "cifar", SMALL100.archive)
    client.close()
    expected = read_cifar(str(folder), SMALL100)
    for root in ("data", f"data/{SMALL100.folder}/", SMALL100.archive):
        found = read_cifar(f"s3://cifar/{root}", SMALL100)
        assert np.array_equal(found.train.pixels, expected.train.pixels)
        assert np.array_equal(found.test.labels, expected.test.labels)
        assert found.class_names == expected.class_names
    with pytest.raises(DataError) as raised:
        read_cifar("s3://cifar/nothing", SMALL100)
    assert str(raised.value) == "s3://cifar/nothing cannot be read: there is no such file; put it back or name another"
