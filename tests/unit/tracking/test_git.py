import subprocess
from pathlib import Path

import pytest

from dvt.tracking import code_version
from dvt.tracking.git import package_folder, source_digest


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=Ann", "-c", "user.email=ann@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", str(folder), *identity, *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    package = tmp_path / "repo" / "src" / "package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("x = 1\n")
    return package


@pytest.fixture
def repo(package: Path) -> Path:
    root = package.parents[1]
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "first")
    return root


def test_a_clean_repository(repo: Path, package: Path) -> None:
    version = code_version(package, env={"DVT_GIT_COMMIT": "not this one"})
    assert version.commit == git(repo, "rev-parse", "HEAD")
    assert len(version.commit) == 40
    assert version.is_dirty == "false"


@pytest.mark.parametrize("changed", ["src/package/__init__.py", "new_file.txt", "src/new.py"])
def test_a_changed_repository(repo: Path, package: Path, changed: str) -> None:
    (repo / changed).write_text("y = 2\n")
    version = code_version(package, env={})
    assert version.commit == git(repo, "rev-parse", "HEAD")
    assert version.is_dirty == "true"


def test_no_repository(package: Path) -> None:
    version = code_version(package, env={})
    assert (version.commit, version.is_dirty) == ("unknown", "unknown")
    assert len(version.source_sha256) == 64


def test_a_repository_without_a_commit(package: Path) -> None:
    git(package.parents[1], "init", "--quiet")
    git(package.parents[1], "add", ".")
    assert code_version(package, env={}).commit == "unknown"


def test_no_git(repo: Path, package: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (code_version(package, env={}).commit, code_version(package, env={}).is_dirty) == ("unknown", "unknown")


def test_the_environment_names_the_commit_where_git_was_not_shipped(package: Path) -> None:
    version = code_version(package, env={"DVT_GIT_COMMIT": " abc123 "})
    assert (version.commit, version.is_dirty) == ("abc123", "unknown")


def test_an_installed_package_is_not_of_the_repository_around_it(repo: Path) -> None:
    installed = repo / ".venv" / "package"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("")
    (repo / ".gitignore").write_text(".venv\n")
    assert code_version(installed, env={}).commit == "unknown"


def test_the_digest_follows_names_and_contents_of_python_files(package: Path) -> None:
    first = source_digest(package)
    (package / "notes.txt").write_text("not code")
    assert source_digest(package) == first
    (package / "more.py").write_text("")
    second = source_digest(package)
    (package / "more.py").rename(package / "less.py")
    third = source_digest(package)
    (package / "less.py").write_text("#")
    assert len({first, second, third, source_digest(package)}) == 4


def test_by_default_the_version_is_that_of_this_package() -> None:
    assert (package_folder() / "tracking" / "git.py").is_file()
    assert code_version().source_sha256 == source_digest(package_folder())
