"""Asks an application again where the replica that had a request died with it; runs in Ray Serve's HTTP proxies.

A proxy of Ray 2.60 passes a request on once: if the replica is lost before it has answered, the client gets a 500. Here
the request is kept until the answer is whole, and is asked again where none came. That is right only for requests that
change nothing, which an application says itself: to OPTIONS it answers with the header `REPEATABLE`. Others that the
same proxies serve do not, and get what they would get without this.

A proxy finds it by an environment variable, which Ray Serve's controller is started with and hands down. Nothing but
Starlette is imported, so that proxies stay small.
"""

import asyncio
import time

from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

REPEATABLE = ("dvt-requests", "repeatable")  # a header's name and value
MAX_BODY_BYTES = 64 * 2**20  # that are kept; the ingress refuses what is longer
PATIENCE_S = 120.0  # that a replica may take to come back; starting one takes some ten seconds
CONTROLLER_OPTIONS = {
    "runtime_env": {"env_vars": {"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": f"{__name__}.middlewares"}}
}  # what `serve.start` must be given
_PAUSE_S = 0.1


def middlewares() -> list[Middleware]:
    """What Ray Serve puts around its proxies."""
    return [Middleware(AskAgain)]


class AskAgain:
    """An ASGI application that asks another one again.

    Args:
        app: The proxy. It returns without having begun an answer where a replica died.
        max_body_bytes: A request with a longer body is not asked again.
        patience_s: For how long requests are asked again.
    """

    def __init__(self, app: ASGIApp, max_body_bytes: int = MAX_BODY_BYTES, patience_s: float = PATIENCE_S) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._patience_s = patience_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; asked again it comes to the application as it came to the proxy."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        end = time.monotonic() + self._patience_s
        kept = _KeptRequest(receive, self._max_body_bytes)
        is_repeatable = False
        while True:
            answer = _Answer(send)
            await self._app(dict(scope), kept.from_its_beginning(), answer.send)  # the proxy writes into the scope
            if answer.has_begun:
                return
            if is_repeatable and time.monotonic() >= end:
                told = f"a replica must answer within {self._patience_s:g} s, got none that did; ask again later"
                await JSONResponse({"error": told}, 503)(scope, receive, send)
                return
            is_repeatable = kept.can_be_repeated and await self._is_repeatable(scope, end)
            if not is_repeatable:
                await answer.send_head()
                return

    async def _is_repeatable(self, scope: Scope, end: float) -> bool:
        """Whether the application at this address says that requests may be repeated; waits for a replica to tell."""
        told: list[Message] = []

        async def send(message: Message) -> None:
            told.append(message)

        await self._app({**scope, "method": "OPTIONS"}, _nothing_comes(), send)
        while not told and time.monotonic() < end:
            await asyncio.sleep(_PAUSE_S)
            await self._app({**scope, "method": "OPTIONS"}, _nothing_comes(), send)
        headers = [tuple(header) for message in told for header in message.get("headers", ())]
        return tuple(part.encode() for part in REPEATABLE) in headers


def _nothing_comes() -> Receive:
    """Reads an empty body; then waits, as a proxy listens on for the client's end."""
    messages: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Message:
        return messages.pop() if messages else await asyncio.Future()

    return receive


class _KeptRequest:
    """What a client sends, kept so that it can be read once more."""

    def __init__(self, receive: Receive, max_body_bytes: int) -> None:
        self._receive = receive
        self._left_bytes = max_body_bytes
        self._messages: list[Message] = []
        self._has_ended = False

    @property
    def can_be_repeated(self) -> bool:
        """Whether all of it is here, and the client still waits."""
        return self._left_bytes >= 0 and not self._has_ended

    def from_its_beginning(self) -> Receive:
        """Reads what came, then what comes."""
        position = 0

        async def receive() -> Message:
            nonlocal position
            if position < len(self._messages):
                position += 1
                return self._messages[position - 1]
            message = await self._receive()
            self._keep(message)
            position = len(self._messages)
            return message

        return receive

    def _keep(self, message: Message) -> None:
        self._has_ended |= message["type"] == "http.disconnect"
        self._left_bytes -= len(message.get("body", b""))
        if self._left_bytes >= 0:
            self._messages.append(message)
        else:
            self._messages.clear()


class _Answer:
    """Sends an answer on, its head only with the first of its body: a short one is sent whole or not at all."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._head: Message | None = None
        self.has_begun = False

    async def send(self, message: Message) -> None:
        """Send a message on."""
        if message["type"] == "http.response.start":
            self._head = message
            return
        self.has_begun = True
        await self.send_head()
        await self._send(message)

    async def send_head(self) -> None:
        """Send the head if it was held back."""
        if self._head is not None:
            head, self._head = self._head, None
            await self._send(head)
