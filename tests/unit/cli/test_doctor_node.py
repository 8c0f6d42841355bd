"""What a node tells of itself: this one, and one whose `nvidia-smi` is a script of ours."""

import socket
import tempfile
from pathlib import Path

import pytest

from dvt.cli.doctor_node import Gpu, NodeProbe, Rates, local_folders


def test_health_of_this_machine(tmp_path: Path) -> None:
    health = NodeProbe().health("10.0.0.1", 0.0, (str(tmp_path / "not" / "yet"),))
    assert health.told == f"{socket.gethostname()} (10.0.0.1)"
    assert health.versions["ray"].count(".") == 2
    assert list(health.free_gib) == [tempfile.gettempdir(), str(tmp_path / "not" / "yet")]
    assert all(gib > 0 for gib in health.free_gib.values())


def test_gpus_as_the_driver_tells_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\n"
        '[ "$1" = "--query-gpu=index,name,driver_version,memory.used,memory.total" ] || exit 1\n'
        "echo '0, NVIDIA H200, 580.95.05, 612, 143771'\n"
        "echo '1, NVIDIA H200, 580.95.05, [N/A], 143771'\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert NodeProbe().health("10.0.0.1", 2.0, ()).gpus == (
        Gpu("0", "NVIDIA H200", "580.95.05", 612.0, 143771.0),
        Gpu("1", "NVIDIA H200", "580.95.05", 0.0, 143771.0),
    )
    program.write_text("#!/bin/sh\necho 'the driver is not loaded'\nexit 9\n")
    assert NodeProbe().health("10.0.0.1", 0.0, ()).gpus == ()


def test_storage_is_written_read_seen_and_left_clean(tmp_path: Path) -> None:
    probe, storage = NodeProbe(), str(tmp_path / "runs")
    assert isinstance(probe.store(storage, ".doctor-1", 1000), Rates)
    assert probe.missing(storage, [".doctor-1", ".doctor-2"]) == [".doctor-2"]
    probe.remove(storage, ".doctor-1")
    probe.remove(storage, ".doctor-1")
    assert list((tmp_path / "runs").iterdir()) == []


def test_storage_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    told = NodeProbe().store(str(tmp_path / "runs"), "x", 10)
    assert isinstance(told, str)
    assert "exists" in told
    assert NodeProbe().store("nosuch://bucket", "x", 10) == "Protocol not known: nosuch"


def test_servers_are_reached_or_not() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        assert NodeProbe().reach("127.0.0.1", server.getsockname()[1]) is None
        taken = server.getsockname()[1]
    assert NodeProbe().reach("127.0.0.1", taken) == "Connection refused"


def test_folders_that_fill(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/scratch/ray")
    assert local_folders("/runs", None) == ("/scratch/ray", "/runs")
    assert local_folders("s3://b/runs", "/cache") == ("/scratch/ray", "/cache")
    assert local_folders("file:///runs", None) == ("/scratch/ray", "/runs")


def test_a_bucket_that_is_away_is_told_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run asks again for a minute and more; a node that looks would be taken for one that hangs."""
    tried: list[float] = []

    async def sleep(seconds: float) -> None:
        tried.append(seconds)

    with socket.socket() as server:  # bound and not listening: nobody is there
        server.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.setattr("s3fs.core.asyncio.sleep", sleep)
        told = NodeProbe().store("s3://bucket/runs", "x", 10)
        NodeProbe().remove("s3://bucket/runs", "x")
    assert isinstance(told, str)
    assert "does not answer" in told
    assert sum(tried) < 5
