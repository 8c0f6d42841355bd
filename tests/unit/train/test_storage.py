"""Run folders: found again by the same command, never shared, never half made."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import fsspec
import pytest

import dvt
from dvt.config import ConfigError, Recipe, load_recipe, recipe_to_yaml
from dvt.train.storage import FINISHED, LOCK, RunFolder, open_run_folder
from dvt.train.storage import RECIPE as RECIPE_FILE
from tests.unit.train.tiny import RECIPE, change

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(dvt.__file__).parent.parent)}


@contextmanager
def opened(storage: Path | str, recipe: Recipe = RECIPE, **run: Any) -> Iterator[RunFolder]:
    """A run folder as a process has it while it lives."""
    recipe = change(recipe, run={"storage_path": str(storage)} | run)
    folder = open_run_folder(recipe, recipe.run)
    try:
        yield folder
    finally:
        if folder.lock is not None:
            folder.lock.close()


def name_of(storage: Path | str, recipe: Recipe = RECIPE, **run: Any) -> str:
    with opened(storage, recipe, **run) as folder:
        return folder.name


def fails(storage: Path | str, recipe: Recipe = RECIPE, **run: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        name_of(storage, recipe, **run)
    return str(caught.value)


OTHER = change(RECIPE, optimizer={"lr": 1e-4})


def test_the_first_run(tmp_path: Path) -> None:
    with opened(tmp_path / "a" / "runs") as folder:
        assert folder.name == "tiny-001"
        assert folder.path == folder.address == str(tmp_path / "a" / "runs" / "tiny-001")
        assert folder.is_local
        assert sorted(path.name for path in Path(folder.path).iterdir()) == [LOCK, RECIPE_FILE]
        kept = load_recipe(Path(folder.path, RECIPE_FILE))
        assert kept == change(RECIPE, run={"storage_path": str(tmp_path / "a" / "runs")})


def test_the_same_command_goes_on_with_an_unfinished_run(tmp_path: Path) -> None:
    with opened(tmp_path) as folder:
        folder.write("run.json", "{}")
    with opened(tmp_path) as again:
        assert again.name == "tiny-001"
        assert again.read("run.json") == "{}"


def test_after_a_finished_run_comes_the_next(tmp_path: Path) -> None:
    with opened(tmp_path) as folder:
        folder.finish({"model": "m", "mlflow_run": "r"})
        assert json.loads(folder.read(FINISHED)) == {"model": "m", "mlflow_run": "r"}
    assert [name_of(tmp_path) for _ in range(2)] == ["tiny-002", "tiny-002"]


def test_another_recipe_is_another_run(tmp_path: Path) -> None:
    assert name_of(tmp_path) == "tiny-001"
    assert name_of(tmp_path, OTHER) == "tiny-002"
    assert name_of(tmp_path) == "tiny-001"
    assert name_of(tmp_path, OTHER) == "tiny-002"


def test_where_and_how_a_run_is_recorded_does_not_make_it_another(tmp_path: Path) -> None:
    assert name_of(tmp_path) == "tiny-001"
    assert name_of(tmp_path, experiment="other", tracking_uri="http://host", is_registered=False) == "tiny-001"


@pytest.mark.parametrize(
    "changes",
    [
        {"cluster": {"num_workers": 3}},
        {"data": {"cache_dir": "/cache", "cache_gib": 2.0}},
        {"data": {"loader_workers": 7, "engine": "ray"}},
    ],
)
def test_more_workers_or_readers_go_on_with_the_same_run(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert name_of(tmp_path) == "tiny-001"
    assert name_of(tmp_path, change(RECIPE, **changes)) == "tiny-001"


def test_the_newest_unfinished_run_is_taken(tmp_path: Path) -> None:
    with opened(tmp_path), opened(tmp_path) as second:
        assert second.name == "tiny-002"
    assert name_of(tmp_path) == "tiny-002"


def test_numbers_go_on_past_999_and_past_gaps(tmp_path: Path) -> None:
    for name in ("tiny-999", "tiny-007", "tiny-x", "tiny-001-static", "not-tiny-2000", "tiny-3000.txt"):
        (tmp_path / name).mkdir()
    assert name_of(tmp_path) == "tiny-1000"
    assert name_of(tmp_path) == "tiny-1000"


def test_recipes_whose_names_end_alike_do_not_meet(tmp_path: Path) -> None:
    long = Recipe(**(vars(RECIPE) | {"name": "not-tiny"}))
    assert name_of(tmp_path, long) == "not-tiny-001"
    assert name_of(tmp_path) == "tiny-001"


def test_a_name_of_ones_own(tmp_path: Path) -> None:
    assert name_of(tmp_path, name="mine") == "mine"
    with opened(tmp_path, name="mine") as folder:
        assert folder.path == str(tmp_path / "mine")
        folder.finish({})
    assert fails(tmp_path, name="mine") == (
        "run.name must name a new or an unfinished run, got mine, which is finished; choose another name"
    )
    assert name_of(tmp_path) == "tiny-001"


def test_the_name_of_another_recipes_run(tmp_path: Path) -> None:
    name_of(tmp_path, name="mine")
    before = (tmp_path / "mine" / RECIPE_FILE).read_bytes()
    assert fails(tmp_path, OTHER, name="mine") == (
        "run.name must name a run of this recipe, got mine, whose recipe.yaml differs; choose another name"
    )
    assert (tmp_path / "mine" / RECIPE_FILE).read_bytes() == before


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../b", "/b", "a\\b"])
def test_names_that_lead_elsewhere(tmp_path: Path, name: str) -> None:
    assert fails(tmp_path / "runs", name=name) == f"run.name must be a folder's name without slashes, got {name!r}"
    assert list(tmp_path.rglob("*")) == [tmp_path / "runs"]


HOLD = """
import fcntl, sys
lock = open(sys.argv[1], "w")
fcntl.flock(lock, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def held_elsewhere(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process holds a run."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder / LOCK)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_run_that_another_process_drives(tmp_path: Path) -> None:
    assert name_of(tmp_path) == "tiny-001"
    assert name_of(tmp_path, name="mine") == "mine"
    with held_elsewhere(tmp_path / "tiny-001"):
        assert name_of(tmp_path) == "tiny-002"
    with held_elsewhere(tmp_path / "mine") as process:
        assert fails(tmp_path, name="mine") == (
            "run.name must name a run that nobody drives, got mine, which another process holds; wait for it to end"
        )
        process.kill()  # and with the process, whichever way it ends, goes its hold
        process.wait()
        assert name_of(tmp_path, name="mine") == "mine"


# Opens a run at a given moment, says which, and holds it until told to go on with the next.
RACE = """
import sys, time
from dataclasses import replace
from dvt.config import load_recipe
from dvt.train.storage import open_run_folder
print("ready", flush=True)
for line in sys.stdin:
    start, recipe, storage = line.strip().split("\\t")
    recipe = load_recipe(recipe)
    while time.time() < float(start):
        pass
    folder = open_run_folder(recipe, replace(recipe.run, storage_path=storage))
    print(folder.name, flush=True)
    sys.stdin.readline()
    folder.lock.close()
    print("left", flush=True)
"""


class Racer:
    """Another process that opens runs."""

    def __init__(self, held: ExitStack) -> None:
        command = [sys.executable, "-c", RACE]
        self.process = held.enter_context(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
        )
        held.callback(self.process.kill)

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


def race(racers: Sequence[Racer], recipes: Sequence[Path], storage: Path) -> list[str]:
    """The names of the runs that the racers get when they start at once."""
    start = time.time() + 0.05
    for racer, recipe in zip(racers, recipes, strict=True):
        racer.say(f"{start}\t{recipe}\t{storage}")
    names = [racer.hear() for racer in racers]
    for racer in racers:
        racer.say("go on")
    assert [racer.hear() for racer in racers] == ["left"] * len(racers)
    return names


def test_two_processes_that_start_at_once_get_two_runs(tmp_path: Path) -> None:
    one, other = tmp_path / "one.yaml", tmp_path / "other.yaml"
    one.write_text(recipe_to_yaml(RECIPE))
    other.write_text(recipe_to_yaml(OTHER))
    with ExitStack() as held:
        racers = [Racer(held) for _ in range(2)]
        assert [racer.hear() for racer in racers] == ["ready"] * 2
        for index in range(10):
            storage = tmp_path / f"runs_{index}"
            same = race(racers, [one, one], storage)  # two new runs
            assert sorted(same) == ["tiny-001", "tiny-002"]
            again = race(racers, [one, one], storage)  # two to go on with
            assert sorted(again) == ["tiny-001", "tiny-002"]
            differing = race(racers, [one, other], tmp_path / f"two_recipes_{index}")
            assert sorted(differing) == ["tiny-001", "tiny-002"]
            for name, recipe in zip(differing, (RECIPE, OTHER), strict=True):
                kept = load_recipe(tmp_path / f"two_recipes_{index}" / name / RECIPE_FILE)
                assert kept.optimizer == recipe.optimizer


def test_a_run_that_was_finished_while_it_was_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name_of(tmp_path)
    real = RunFolder.has

    def has(folder: RunFolder, name: str) -> bool:
        found = real(folder, name)
        if name == FINISHED and not found and folder.name == "tiny-001":
            Path(folder.path, FINISHED).write_text("{}")  # by the process that held it until now
        return found

    monkeypatch.setattr(RunFolder, "has", has)
    assert name_of(tmp_path) == "tiny-002"


def test_storage_that_cannot_be_used(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    rule = "run.storage_path must be a folder or s3:// address that can be written, got"
    assert fails(file) == f"{rule} {file} ([Errno 17] File exists: '{file}')"
    assert fails(file / "runs") == f"{rule} {file}/runs ([Errno 20] Not a directory: '{file}/runs')"
    assert fails("nosuch://runs") == f"{rule} nosuch://runs (Protocol not known: nosuch)"


def test_storage_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "write_text", refuse)
    assert fails(tmp_path) == (
        f"run.storage_path must be a folder or s3:// address that can be written, got {tmp_path} "
        f"([Errno 13] Permission denied: '{tmp_path}/tiny-001/recipe.yaml.partial')"
    )


@pytest.mark.parametrize(
    "text",
    [b"", b"name: tiny\ncascade: {image", b"name: tiny\n", b"\xff\xfe", b"- 1"],
    ids=["empty", "cut", "less", "no text", "list"],
)
def test_a_recipe_that_was_spoilt_is_somebody_elses(tmp_path: Path, text: bytes) -> None:
    name_of(tmp_path)
    (tmp_path / "tiny-001" / RECIPE_FILE).write_bytes(text)
    assert name_of(tmp_path) == "tiny-002"
    assert fails(tmp_path, name="tiny-001") == (
        "run.name must name a run of this recipe, got tiny-001, whose recipe.yaml differs; choose another name"
    )


def test_a_crash_before_the_recipe_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            name_of(tmp_path)
    assert (tmp_path / "tiny-001" / f"{RECIPE_FILE}.partial").exists()
    assert name_of(tmp_path) == "tiny-002"
    assert name_of(tmp_path, name="tiny-001") == "tiny-001"  # asked for by name it may be taken


def test_writing_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path) as folder:
        folder.write("run.json", "old")
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
            with pytest.raises(OSError, match="No space left"):
                folder.write("run.json", "new")
        assert folder.read("run.json") == "old"
        folder.write("run.json", "née")
        assert folder.read("run.json") == "née"
        assert not folder.has("run.json.partial")
        assert not folder.has("other.json")


def make_front(tmp_path: Path) -> Path:
    front = tmp_path / "front"
    (front / "deep").mkdir(parents=True)
    (front / "front.csv").write_text("a,b")
    (front / "deep" / "more.txt").write_text("c")
    return front


def test_putting_a_folder_and_opening_a_child(tmp_path: Path) -> None:
    front = make_front(tmp_path)
    with opened(tmp_path / "runs") as folder:
        for _ in range(2):  # a second time replaces the first
            folder.put(front)
        child = folder.child("static")
        child.write("run.json", "{}")
        assert (child.name, child.path) == ("tiny-001-static", f"{folder.path}/static")
        assert folder.has("static/run.json")
    root = tmp_path / "runs" / "tiny-001"
    assert (root / "front" / "front.csv").read_text() == "a,b"
    assert (root / "front" / "deep" / "more.txt").read_text() == "c"
    assert sorted(path.name for path in (root / "front").iterdir()) == ["deep", "front.csv"]


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[str]:
    address = f"memory://{tmp_path.name}/runs"
    yield address
    fsspec.filesystem("memory").rm(f"/{tmp_path.name}", recursive=True)


def test_a_file_system_that_is_no_disk(memory: str, tmp_path: Path) -> None:
    front = make_front(tmp_path)
    with opened(memory) as folder:
        assert not folder.is_local
        assert folder.lock is None
        assert folder.address == memory.replace("memory://", "memory:///") + "/tiny-001"
        folder.write("run.json", "{}")
        for _ in range(2):  # a second time replaces the first
            folder.put(front)
        assert folder.read("front/front.csv") == "a,b"
        assert folder.read("front/deep/more.txt") == "c"
        assert not folder.has("front/front/front.csv")
        folder.child("static").write("run.json", "1")
        assert folder.read("static/run.json") == "1"
    with opened(memory) as again:
        assert again.name == "tiny-001"
        assert again.read("run.json") == "{}"
        again.finish({})
    assert name_of(memory) == "tiny-002"
    assert name_of(memory, OTHER) == "tiny-003"
    assert fails(memory, name="tiny-001") == (
        "run.name must name a new or an unfinished run, got tiny-001, which is finished; choose another name"
    )


def test_what_a_folder_keeps_holds_no_credentials_and_is_found_again(tmp_path: Path) -> None:
    uri = "postgresql://ann:pa55w0rd@db/mlflow"
    with opened(tmp_path, tracking_uri=uri, name=None) as folder:
        assert "pa55w0rd" not in folder.read(RECIPE_FILE)
        assert load_recipe(Path(folder.path, RECIPE_FILE)).run.tracking_uri == "postgresql://db/mlflow"
    data = change(RECIPE, data={"root": "s3://KEY:pa55w0rd@bucket/images"})
    names = [name_of(tmp_path, data) for _ in range(2)]
    assert names[0] == names[1]  # the same command goes on, though what is kept lacks what was typed


def test_storage_is_given_without_credentials(tmp_path: Path) -> None:
    assert fails("s3://KEY:pa55w0rd@bucket/runs") == (
        "run.storage_path must be given as s3://BUCKET/PATH without credentials, got some before s3://bucket/runs; "
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE instead"
    )


def test_a_folder_is_put_and_got(tmp_path: Path) -> None:
    (tmp_path / "trace" / "deep").mkdir(parents=True)
    (tmp_path / "trace" / "deep" / "a.txt").write_text("a")
    (tmp_path / "copy").mkdir()
    with opened(tmp_path / "runs") as folder:
        folder.put(tmp_path / "trace")
        folder.get("trace", tmp_path / "copy")
    assert (tmp_path / "copy" / "trace" / "deep" / "a.txt").read_text() == "a"
