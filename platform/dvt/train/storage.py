"""Where a run keeps what must outlive it: a folder on a disk or in a bucket, found again by the same command.

A run's folder holds `recipe.yaml` (what was asked for), `run.json` (the MLflow run that it reports to), `checkpoints/`
(Ray Train's own folder) and, once everything is done, `finished.json`.
"""

import fcntl
import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from fsspec import AbstractFileSystem

from dvt.config import ConfigError, Problem, Recipe, RunConfig, flatten, to_dict, yaml_text
from dvt.config.secrets import has_credentials, redacted, without_credentials, without_credentials_in
from dvt.data.s3_client import open_filesystem
from dvt.data.s3_failures import STORAGE_FAILURES, why_failed

# Of a recipe, what does not change which images are trained on: an unfinished run goes on though it is asked otherwise.
FREE = (
    *("run", "cluster", "data.cache_dir", "data.cache_gib", "data.engine", "data.loader_workers"),
    "train.max_skipped_steps",
    "train.trace_steps",
)
_KEYS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
RECIPE, RUN, FINISHED, LOCK = "recipe.yaml", "run.json", "finished.json", ".lock"


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run.

    Attributes:
        filesystem: The file system it lies on.
        path: Its path there, without scheme.
        name: Name of the run.
        lock: Held while this process drives the run, so that a second driver starts a run of its own.
    """

    filesystem: AbstractFileSystem
    path: str
    name: str
    lock: IO[str] | None = None

    @property
    def is_local(self) -> bool:
        """Whether it is a folder of this machine or of a network disk."""
        return "file" in self.filesystem.protocol

    @property
    def address(self) -> str:
        """Its path as a person would type it."""
        return self.path if self.is_local else str(self.filesystem.unstrip_protocol(self.path))

    def has(self, name: str) -> bool:
        """Whether a file of this name is there."""
        return bool(self.filesystem.exists(f"{self.path}/{name}"))

    def read(self, name: str) -> str:
        """The text of a file."""
        text: str = self.filesystem.read_text(f"{self.path}/{name}", encoding="utf-8")
        return text

    def write(self, name: str, text: str) -> None:
        """Write a file; a reader finds the old text or the new one, never half of it."""
        path = f"{self.path}/{name}"
        if not self.is_local:  # an object appears in a bucket when it is complete
            self.filesystem.write_text(path, text, encoding="utf-8")
            return
        partial = Path(f"{path}.partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)

    def put(self, local: Path) -> None:
        """Copy a local folder in, under its own name."""
        self.filesystem.put(str(local), f"{self.path}/", recursive=True)

    def get(self, name: str, local: Path) -> None:
        """Copy a folder of it to a local one of the same name below `local`."""
        self.filesystem.get(f"{self.path}/{name}", f"{local}/", recursive=True)

    def child(self, name: str) -> "RunFolder":
        """A folder in this one for a part of the run."""
        self.filesystem.makedirs(f"{self.path}/{name}", exist_ok=True)
        return replace(self, path=f"{self.path}/{name}", name=f"{self.name}-{name}")

    def finish(self, results: dict[str, Any]) -> None:
        """Note that the run is done; the same command then starts another."""
        self.write(FINISHED, json.dumps(results, indent=2))


@dataclass(frozen=True)
class Asked:
    """What a folder is for; another command that asks for the same goes on with it.

    Attributes:
        stem: Names the folder, with a number behind it.
        file: Keeps `tree` in the folder, as YAML.
        tree: What is asked for.
        free: Dotted paths that make no difference, with all that is below them.
    """

    stem: str
    file: str
    tree: Mapping[str, Any]
    free: tuple[str, ...]

    @property
    def noun(self) -> str:
        """What it is called."""
        return self.file.removesuffix(".yaml")


def open_run_folder(recipe: Recipe, run: RunConfig) -> RunFolder:
    """The folder of the newest unfinished run of this recipe, or of a new run.

    Args:
        recipe: What is asked for; a run is the same if all but `FREE` is.
        run: Where to look, and the run's name if it has one.

    Raises:
        ConfigError: If the storage cannot be used, or the named run is finished or of another recipe.
    """
    return open_folder(Asked(recipe.name, RECIPE, to_dict(recipe), free=FREE), run)


def open_folder(asked: Asked, run: RunConfig) -> RunFolder:
    """The newest unfinished folder of what is asked for, or a new one; held by this process until it ends.

    Args:
        asked: What it is for.
        run: Where to look, and the folder's name if it has one.

    Raises:
        ConfigError: If the storage cannot be used, or the named folder is finished or of something else.
    """
    asked = replace(asked, tree=without_credentials_in(asked.tree))  # of no use to whoever reads the folder
    if has_credentials(run.storage_path):
        shown = without_credentials(run.storage_path)
        rule = f"must be given as s3://BUCKET/PATH without credentials, got some before {shown}; set {_KEYS} instead"
        raise ConfigError([Problem("run.storage_path", rule)])
    try:
        filesystem, root = open_filesystem(run.storage_path)
        filesystem.makedirs(root, exist_ok=True)
        if run.name is not None:
            return _open_named(filesystem, root, run.name, asked)
        return _open_newest(filesystem, root, asked)
    except STORAGE_FAILURES as error:
        if isinstance(error, ConfigError):
            raise
        got = f"got {run.storage_path} ({redacted(why_failed(error))})"
        rule = f"must be a folder or s3:// address that can be written, {got}"
        raise ConfigError([Problem("run.storage_path", rule)]) from error


def _open_named(filesystem: AbstractFileSystem, root: str, name: str, asked: Asked) -> RunFolder:
    if name in ("", ".", "..") or "/" in name or "\\" in name:
        raise ConfigError([Problem("run.name", f"must be a folder's name without slashes, got {name!r}")])
    folder = RunFolder(filesystem, f"{root}/{name}", name)
    if folder.has(FINISHED):
        rule = f"must name a new or an unfinished run, got {name}, which is finished; choose another name"
        raise ConfigError([Problem("run.name", rule)])
    if folder.has(asked.file) and not _is_same(folder, asked):
        rule = f"must name a run of this {asked.noun}, got {name}, whose {asked.file} differs; choose another name"
        raise ConfigError([Problem("run.name", rule)])
    locked = _begin(folder, asked)
    if locked is None:
        rule = f"must name a run that nobody drives, got {name}, which another process holds; wait for it to end"
        raise ConfigError([Problem("run.name", rule)])
    return locked


def _open_newest(filesystem: AbstractFileSystem, root: str, asked: Asked) -> RunFolder:
    pattern = re.compile(rf"{re.escape(asked.stem)}-(\d+)")
    paths = filesystem.ls(root, detail=False) if filesystem.exists(root) else []  # an empty prefix of a bucket is none
    found = {int(match[1]): match[0] for path in paths if (match := pattern.fullmatch(path.rstrip("/").split("/")[-1]))}
    for number in sorted(found, reverse=True):
        folder = RunFolder(filesystem, f"{root}/{found[number]}", found[number])
        if folder.has(asked.file) and not folder.has(FINISHED) and _is_same(folder, asked):
            locked = _begin(folder, asked)
            if locked is not None:
                return locked
    number = max(found, default=0)
    while True:  # two drivers that start at once take two numbers
        number += 1
        name = f"{asked.stem}-{number:03d}"
        folder = RunFolder(filesystem, f"{root}/{name}", name)
        locked = None if folder.has(asked.file) else _begin(folder, asked)
        if locked is not None:
            return locked


def _begin(folder: RunFolder, asked: Asked) -> RunFolder | None:
    """Take the folder for this process; None if another process holds it, or made it another run meanwhile."""
    folder.filesystem.makedirs(folder.path, exist_ok=True)
    with ExitStack() as held:
        lock = None
        if folder.is_local:
            lock = held.enter_context(Path(folder.path, LOCK).open("w"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return None
            os.set_inheritable(lock.fileno(), False)
        if not folder.has(asked.file):
            folder.write(asked.file, yaml_text.dump(asked.tree))
        elif folder.has(FINISHED) or not _is_same(folder, asked):
            return None
        held.pop_all()  # held until the process ends, whichever way
    return replace(folder, lock=lock)


def _is_same(folder: RunFolder, asked: Asked) -> bool:
    """Whether a folder is for what is asked for; what cannot be read is for something else."""
    try:
        kept = yaml_text.parse(folder.read(asked.file))
    except ValueError:
        return False
    return isinstance(kept, dict) and _bound(without_credentials_in(kept), asked.free) == _bound(asked.tree, asked.free)


def _bound(tree: Mapping[str, Any], free: Sequence[str]) -> dict[str, Any]:
    """What makes a difference, by dotted path."""
    return {
        path: value
        for path, value in flatten(dict(tree)).items()
        if not any(f"{path}.".startswith(f"{each}.") for each in free)
    }
