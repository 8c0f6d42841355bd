"""A search's folder, for the tests of its trials."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dvt.config import RunConfig
from dvt.search.record import open_search_folder
from dvt.train.storage import RunFolder
from tests.unit.search.made_up import embedded


@pytest.fixture
def search(tmp_path: Path) -> Iterator[RunFolder]:
    folder = open_search_folder(embedded(), RunConfig(storage_path=str(tmp_path)))
    yield folder
    assert folder.lock is not None
    folder.lock.close()
