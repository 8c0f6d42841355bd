import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import webbrowser
from pathlib import Path

import pytest

from dvt.tracking import RunRecord, TrackingError, open_page, open_run, page_command, run_page
from dvt.tracking.git import package_folder
from tests.unit.tracking.tiny import tiny_recipe

OPENER = """
import sys
from dvt.tracking import open_page
open_page(sys.argv[1], sys.argv[2], show=lambda url: print(url, flush=True), browser=False)
print("ended", flush=True)
"""


@pytest.fixture(scope="module")
def record(store: str) -> RunRecord:
    return open_run(tiny_recipe(), tracking_uri=store, run_name="page")


def answers(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


class TestCommand:
    record = RunRecord("sqlite:////my runs/mlflow.db", "1", "abc")

    def test_it_can_be_pasted_into_a_shell(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
        assert page_command(self.record) == "dvt page abc --tracking-uri 'sqlite:////my runs/mlflow.db'"
        assert shlex.split(page_command(self.record))[-1] == self.record.tracking_uri

    def test_it_names_the_environment_that_is_not_on_the_path(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr("shutil.which", lambda name: None)
        folder = tmp_path / ".venv" / "bin"
        folder.mkdir(parents=True)
        monkeypatch.setattr(sys, "executable", str(folder / "python"))
        assert page_command(self.record).startswith("dvt page abc")  # no such installation: a cluster's node
        (folder / "dvt").write_text("")
        monkeypatch.chdir(tmp_path)
        assert page_command(self.record).startswith(".venv/bin/dvt page abc")
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert page_command(self.record).startswith(f"{folder}/dvt page abc")

    def test_it_holds_no_password(self) -> None:
        assert page_command(RunRecord("http://ann:pa55@host", "1", "abc")).endswith("--tracking-uri http://host")


class TestErrors:
    def test_an_unknown_run(self, store: str) -> None:
        with pytest.raises(TrackingError) as caught, run_page(store, "nope"):
            pass
        assert str(caught.value) == f"the run must be known to MLflow at {store}, got 'nope'"

    def test_a_file_that_is_not_there_is_not_made(self, tmp_path: Path) -> None:
        uri = f"sqlite:///{tmp_path}/mlflow.db"
        with pytest.raises(TrackingError) as caught, run_page(uri, "abc"):
            pass
        assert str(caught.value) == f"--tracking-uri must name MLflow's SQLite file, got {uri}, where there is none"
        assert list(tmp_path.iterdir()) == []

    def test_a_port_in_use(self, record: RunRecord) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            port = listener.getsockname()[1]
            with pytest.raises(TrackingError) as caught, run_page(record.tracking_uri, record.run_id, port=port):
                pass
        assert str(caught.value) == f"--port must be free, got {port} (Address already in use); choose another"

    def test_a_server_that_does_not_start(
        self, record: RunRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        program = tmp_path / "python"
        program.write_text("#!/bin/sh\necho no flask here >&2\nexit 3\n")
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))
        with pytest.raises(TrackingError) as caught, run_page(record.tracking_uri, record.run_id, port=0):
            pass
        assert str(caught.value).startswith("MLflow's server must start on port ")
        assert str(caught.value).endswith(", got exit code 3 (no flask here)")


@pytest.mark.slow
class TestServer:
    def test_the_page_answers_while_it_is_open_and_not_after(
        self, record: RunRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with run_page(record.tracking_uri, record.run_id) as (url, server):
            assert server is not None
            port = int(url.removeprefix("http://127.0.0.1:").partition("/")[0])
            assert url == f"http://127.0.0.1:{port}/#/experiments/{record.experiment_id}/runs/{record.run_id}"
            with urllib.request.urlopen(url) as page:
                assert b"<title>MLflow</title>" in page.read()
            get_run = f"http://127.0.0.1:{port}/api/2.0/mlflow/runs/get?run_id={record.run_id}"
            with urllib.request.urlopen(get_run) as answer:
                assert b'"tiny"' in answer.read()
            artifact = f"http://127.0.0.1:{port}/get-artifact?path=config.yaml&run_id={record.run_id}"
            with urllib.request.urlopen(artifact) as answer:
                assert answer.read().startswith(b"name: tiny")
        assert server.poll() is not None
        assert not answers(port)
        assert list(tmp_path.iterdir()) == []  # no mlruns, no mlartifacts where the person stands

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_an_interrupt_ends_the_server(self, record: RunRecord, number: signal.Signals) -> None:
        opener = subprocess.Popen(
            [sys.executable, "-c", OPENER, record.tracking_uri, record.run_id],
            env={"PYTHONPATH": str(package_folder().parent)},
            stdout=subprocess.PIPE,
            text=True,
            # A shell that runs the tests in the background has SIGINT ignored, which children inherit.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        try:
            assert opener.stdout is not None
            url = opener.stdout.readline()
            port = int(url.removeprefix("http://127.0.0.1:").partition("/")[0])
            assert answers(port)
            time.sleep(0.5)  # it has printed before it waits
            opener.send_signal(number)
            assert opener.stdout.read() == "ended\n"
            assert opener.wait(30) == 0
            assert not answers(port)
        finally:
            opener.kill()
            opener.communicate()

    def test_a_browser_is_opened_where_there_is_a_desktop(
        self, record: RunRecord, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shown, opened = [], []

        def interrupt(self: object) -> None:
            raise KeyboardInterrupt

        def open_browser(url: str) -> bool:
            opened.append(url)
            return True

        monkeypatch.setenv("DISPLAY", ":0")
        monkeypatch.setattr(webbrowser, "open", open_browser)
        wait = subprocess.Popen.wait
        monkeypatch.setattr(
            subprocess.Popen, "wait", lambda self, timeout=None: wait(self, timeout) if timeout else interrupt(self)
        )
        open_page(record.tracking_uri, record.run_id, show=shown.append)
        assert len(shown) == 1
        assert opened == shown
