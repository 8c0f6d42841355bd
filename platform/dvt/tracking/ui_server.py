"""The server of `dvt ui`: a page, its style and script, and the runs' fronts as JSON, for this machine alone.

It only reads. It answers on the loopback address and only to who calls it by that name: another site that a person's
browser visits can neither read from it nor name it by a domain of its own (DNS rebinding).
"""

import json
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from dvt.config import ConfigError, Problem
from dvt.tracking.errors import TrackingError
from dvt.tracking.ui_runs import UiRuns

HOST = "127.0.0.1"
FOLDER = Path(__file__).with_name("ui")
FILES = {  # all that is served from disk, by its address
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/chart.js": ("chart.js", "text/javascript; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
RUNS = "/api/runs"
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class UiServer(ThreadingHTTPServer):
    """Serves the page; `serve_forever` runs it, in as many threads as there are requests.

    Args:
        runs: What the page may show.
        port: Where to listen; 0 takes a free port.
        setting: What the page needs to know besides runs, as JSON's own types.

    Raises:
        ConfigError: If the port is taken.
    """

    daemon_threads = True

    def __init__(self, runs: UiRuns, port: int = 0, setting: dict[str, Any] | None = None) -> None:
        self.runs, self.setting = runs, setting or {}
        try:
            super().__init__((HOST, port), _Handler)
        except (OSError, OverflowError) as error:
            told = getattr(error, "strerror", None) or error
            raise ConfigError([Problem("--port", f"must be free, got {port} ({told}); choose another")]) from error

    @property
    def url(self) -> str:
        """Where a browser finds it."""
        return f"http://{HOST}:{self.server_port}/"

    @property
    def names(self) -> tuple[str, ...]:
        """What a request may call it."""
        return tuple(f"{name}:{self.server_port}" for name in (HOST, "localhost"))


class _Handler(BaseHTTPRequestHandler):
    """Answers one connection; anything but GET is refused by the parent class."""

    server: UiServer
    protocol_version = "HTTP/1.1"
    timeout = 60  # seconds that a connection may be idle

    def do_GET(self) -> None:
        if self.headers.get("Host") not in self.server.names:
            self._refuse(HTTPStatus.MISDIRECTED_REQUEST, f"the page must be asked for at {self.server.url}")
        elif self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin") and self.path != "/":
            self._refuse(HTTPStatus.FORBIDDEN, "only the page itself may ask for this")
        else:
            self._answer(urlsplit(self.path).path)

    def _answer(self, path: str) -> None:
        if path in FILES:
            name, kind = FILES[path]
            self._send(HTTPStatus.OK, (FOLDER / name).read_bytes(), kind)
            return
        try:
            if path == RUNS:
                self._send_json(HTTPStatus.OK, {"runs": self.server.runs.rows(), **self.server.setting})
                return
            key = unquote(path.removeprefix(f"{RUNS}/")) if path.startswith(f"{RUNS}/") else None
            content = None if key is None else self.server.runs.content(key)
        except (ConfigError, TrackingError) as error:
            self._refuse(HTTPStatus.BAD_GATEWAY, str(error))
            return
        if content is not None:
            self._send_json(HTTPStatus.OK, content)
        elif key is not None:
            self._refuse(HTTPStatus.NOT_FOUND, f"the run must be one of those listed, got {key!r}")
        else:
            self._refuse(HTTPStatus.NOT_FOUND, f"there is nothing at {path}")

    def _refuse(self, status: HTTPStatus, sentence: str) -> None:
        self._send_json(status, {"error": sentence})

    def _send_json(self, status: HTTPStatus, content: dict[str, Any]) -> None:
        told = json.dumps(content, allow_nan=False, separators=(",", ":"))
        self._send(status, told.encode(), "application/json")

    def _send(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in {**_HEADERS, "Content-Type": kind, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(body)
        except (TimeoutError, ConnectionError):  # the reader went away
            self.close_connection = True

    def version_string(self) -> str:
        """What it says it is: no versions."""
        return "dvt"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing; a person watches the page, not the terminal."""
