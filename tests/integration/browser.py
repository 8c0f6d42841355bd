"""Headless Chromium, driven over its DevTools protocol: a page is loaded, looked at and worked as a person does."""

import asyncio
import base64
import json
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.integration.programs import needed_program

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--remote-debugging-port=0",
)
_TIMEOUT_S = 60.0
_POLL_S = 0.05


class Browser:
    """One tab.

    Attributes:
        complaints: What the console has told of errors and warnings.
        addresses: Everything that was asked for over the network.
    """

    def __init__(self, url: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._number = 0
        self.complaints: list[str] = []
        self.addresses: list[str] = []
        self._session, self._socket = self._loop.run_until_complete(_connect(url))
        for domain in ("Runtime", "Log", "Network", "Page"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        self._loop.run_until_complete(self._session.close())
        self._loop.close()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol, keeping what events tell meanwhile."""
        return self._loop.run_until_complete(asyncio.wait_for(self._call(method, parameters), _TIMEOUT_S))

    def see(self, expression: str) -> Any:
        """The value of an expression of the page's, awaited if it is a promise."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, expression: str) -> Any:
        """Wait until an expression is true; its value."""
        deadline = time.monotonic() + _TIMEOUT_S
        while not (value := self.see(expression)):
            assert time.monotonic() < deadline, f"never true: {expression}"
            time.sleep(_POLL_S)
        return value

    def press(self, key: str, code: int) -> None:
        """Press a key and let it go."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def show(self, width: int, height: int, scheme: str = "light") -> None:
        """Give the page a size and a colour scheme."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def picture(self, path: Path, is_whole: bool = False) -> None:
        """Keep what is shown as PNG."""
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=is_whole)["data"]
        path.write_bytes(base64.b64decode(data))

    async def _call(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": parameters})
        while True:
            told = json.loads((await self._socket.receive()).data)
            if told.get("id") == self._number:
                assert "error" not in told, (method, told["error"])
                return told["result"]  # type: ignore[no-any-return]
            self._keep(told.get("method"), told.get("params", {}))

    def _keep(self, event: str | None, told: dict[str, Any]) -> None:
        if event == "Network.requestWillBeSent":
            self.addresses.append(told["request"]["url"])
        elif event == "Runtime.exceptionThrown" or (event == "Log.entryAdded" and told["entry"]["level"] != "verbose"):
            self.complaints.append(json.dumps(told))
        elif event == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning", "assert"):
            self.complaints.append(json.dumps(told["args"]))


@contextmanager
def running_browser(profile: Path) -> Iterator[Browser]:
    """A browser with an empty profile, ended with the context."""
    program = needed_program("chromium", "chromium")
    with (profile / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, *_FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        browser = Browser(_tab(profile, process))
        try:
            yield browser
        finally:
            browser.close()
    finally:
        process.send_signal(signal.SIGTERM)  # it ends its own processes
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _tab(profile: Path, process: "subprocess.Popen[bytes]") -> str:
    """The address of the first tab, once there is one."""
    told = profile / "DevToolsActivePort"
    deadline = time.monotonic() + _TIMEOUT_S
    while not (told.is_file() and told.read_text().count("\n")):
        assert process.poll() is None, (profile / "log").read_text()[-2000:]
        assert time.monotonic() < deadline, "chromium does not tell its port"
        time.sleep(_POLL_S)
    port = told.read_text().split("\n")[0]
    while time.monotonic() < deadline:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=_TIMEOUT_S) as answer:
            for target in json.load(answer):
                if target["type"] == "page":
                    return str(target["webSocketDebuggerUrl"])
        time.sleep(_POLL_S)
    raise AssertionError("chromium shows no page")


async def _connect(url: str) -> tuple[aiohttp.ClientSession, aiohttp.ClientWebSocketResponse]:
    session = aiohttp.ClientSession()
    return session, await session.ws_connect(url, max_msg_size=0)
