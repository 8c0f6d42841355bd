"""MLflow's web page on one run: the command that opens it, and what that command does.

Behind a tracking server the page is there already. A database alone has none, so MLflow's own server is started on a
free port of this machine and ended again.
"""

import http.client
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from dvt.tracking.address import artifact_folder
from dvt.tracking.errors import TrackingError
from dvt.tracking.lookup import find_run
from dvt.tracking.runs import RunRecord

_HOST = "127.0.0.1"
_START_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 10.0
_POLL_S = 0.2


def page_command(record: RunRecord) -> str:
    """The shell command that opens MLflow's page on a run: one line, without credentials."""
    return shlex.join([_program(), "page", record.run_id, "--tracking-uri", record.address])


def ui_command(record: RunRecord) -> str:
    """The shell command that opens the page of `dvt ui` on a run's front: one line, without credentials."""
    return shlex.join([_program(), "ui", record.run_id, "--tracking-uri", record.address])


def open_page(
    uri: str, run_id: str, *, show: Callable[[str], None], port: int | None = None, browser: bool = True
) -> None:
    """Open MLflow's page on a run; where a server had to be started for it, stay until Ctrl-C and end the server.

    Args:
        uri: The tracking address.
        run_id: The run.
        show: Called with the page's address once it answers, so that the caller can print it.
        port: Port of a server that has to be started; None takes a free one.
        browser: Whether to open a browser too, where there is a desktop.

    Raises:
        TrackingError: If the run is not there or the server does not start.
    """
    with interrupted_by_sigterm(), run_page(uri, run_id, port=port) as (url, server):
        show(url)
        if browser and has_desktop():
            webbrowser.open(url)
        if server is not None:
            with suppress(KeyboardInterrupt):
                server.wait()


@contextmanager
def run_page(
    uri: str, run_id: str, *, port: int | None = None
) -> Iterator[tuple[str, "subprocess.Popen[bytes] | None"]]:
    """The address of a run's page, which answers inside the `with`.

    Args:
        uri: The tracking address.
        run_id: The run.
        port: Port of a server that has to be started; None takes a free one.

    Yields:
        The address, and the server that was started for it, if one was.

    Raises:
        TrackingError: If the run is not there or the server does not start.
    """
    record = find_run(uri, run_id)
    if uri.startswith(("http://", "https://")):
        yield f"{record.address.rstrip('/')}/{record.page_path}", None
        return
    with tempfile.TemporaryFile() as log:
        port = _free_port(port)
        server = _start_server(uri, port, log)
        try:
            _wait_until_up(server, port, log)
            yield f"http://{_HOST}:{port}/{record.page_path}", server
        finally:
            _stop(server)


def _start_server(uri: str, port: int, log: IO[bytes]) -> "subprocess.Popen[bytes]":
    # By environment, because a command line is for everyone on the machine to see and the address may hold a password.
    env = {name: value for name, value in os.environ.items() if name not in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID")}
    env |= {"MLFLOW_BACKEND_STORE_URI": uri, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    command = [sys.executable, "-m", "mlflow", "server", "--host", _HOST, "--port", str(port), "--workers", "1"]
    folder = artifact_folder(uri)
    if folder is not None:
        command += ["--artifacts-destination", str(folder)]
    # A session of its own, so that Ctrl-C reaches us alone and all of the server's processes can be ended.
    return subprocess.Popen(
        command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    )


def _wait_until_up(server: "subprocess.Popen[bytes]", port: int, log: IO[bytes]) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            log.seek(0)
            lines = log.read().decode(errors="replace").strip().splitlines()
            told = lines[-1].strip() if lines else "without a word"
            raise TrackingError(
                f"MLflow's server must start on port {port}, got exit code {server.returncode} ({told})"
            )
        if _is_up(port):
            return
        time.sleep(_POLL_S)
    raise TrackingError(f"MLflow's server must answer on port {port} within {_START_TIMEOUT_S:g} s, got no answer")


def _is_up(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{_HOST}:{port}/health", timeout=_STOP_TIMEOUT_S) as answer:
            return bool(answer.read() == b"OK")
    except (OSError, http.client.HTTPException):  # urllib's own errors are OSErrors
        return False


def _stop(server: "subprocess.Popen[bytes]") -> None:
    """End the server and the processes that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        with suppress(subprocess.TimeoutExpired):
            server.wait(_STOP_TIMEOUT_S)


def _free_port(wanted: int | None) -> int:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # ports of servers that just ended are free
        try:
            listener.bind((_HOST, wanted or 0))
        except OSError as error:
            raise TrackingError(f"--port must be free, got {wanted} ({error.strerror}); choose another") from error
        return int(listener.getsockname()[1])


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Let a termination end us as Ctrl-C does; else a server that we started would outlive us."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def has_desktop() -> bool:
    """Whether a browser that is started here can be seen."""
    return sys.platform == "darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))


def _program() -> str:
    """How a person calls this installation's `dvt` from where they are."""
    beside = Path(sys.executable).with_name("dvt")
    if shutil.which("dvt") is not None or not beside.is_file():
        return "dvt"
    here = Path.cwd()
    return str(beside.relative_to(here) if beside.is_relative_to(here) else beside)
