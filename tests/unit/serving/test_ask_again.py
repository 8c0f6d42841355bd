"""Requests asked again where nobody answered: an application here is a list of what it does, call after call."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from dvt.serving.ask_again import REPEATABLE, AskAgain

Message = dict[str, Any]
Turn = Callable[[Callable[[Message], Awaitable[None]]], Awaitable[None]]

BODY = (b"some ", b"image")
OURS = [(REPEATABLE[0].encode(), REPEATABLE[1].encode())]


def start(status: int = 200) -> Message:
    return {"type": "http.response.start", "status": status, "headers": []}


def piece(body: bytes, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}


def answers(*messages: Message) -> Turn:
    """Sends these, and no more: without any it is what a proxy does whose replica died."""

    async def turn(send: Callable[[Message], Awaitable[None]]) -> None:
        for message in messages:
            await send(message)

    return turn


class Application:
    """Does the next turn at each request, after it has read the body; the last one again and again."""

    def __init__(self, *turns: Turn, is_repeatable: bool = True, silent_options: int = 0) -> None:
        self.turns = list(turns)
        self.is_repeatable = is_repeatable
        self.bodies: list[bytes] = []
        self.num_options = 0
        self.silent_options = silent_options  # as of a replica that died too

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, message = b"", await receive()
        while message["type"] == "http.request":
            body += message["body"]
            if not message["more_body"]:
                break
            message = await receive()
        assert scope["root_path"] == "", "a request must come as it came first"
        scope["root_path"] = "/dvt"  # as a proxy of Ray does
        if scope["method"] == "OPTIONS":
            self.num_options += 1
            if self.num_options <= self.silent_options:
                return
            await send({**start(204), "headers": OURS if self.is_repeatable else []})
            await send(piece(b""))
            return
        self.bodies.append(body)
        await (self.turns.pop(0) if len(self.turns) > 1 else self.turns[0])(send)


def ask(application: Application, *, leaves: bool = False, **settings: Any) -> list[Message]:
    """What the client of one request gets."""
    got: list[Message] = []
    sent = [{"type": "http.request", "body": BODY[0], "more_body": True}]
    sent.append(
        {"type": "http.disconnect"} if leaves else {"type": "http.request", "body": BODY[1], "more_body": False}
    )

    async def receive() -> Message:
        return sent.pop(0) if sent else await asyncio.Future()

    async def send(message: Message) -> None:
        got.append(message)

    async def run() -> None:
        async with asyncio.timeout(5):
            scope = {"type": "http", "method": "POST", "path": "/dvt", "root_path": "", "headers": []}
            await AskAgain(application, **settings)(scope, receive, send)

    asyncio.run(run())
    return got


DIES, DIES_AFTER_THE_HEAD = answers(), answers(start())
WHOLE = answers(start(), piece(b"label"))


def test_an_answer_is_passed_on() -> None:
    application = Application(WHOLE)
    assert ask(application) == [start(), piece(b"label")]
    assert (application.bodies, application.num_options) == ([b"some image"], 0)


@pytest.mark.parametrize("first", [DIES, DIES_AFTER_THE_HEAD])
def test_where_none_came_the_same_is_asked_again(first: Turn) -> None:
    application = Application(first, DIES, WHOLE)
    assert ask(application) == [start(), piece(b"label")]
    assert application.bodies == [b"some image"] * 3


def test_a_replica_that_cannot_tell_is_waited_for() -> None:
    application = Application(DIES, WHOLE, silent_options=2)
    assert ask(application) == [start(), piece(b"label")]
    assert (len(application.bodies), application.num_options) == (2, 3)


def test_an_error_is_an_answer() -> None:
    application = Application(answers(start(500), piece(b"a bug")), WHOLE)
    assert ask(application) == [start(500), piece(b"a bug")]


@pytest.mark.parametrize(("first", "wanted"), [(DIES, []), (DIES_AFTER_THE_HEAD, [start()])])
def test_other_applications_are_not_asked_again(first: Turn, wanted: list[Message]) -> None:
    application = Application(first, WHOLE, is_repeatable=False)
    assert ask(application) == wanted
    assert (len(application.bodies), application.num_options) == (1, 1)


def test_what_the_client_has_seen_of_an_answer_stands() -> None:
    pieces = (start(), piece(b"first", more=True))
    application = Application(answers(*pieces), WHOLE)
    assert ask(application) == list(pieces)
    assert len(application.bodies) == 1


def test_a_client_that_left_is_not_asked_for() -> None:
    application = Application(DIES, WHOLE)
    assert ask(application, leaves=True) == []
    assert application.bodies == [b"some "]


@pytest.mark.parametrize(("limit", "times"), [(10, 2), (9, 1)])
def test_a_body_is_kept_up_to_the_limit(limit: int, times: int) -> None:
    application = Application(DIES, WHOLE)
    ask(application, max_body_bytes=limit)
    assert application.bodies == [b"some image"] * times


def test_patience_ends() -> None:
    application = Application(DIES)
    got = ask(application, patience_s=0.0)
    assert len(application.bodies) == 2, "who came back is asked, however long that took"
    assert got[0]["status"] == 503
    sentence = "a replica must answer within 0 s, got none that did; ask again later"
    assert json.loads(got[1]["body"]) == {"error": sentence}


def test_patience_ends_where_none_can_tell() -> None:
    application = Application(DIES, silent_options=1)
    assert ask(application, patience_s=0.0) == []
    assert len(application.bodies) == 1


def test_websockets_pass_through() -> None:
    seen: list[Any] = []

    async def application(*given: Any) -> None:
        seen.append(given)

    given: Any = ({"type": "websocket"}, None, None)
    asyncio.run(AskAgain(application)(*given))
    assert seen == [given]
