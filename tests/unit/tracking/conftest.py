from pathlib import Path

import pytest

from dvt.tracking import check_tracking


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A real SQLite store; a module shares one because making its schema takes seconds."""
    folder: Path = tmp_path_factory.mktemp("a store")  # with a space, as people's folders have
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    check_tracking(uri)
    return uri
