import os
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from dvt.config import ConfigError
from dvt.tracking import TrackingError, check_tracking, resolve_tracking_uri

ADVICE = "start the server, correct the address, or leave both out to use a SQLite file beside the runs"
CHOICES = "choose from http, https, sqlite, postgresql, mysql, mssql://..."
EITHER = "run.tracking_uri (or MLFLOW_TRACKING_URI)"


class TestResolve:
    def test_the_flag_wins(self) -> None:
        uri = resolve_tracking_uri("http://flag:1", "runs", env={"MLFLOW_TRACKING_URI": "http://env:2"})
        assert uri == "http://flag:1"

    def test_then_the_environment(self) -> None:
        assert resolve_tracking_uri(None, "runs", env={"MLFLOW_TRACKING_URI": "http://env:2/"}) == "http://env:2"

    def test_then_a_file_beside_the_runs(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        assert resolve_tracking_uri(None, "runs", env={}) == f"sqlite:///{tmp_path}/runs/mlflow.db"
        assert resolve_tracking_uri(None, f"file://{tmp_path}/x%20y", env={}) == f"sqlite:///{tmp_path}/x y/mlflow.db"
        assert list(tmp_path.iterdir()) == []

    def test_an_empty_variable_is_none(self) -> None:
        assert resolve_tracking_uri(None, "/r", env={"MLFLOW_TRACKING_URI": " "}) == "sqlite:////r/mlflow.db"

    def test_runs_in_a_bucket_are_recorded_in_the_data_folder(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", "/srv/ann")
        assert resolve_tracking_uri(None, "s3://b/runs", env={}) == "sqlite:////srv/ann/.local/share/dvt/mlflow.db"
        told = resolve_tracking_uri(None, "s3://b/runs", env={"XDG_DATA_HOME": "/data"})
        assert told == "sqlite:////data/dvt/mlflow.db"

    def test_a_relative_file_means_the_same_everywhere(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        assert resolve_tracking_uri("sqlite:///m.db?timeout=60", "runs") == f"sqlite:///{tmp_path}/m.db?timeout=60"

    def test_a_strangers_recipe_does_not_get_the_credentials_of_another_server(self) -> None:
        env = {"MLFLOW_TRACKING_URI": "https://team.example", "MLFLOW_TRACKING_PASSWORD": "hush"}
        with pytest.raises(ConfigError) as caught:
            resolve_tracking_uri("https://evil.example/mlflow", "runs", env=env)
        assert str(caught.value) == (
            "run.tracking_uri must name the server of MLFLOW_TRACKING_URI, whom the credentials in the environment are "
            "for, got https://evil.example/mlflow; set MLFLOW_TRACKING_URI to it if they are for this one"
        )
        assert resolve_tracking_uri("https://team.example/mlflow", "runs", env=env) == "https://team.example/mlflow"
        assert resolve_tracking_uri("sqlite:////r/mlflow.db", "runs", env=env) == "sqlite:////r/mlflow.db"

    @pytest.mark.parametrize(
        ("uri", "rule"),
        [
            ("./mlruns", f"must be an address, got './mlruns'; {CHOICES}"),
            ("file:///mlruns", f"must be an address, got 'file:///mlruns'; {CHOICES}"),
            (
                "sqlite://",
                "must name the SQLite file, got 'sqlite://'; write sqlite:////absolute/path/mlflow.db",
            ),
            ("http://", "must name a host, got 'http://'; write http://HOST:PORT"),
        ],
    )
    def test_what_is_no_address(self, uri: str, rule: str) -> None:
        with pytest.raises(ConfigError) as caught:
            resolve_tracking_uri(uri, "runs")
        assert str(caught.value) == f"run.tracking_uri {rule}"
        with pytest.raises(ConfigError) as caught:
            resolve_tracking_uri(None, "runs", env={"MLFLOW_TRACKING_URI": uri})
        assert str(caught.value) == f"MLFLOW_TRACKING_URI {rule}"
        with pytest.raises(TrackingError) as told:
            check_tracking(uri)
        assert str(told.value) == f"{EITHER} {rule}"


class Handler(BaseHTTPRequestHandler):
    """Answers with what the test says; by path, status and body."""

    answers: ClassVar[dict[str, tuple[int, str]]] = {}

    def do_GET(self) -> None:
        status, body = self.answers.get(self.path.partition("?")[0], (404, "<html>not here</html>"))
        self.send_response(status)
        self.send_header("Content-Type", "application/json" if body.startswith("{") else "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(answers: dict[str, tuple[int, str]]) -> Iterator[str]:
    handler = type("Answering", (Handler,), {"answers": answers})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def told_by(uri: str, timeout_s: float = 10) -> str:
    with pytest.raises(TrackingError) as caught:
        check_tracking(uri, timeout_s)
    return str(caught.value)


SEARCH = "/api/2.0/mlflow/experiments/search"


class TestCheckServer:
    def test_a_silent_server_is_told_in_time_and_without_its_password(self) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            address = f"127.0.0.1:{listener.getsockname()[1]}"
            start = time.monotonic()
            told = told_by(f"http://ann:pa55@{address}", timeout_s=0.5)
            assert time.monotonic() - start < 5
        assert told == (
            f"{EITHER} must be an MLflow server that answers, got http://{address}, "
            f"which did not answer within 0.5 s; {ADVICE}"
        )

    def test_nothing_listens(self) -> None:
        with socket.socket() as listener:  # bound and not listening: nobody else takes the port
            listener.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{listener.getsockname()[1]}"
            told = told_by(f"http://{address}")
        assert told == (
            f"{EITHER} must be an MLflow server that answers, got http://{address}, "
            f"which cannot be reached (connection refused); {ADVICE}"
        )

    def test_an_unknown_host(self) -> None:
        assert told_by("http://mlflow.invalid:5000") == (
            f"{EITHER} must be an MLflow server that answers, got http://mlflow.invalid:5000, "
            f"which cannot be reached (unknown host); {ADVICE}"
        )

    def test_another_web_server(self) -> None:
        with serving({"/health": (200, "<html>a shop</html>")}) as address:
            told = told_by(f"http://{address}")
        assert told == (
            f"{EITHER} must be an MLflow server, got http://{address}, "
            f"which answers /health with HTTP 200, not as MLflow; {ADVICE}"
        )

    def test_a_server_that_is_merely_healthy(self) -> None:
        with serving({"/health": (200, "OK"), SEARCH: (200, "<html>a shop</html>")}) as address:
            told = told_by(f"http://{address}")
        assert told == (
            f"{EITHER} must be an MLflow server, got http://{address}, "
            f"which answers a search for experiments with HTTP 200, not as MLflow; {ADVICE}"
        )

    def test_a_server_that_is_down_behind_its_proxy_is_not_retried_for_minutes(self) -> None:
        with serving({"/health": (503, "no backend")}) as address:
            start = time.monotonic()
            told = told_by(f"http://{address}")
            assert time.monotonic() - start < 5
        assert told == (
            f"{EITHER} must be an MLflow server, got http://{address}, "
            f"which answers /health with HTTP 503, not as MLflow; {ADVICE}"
        )

    @pytest.mark.parametrize("status", [401, 403])
    def test_refused_credentials(self, status: int) -> None:
        with serving({"/health": (200, "OK"), SEARCH: (status, "You are not authenticated")}) as address:
            told = told_by(f"http://ann:pa55@{address}")
        assert told == (
            f"{EITHER} must be an MLflow server that lets you in, got http://{address}, "
            f"which refuses access (HTTP {status}); "
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        )

    def test_mlflow(self) -> None:
        with serving({"/health": (200, "OK"), SEARCH: (200, "{}")}) as address:
            check_tracking(f"http://{address}")

    def test_a_database_server_that_is_not_there(self) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{listener.getsockname()[1]}"
            told = told_by(f"postgresql://ann:pa55@{address}/mlflow")
        assert told == (
            f"{EITHER} must be a database that answers, got postgresql://{address}/mlflow, "
            f"which cannot be reached (Connection refused); {ADVICE}"
        )

    def test_a_database_whose_driver_is_not_installed(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address = f"127.0.0.1:{listener.getsockname()[1]}"
            told = told_by(f"mssql://ann:pa55@{address}/mlflow")
        assert told == (
            f"{EITHER} must be a database whose driver is installed, got mssql://{address}/mlflow, which lacks "
            f"it (No module named 'pyodbc'); install dvt-platform[server], and write "
            f"postgresql+psycopg:// for PostgreSQL"
        )


class TestCheckSqlite:
    advice = "free or create it, or name another"

    def test_folders_and_schema_are_made_once_and_quietly(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        before = dict(os.environ)
        check_tracking(f"sqlite:///{tmp_path}/new/runs/mlflow.db")
        check_tracking(f"sqlite:///{tmp_path}/new/runs/mlflow.db")
        assert {path.name for path in (tmp_path / "new" / "runs").iterdir()} == {"mlflow.db", "mlartifacts"}
        assert [path.name for path in tmp_path.iterdir()] == ["new"]  # no mlruns in the current folder
        assert capfd.readouterr() == ("", "")
        assert dict(os.environ) == before

    def test_a_folder_that_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        uri = f"sqlite:///{tmp_path}/file/mlflow.db"
        assert told_by(uri) == (
            f"{EITHER} must be a SQLite file that can be written, got {uri}, "
            f"which cannot (Not a directory); {self.advice}"
        )

    def test_a_folder_in_the_file_s_place(self, tmp_path: Path) -> None:
        (tmp_path / "mlflow.db").mkdir()
        uri = f"sqlite:///{tmp_path}/mlflow.db"
        assert told_by(uri) == (
            f"{EITHER} must be a SQLite file that can be written, got {uri}, "
            f"which cannot (unable to open database file); {self.advice}"
        )

    def test_another_kind_of_file(self, tmp_path: Path) -> None:
        (tmp_path / "mlflow.db").write_text("a diary\n" * 1000)
        uri = f"sqlite:///{tmp_path}/mlflow.db"
        assert told_by(uri) == (
            f"{EITHER} must be a SQLite file that can be written, got {uri}, "
            f"which cannot (file is not a database); {self.advice}"
        )

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
    def test_a_file_without_permission(self, tmp_path: Path) -> None:
        path = tmp_path / "mlflow.db"
        sqlite3.connect(path).close()
        path.chmod(0o400)
        assert "which cannot (attempt to write a readonly database)" in told_by(f"sqlite:///{path}")
