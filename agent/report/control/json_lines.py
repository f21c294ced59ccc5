"""An answer of JSON lines to one client, which is never silent for long."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio

from agent.report.http.messages import Request, Stream

JSON_LINES = "application/x-ndjson"
KEEPALIVE_S = 10.0
"""After so long without a line of its own the answer has one that says only that it goes on."""
GOES_ON: Mapping[str, Any] = {"alive": True}


class Lines:
    """The answer under way. A line goes out whole, whoever writes at the same time."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._turn = anyio.Lock()
        self._written = anyio.Event()
        self._is_over = False

    async def write(self, line: Mapping[str, Any], *, is_last: bool = False) -> None:
        """Send one line, unless the last one was; a client that has gone away is not told.

        That it goes on may be about to be said while the answer ends, and is not said after it.
        """
        async with self._turn:
            if self._is_over:
                return
            self._is_over = is_last
            with suppress(ConnectionError):
                await write_line(self._stream, line)
        self._written.set()

    async def keep_alive(self, after_s: float) -> None:
        """Send a line whenever nothing was sent for ``after_s``, until cancelled."""
        while True:
            self._written = anyio.Event()
            with anyio.move_on_after(after_s):
                await self._written.wait()
                continue
            await self.write(GOES_ON)


async def write_line(stream: Stream, line: Mapping[str, Any]) -> None:
    """Send one JSON object and the end of its line."""
    await stream.write(json.dumps(line, default=str).encode() + b"\n")


@asynccontextmanager
async def open_lines(request: Request) -> AsyncIterator[Lines]:
    """Begin an answer of lines; within, the client hears at least every ``KEEPALIVE_S`` that it goes on."""
    lines = Lines(await request.open_stream(JSON_LINES))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lines.keep_alive, KEEPALIVE_S)
        yield lines
        tasks.cancel_scope.cancel()
