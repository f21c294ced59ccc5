"""A headless Chromium of a test's own, driven over its DevTools protocol; it talks to this host alone."""

from __future__ import annotations

import base64
import itertools
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import anyio

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-port=0"),
)
START_TIMEOUT_S = 60.0


class Page:
    """One tab."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse[bool]) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self.complaints: list[str] = []
        """What the browser objected to: errors of scripts, things the page's policy forbids."""

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Do one thing of the DevTools protocol and return what it answered."""
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            message: dict[str, Any] = await self._socket.receive_json()
            if message.get("method") in {"Runtime.exceptionThrown", "Log.entryAdded"}:
                self.complaints.append(str(message["params"]))
            if message.get("id") == number:
                assert "error" not in message, message["error"]
                result: dict[str, Any] = message["result"]
                return result

    async def open(self, url: str) -> None:
        """Go to a page, and note from then on what the browser objects to."""
        for domain in ("Runtime", "Log", "Page"):
            await self.call(f"{domain}.enable")
        await self.call("Page.navigate", url=url)
        await self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    async def run(self, script: str) -> Any:
        """Return the value of an expression."""
        done = await self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    async def until(self, script: str, timeout_s: float = 30) -> Any:
        """Wait until an expression is true, and return its value."""
        with anyio.fail_after(timeout_s):
            while not (value := await self.run(script)):  # noqa: ASYNC110 -- it is in another process
                await anyio.sleep(0.05)
            return value

    async def press(self, key: str) -> None:
        """Press and release a key."""
        for kind in ("keyDown", "keyUp"):
            code = {"windowsVirtualKeyCode": {"Tab": 9, "Enter": 13}[key]}
            text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
            await self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, **code, **text)

    async def read_accessibility(self) -> list[tuple[str, str]]:
        """Return what a screen reader is given: the role and the name of everything that has both."""
        nodes = (await self.call("Accessibility.getFullAXTree"))["nodes"]
        return [
            (node["role"]["value"], node["name"]["value"])
            for node in nodes
            if not node.get("ignored") and node.get("role") and node.get("name", {}).get("value")
        ]

    async def look(self, width: int, height: int, *, is_dark: bool = False) -> None:
        """Be a window of this size."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])

    async def shoot(self, path: Path) -> None:
        """Save what the window shows as a PNG."""
        done = await self.call("Page.captureScreenshot", format="png")
        await anyio.Path(path).write_bytes(base64.b64decode(done["data"]))


@asynccontextmanager
async def open_page(directory: Path) -> AsyncIterator[Page]:
    """Start a browser with an empty profile below ``directory`` and give its one tab."""
    program = next(found for name in PROGRAMS if (found := shutil.which(name)))
    profile = directory / "profile"
    with (directory / "chromium.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: ASYNC220 -- returns at once
            [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"], stdout=log, stderr=log
        )
    try:
        port = await _read_port(profile / "DevToolsActivePort")
        async with aiohttp.ClientSession() as http:
            async with http.get(f"http://127.0.0.1:{port}/json") as answer:
                tabs = await answer.json()
            url = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
            async with http.ws_connect(url, max_msg_size=0) as socket:
                yield Page(socket)
    finally:
        process.kill()
        process.wait()


async def _read_port(path: Path) -> int:
    with anyio.fail_after(START_TIMEOUT_S):
        while True:
            if await anyio.Path(path).exists():
                lines = (await anyio.Path(path).read_text()).splitlines()
                if lines:
                    return int(lines[0])
            await anyio.sleep(0.05)
