"""The file in which metrics wait: what is put in comes out in order, whoever asks, until it is forgotten."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dvt.tracking import TrackingError
from dvt.tracking.git import package_folder
from dvt.tracking.spool import Spool, spool_folder

URI = "http://ann:pa55@host:5000"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DVT_SPOOL", str(tmp_path / "spool"))
    return tmp_path / "spool"


def test_calls_come_out_in_order_and_stay_until_they_are_forgotten() -> None:
    spool = Spool(URI, "run")
    for step in (2, 1, 3):
        spool.put({"loss": step / 2, "bad": math.nan, "high": math.inf}, step, 1000 + step)
    first = spool.oldest(2)
    assert [(each.step, each.time_ms, each.metrics["loss"]) for each in first] == [(2, 1002, 1.0), (1, 1001, 0.5)]
    assert math.isnan(first[0].metrics["bad"])
    assert first[0].metrics["high"] == math.inf
    assert [each.key for each in spool.oldest(2)] == [each.key for each in first]
    spool.forget(first)
    spool.forget([])
    assert [each.step for each in spool.oldest(9)] == [3]
    assert spool.count() == 1


def test_runs_and_addresses_are_kept_apart() -> None:
    Spool(URI, "one").put({"a": 1.0}, 0, 0)
    assert Spool(URI, "other").count() == 0
    assert Spool("http://elsewhere:5000", "one").count() == 0
    assert Spool("http://bob:w0rd@host:5000", "one").count() == 1  # the same server, whoever asks


def test_what_a_killed_process_put_in_is_there(folder: Path) -> None:
    code = """
import os, signal, sys
from dvt.tracking.spool import Spool
spool = Spool(sys.argv[1], "run")
for step in range(20):
    spool.put({"loss": float(step)}, step, step)
os.kill(os.getpid(), signal.SIGKILL)
"""
    env = {"PYTHONPATH": str(package_folder().parent), "DVT_SPOOL": str(folder)}
    assert subprocess.run([sys.executable, "-c", code, URI], env=env, check=False).returncode == -9
    assert [each.step for each in Spool(URI, "run").oldest(99)] == list(range(20))


def test_the_folder_is_for_its_owner_alone_and_holds_no_credentials(folder: Path) -> None:
    Spool(URI, "run").put({"a": 1.0}, 0, 0)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert not any(secret in path.read_bytes() for path in folder.iterdir() for secret in (b"ann", b"pa55"))


def test_without_a_name_it_is_in_the_temporary_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DVT_SPOOL")
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    assert spool_folder() == tmp_path / f"dvt-spool-{os.getuid()}"


def test_a_folder_of_another_user_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = os.getuid()
    monkeypatch.setattr("os.getuid", lambda: owner + 1)
    with pytest.raises(TrackingError) as caught:
        spool_folder()
    assert str(caught.value) == (
        f"{folder}, where metrics wait for MLflow, must be this user's, got one of user {owner}; "
        "name another by DVT_SPOOL"
    )


def test_a_file_in_the_way_is_one_sentence(folder: Path) -> None:
    folder.write_text("")
    with pytest.raises(TrackingError) as caught:
        Spool(URI, "run")
    assert str(caught.value) == (
        f"{folder}, where metrics wait for MLflow, must be a folder that can be written, got File exists; "
        "name another by DVT_SPOOL"
    )


def test_a_file_that_is_no_database_is_one_sentence(folder: Path) -> None:
    path = Spool(URI, "run").path
    path.write_bytes(b"something else, longer than a page header " * 100)
    for beside in folder.glob("*-wal"):
        beside.unlink()
    with pytest.raises(TrackingError) as caught:
        Spool(URI, "run")
    assert str(caught.value) == (
        f"{path}, where metrics wait for MLflow, must be a file that can be written, got one that cannot "
        "(file is not a database); free or mend it, or name another folder by DVT_SPOOL"
    )
