"""Which code a run was made with: the git commit, whether it was changed since, and a digest of the source itself.

The digest is there also where `.git` was not shipped, as in the working directory of a Ray job; there the environment
variable `DVT_GIT_COMMIT` may name the commit.
"""

import hashlib
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import dvt

Dirtiness = Literal["true", "false", "unknown"]

UNKNOWN: Final = "unknown"
COMMIT_VARIABLE = "DVT_GIT_COMMIT"
_TIMEOUT_S = 10.0  # a repository on a network drive that hangs must not hold up the run


@dataclass(frozen=True, kw_only=True)
class CodeVersion:
    """The code behind a run; `unknown` stands where nobody can tell."""

    commit: str  # 40 hexadecimal digits, or what DVT_GIT_COMMIT says
    is_dirty: Dirtiness  # whether tracked files differ from the commit, or files are there that it does not know
    source_sha256: str  # digest of the package's own *.py files, names and contents


def code_version(package: Path | None = None, env: Mapping[str, str] | None = None) -> CodeVersion:
    """Find out which code is running.

    Args:
        package: The package's folder; None is that of `dvt`.
        env: The environment; None is this process's.
    """
    package = package_folder() if package is None else package
    env = os.environ if env is None else env
    commit, is_dirty = _ask_git(package)
    if commit == UNKNOWN:
        commit = env.get(COMMIT_VARIABLE, "").strip() or UNKNOWN
    return CodeVersion(commit=commit, is_dirty=is_dirty, source_sha256=source_digest(package))


def package_folder() -> Path:
    """The folder of the `dvt` package that is running."""
    return Path(dvt.__path__[0]).resolve()


def source_digest(package: Path) -> str:
    """SHA-256 over the relative paths and contents of all *.py files under a folder; equal code has equal digests."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py"), key=lambda path: path.relative_to(package).as_posix()):
        content = path.read_bytes()
        # Lengths keep the border between name and content from moving.
        digest.update(f"{path.relative_to(package).as_posix()}\n{len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def _ask_git(package: Path) -> tuple[str, Dirtiness]:
    # A package installed into a folder that a strange repository ignores is not of that repository's commit.
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return UNKNOWN, UNKNOWN
    commit = _git(package, "rev-parse", "--verify", "HEAD")
    changes = _git(package, "status", "--porcelain", "--untracked-files=normal", "--", ":/")
    if commit is None:
        return UNKNOWN, UNKNOWN
    if changes is None:
        return commit, UNKNOWN
    return commit, "true" if changes else "false"


def _git(folder: Path, *words: str) -> str | None:
    """What git prints, or None where it is missing, there is no repository, or it fails."""
    # Reading the status may refresh the index; optional locks off keeps from disturbing a user's own git command.
    command = ["git", "--no-optional-locks", "-C", str(folder), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
