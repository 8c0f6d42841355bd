"""Where a search's study is, whatever its folder is called."""

from pathlib import Path

import optuna

from dvt.config import RunConfig
from dvt.search import Space, load_space
from dvt.search.record import open_search_folder, open_study, read_result, read_search

ROOT = Path(__file__).resolve().parents[3]


def space_of(*words: str) -> Space:
    return load_space(ROOT / "search_spaces" / "embedded.yaml", ["--search.num-trials", "2", *words])


def begin(space: Space, storage: Path) -> None:
    folder = open_search_folder(space, RunConfig(storage_path=str(storage)))
    candidate = open_study(space, folder).next()
    assert candidate is not None
    assert folder.lock is not None
    folder.lock.close()


def test_a_folder_that_was_renamed_holds_its_trials(tmp_path: Path) -> None:
    begin(space_of(), tmp_path)
    (tmp_path / "embedded-search-001").rename(tmp_path / "kept")
    space, folder = read_search(str(tmp_path / "kept"))
    assert [trial.number for trial in read_result(space, folder).trials] == [0]


def test_searches_that_share_a_database_do_not_share_a_study(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/team.db"
    space = space_of("--search.study-uri", uri)
    for name in ("mine", "theirs"):
        begin(space, tmp_path / name)
    names = optuna.study.get_all_study_names(uri)
    assert len(set(names)) == 2
    assert all(name.startswith("embedded-search-001-") for name in names)
    for name in ("mine", "theirs"):
        found = read_result(*read_search(str(tmp_path / name / "embedded-search-001")))
        assert [trial.number for trial in found.trials] == [0]
