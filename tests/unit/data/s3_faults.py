"""A small S3 server inside the test's own process, which fails as it is told to."""

import contextlib
import hashlib
import re
import socket
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar, Literal
from urllib.parse import parse_qs, unquote, urlsplit

BUCKET = "images"
PAGE = 2  # objects in one answer to a list
KEY, SECRET, TOKEN = "AKIAPLANTEDKEY", "planted/secret", "planted-token"

Fault = Literal["busy", "slow-down", "internal", "reset", "cut", "hang", "denied", "bad-signature", "invalid"]
ERRORS: dict[str, tuple[int, str]] = {
    "busy": (503, "ServiceUnavailable"),
    "slow-down": (503, "SlowDown"),
    "internal": (500, "InternalError"),
    "denied": (403, "AccessDenied"),
    "bad-signature": (403, "SignatureDoesNotMatch"),
    "invalid": (400, "InvalidRequest"),
}


class FaultyS3:
    """What the server holds, how it fails next, and what it was asked."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.faults: list[Fault] = []  # of the next requests, in order
        self.always: Fault | None = None  # of all after those
        self.asked: list[str] = []  # method, key and range of each request
        self.regions: set[str] = set()  # that requests were signed for
        self.released = threading.Event()  # ends what hangs
        self.address = ""

    def next_fault(self) -> Fault | None:
        return self.faults.pop(0) if self.faults else self.always


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: ClassVar[FaultyS3]

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
        span = self.headers.get("Range", "")
        self.state.asked.append(f"{self.command} {key} {span.removeprefix('bytes=')}".strip())
        self.state.regions.update(re.findall(r"Credential=[^/]*/\d+/([^/]*)/s3", self.headers.get("Authorization", "")))
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.state.next_fault()
        if fault == "reset":
            # Closing with nothing lingering sends a reset.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
        elif fault == "hang":
            self.state.released.wait(20)
            self.close_connection = True
        elif fault in ERRORS:
            self._fail(*ERRORS[fault])
        elif bucket != BUCKET:
            self._fail(404, "NoSuchBucket")
        elif self.command == "PUT":
            self.state.objects[key] = content
            self._write(200, "")
        elif not key:
            self._list(parse_qs(parts.query))
        elif key not in self.state.objects:
            self._fail(404, "NoSuchKey")
        else:
            self._send(self.state.objects[key], span, is_cut=fault == "cut")

    def _send(self, content: bytes, span: str, *, is_cut: bool) -> None:
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", span)
        part = content
        if match is not None:
            start, end = int(match[1]), int(match[2] or len(content)) + 1
            part = content[start:end]
            if not part:
                self._fail(416, "InvalidRange")
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{start + len(part) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("ETag", f'"{hashlib.md5(content).hexdigest()}"')
        self.send_header("Last-Modified", "Fri, 27 Nov 2026 16:00:00 GMT")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(part[: len(part) // 2] if is_cut else part)
        self.close_connection = is_cut

    def _list(self, query: dict[str, list[str]]) -> None:
        prefix, (after,) = query.get("prefix", [""])[0], query.get("continuation-token", [""])
        keys = [key for key in sorted(self.state.objects) if key.startswith(prefix) and key > after]
        entries = "".join(
            f"<Contents><Key>{key}</Key><Size>{len(self.state.objects[key])}</Size>"
            f"<ETag>&quot;{hashlib.md5(self.state.objects[key]).hexdigest()}&quot;</ETag></Contents>"
            for key in keys[:PAGE]
        )
        more = f"<NextContinuationToken>{keys[PAGE - 1]}</NextContinuationToken>" if len(keys) > PAGE else ""
        truncated = f"<IsTruncated>{'true' if more else 'false'}</IsTruncated>"
        self._write(200, f"<ListBucketResult>{truncated}{more}{entries}</ListBucketResult>")

    def _fail(self, status: int, code: str) -> None:
        """As S3 does, with the caller's key in its words."""
        sent = self.headers.get("Authorization", "")
        self._write(status, f"<Error><Code>{code}</Code><Message>{sent}</Message></Error>")

    def _write(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text.encode())


@contextlib.contextmanager
def faulty_s3() -> Iterator[FaultyS3]:
    """The server, while the context lasts."""
    state = FaultyS3()
    handler = type("BoundHandler", (Handler,), {"state": state})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        state.address = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield state
        finally:
            state.released.set()
            server.shutdown()
            thread.join()


def environment(state: FaultyS3) -> dict[str, str]:
    """The AWS settings that reach it."""
    return {
        "AWS_ENDPOINT_URL": state.address,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_SESSION_TOKEN": TOKEN,
        "AWS_REGION": "eu-test-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "none",
        "AWS_SHARED_CREDENTIALS_FILE": "none",
    }
