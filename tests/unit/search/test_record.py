"""Where a search's study is, whatever its folder is called."""

from pathlib import Path

import optuna
import pytest

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


def test_a_folder_keeps_no_password_and_the_environment_gives_it_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = "postgresql+psycopg://ann:pa55w0rd@127.0.0.1:9/team"
    space = space_of("--search.study-uri", whole)
    folder = open_search_folder(space, RunConfig(storage_path=str(tmp_path)))
    kept, _ = read_search(folder.path)
    assert "pa55w0rd" not in folder.read("search.yaml")
    assert kept.search.study_uri == "postgresql+psycopg://127.0.0.1:9/team"
    tried: list[str] = []
    monkeypatch.setattr("dvt.search.record.CandidateStudy", lambda space, uri, name: tried.append(uri))
    for given in ("", "postgresql+psycopg://ann:pa55w0rd@elsewhere/team", whole):
        monkeypatch.setenv("DVT_STUDY_URI", given)
        open_study(kept, folder)
    assert tried == [kept.search.study_uri, kept.search.study_uri, whole]
    assert folder.lock is not None
    folder.lock.close()
