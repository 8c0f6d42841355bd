"""The page's server: what it serves, and whom it refuses."""

import http.client
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from dvt.config import ConfigError
from dvt.tracking.errors import TrackingError
from dvt.tracking.ui_runs import UiRuns
from dvt.tracking.ui_server import FILES, UiServer


class _Runs(UiRuns):
    """One run, and one that cannot be read."""

    def rows(self) -> list[dict[str, Any]]:
        return [{"key": "one"}]

    def content(self, key: str) -> dict[str, Any] | None:
        if key == "broken":
            raise TrackingError("MLflow must answer, got no answer")
        return {"key": key} if key == "one" else None


@pytest.fixture(scope="module")
def server() -> Iterator[UiServer]:
    with UiServer(_Runs(None), setting={"options": "--tracking-uri x"}) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def ask(server: UiServer, path: str, method: str = "GET", **headers: str) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, answer.headers, content


def error_of(content: bytes) -> str:
    told: str = json.loads(content)["error"]
    return told


def test_the_page_and_its_parts(server: UiServer) -> None:
    for path, (_, kind) in FILES.items():
        status, headers, content = ask(server, path)
        assert (status, headers["Content-Type"]) == (200, kind)
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert b"://" not in content.replace(b"http://www.w3.org/2000/svg", b"")  # a name, not a place
    assert server.server_address[0] == "127.0.0.1"


def test_runs(server: UiServer) -> None:
    assert json.loads(ask(server, "/api/runs")[2]) == {"runs": [{"key": "one"}], "options": "--tracking-uri x"}
    assert json.loads(ask(server, "/api/runs/one?x=1")[2]) == {"key": "one"}


@pytest.mark.parametrize(
    ("path", "status", "sentence"),
    [
        ("/api/runs/two", 404, "the run must be one of those listed, got 'two'"),
        ("/api/runs/..%2F..%2Fetc%2Fpasswd", 404, "the run must be one of those listed, got '../../etc/passwd'"),
        ("/../ui_server.py", 404, "there is nothing at /../ui_server.py"),
        ("/%2e%2e/ui_server.py", 404, "there is nothing at /%2e%2e/ui_server.py"),
        ("/page.html", 404, "there is nothing at /page.html"),
        ("/api/runs/broken", 502, "MLflow must answer, got no answer"),
    ],
)
def test_what_is_not_there(server: UiServer, path: str, status: int, sentence: str) -> None:
    got, _, content = ask(server, path)
    assert (got, error_of(content)) == (status, sentence)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1"])
def test_another_name_is_refused(server: UiServer, host: str) -> None:
    status, _, content = ask(server, "/api/runs", Host=host.format(port=server.server_port))
    assert (status, error_of(content)) == (421, f"the page must be asked for at {server.url}")
    assert ask(server, "/", Host=f"localhost:{server.server_port}")[0] == 200


def test_another_site_is_refused(server: UiServer) -> None:
    for site in ("cross-site", "same-site"):
        status, _, content = ask(server, "/api/runs", Sec_Fetch_Site=site)
        assert (status, error_of(content)) == (403, "only the page itself may ask for this")
    assert ask(server, "/api/runs", Sec_Fetch_Site="same-origin")[0] == 200
    assert ask(server, "/", Sec_Fetch_Site="cross-site")[0] == 200  # a link to the page is none of these


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS"])
def test_nothing_can_be_written(server: UiServer, method: str) -> None:
    assert ask(server, "/api/runs", method)[0] == 501


def test_a_port_that_is_taken(server: UiServer) -> None:
    with pytest.raises(ConfigError) as taken:
        UiServer(_Runs(None), server.server_port)
    told = f"--port must be free, got {server.server_port} (Address already in use); choose another"
    assert str(taken.value) == told
