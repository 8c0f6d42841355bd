"""An S3 endpoint in front of the real server that can be told to be busy or slow; requests pass it as they are.

The server checks signatures against the host that the client named, so it can stand behind another address.
"""

import contextlib
import http.client
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

BUSY = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
TIMEOUT_S = 120


class S3Relay(ThreadingHTTPServer):
    """The endpoint.

    Attributes:
        is_busy: Whether all requests are answered by 503.
        delay_s: Seconds that each request waits before it is passed on.
        num_refused: Requests that were answered by 503.
        num_passed: Requests that were passed on.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: str, server: str) -> None:
        super().__init__((address, 0), _Request)
        self.server = urlsplit(server).netloc
        self.is_busy, self.delay_s = False, 0.0
        self.num_refused = self.num_passed = 0

    @property
    def endpoint(self) -> str:
        return f"http://{self.server_address[0]}:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: clients that are killed break their connections."""


class _Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body in one piece
    server: S3Relay

    def _pass(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.server.is_busy:
            self.server.num_refused += 1
            self._answer(503, [("Content-Type", "application/xml")], BUSY)
            return
        time.sleep(self.server.delay_s)
        self.server.num_passed += 1
        upstream = http.client.HTTPConnection(self.server.server, timeout=TIMEOUT_S)
        with contextlib.closing(upstream):
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("connection", "expect"):
                    upstream.putheader(name, value)
            upstream.endheaders(content or None)
            answer = upstream.getresponse()
            self._answer(answer.status, answer.getheaders(), answer.read())

    def handle_expect_100(self) -> bool:
        is_fine = super().handle_expect_100()
        self.wfile.flush()  # the client sends its content only then
        return is_fine

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass  # noqa: N815  http.server's names

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            is_length = name.lower() == "content-length"
            if name.lower() not in ("connection", "transfer-encoding") and not (is_length and self.command != "HEAD"):
                self.send_header(name, value)
        if self.command != "HEAD" and status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else content)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is printed."""


@contextlib.contextmanager
def running_relay(address: str, server: str) -> Iterator[S3Relay]:
    """The endpoint at an address of this machine, while the context lasts.

    Args:
        address: To listen at.
        server: The real one's endpoint.
    """
    with S3Relay(address, server) as relay:
        thread = threading.Thread(target=relay.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        thread.start()
        try:
            yield relay
        finally:
            relay.shutdown()
            thread.join()
