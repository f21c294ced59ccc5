"""Serves an application at listening sockets: each connection is one exchange, and a task of its own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

import anyio
from typing_extensions import Self

from agent.report.http.app import App
from agent.report.http.exchange import Exchange
from agent.report.serving.connections import CLOSE_TIMEOUT_S, PAUSE_S, TLS_PAUSE_S, Connections, Limits
from agent.report.serving.doors import Door
from agent.report.serving.flood_log import Tally
from agent.report.serving.peer import Connection

if TYPE_CHECKING:
    import ssl

HTTP_LIMITS = Limits()
LOOK_EVERY_S = 0.02
"""Whether answers have been taken that were sent before the end."""


class Server:
    """``async with Server(app, limits, tally) as server``: one application, at sockets that come and go.

    A socket that is closed for another takes no connection along. On leaving, answers that are on the way
    have a moment to get to their end.
    """

    def __init__(self, app: App, limits: Limits, tally: Tally) -> None:
        self._app = app
        self._tally = tally
        self._connections = Connections(limits, tally)
        self._open: dict[asyncio.Task[None], Exchange] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            await self._end()
        self._connections.end_all()

    async def serve(
        self,
        listener: socket.socket,
        find_context: Callable[[], ssl.SSLContext | None] = lambda: None,
        app: App | None = None,
    ) -> None:
        """Answer at a listening socket until cancelled, then close it; ``app`` answers in the server's place.

        ``find_context`` is asked for TLS at each new connection, which keeps what it began with.
        """

        def begin(connection: Connection) -> float:
            context = find_context()
            exchange = Exchange(connection, app or self._app, self._connections, self._tally)
            task = asyncio.create_task(exchange.run(context), name=f"{self._tally.face} connection")
            self._open[task] = exchange
            task.add_done_callback(self._open.pop)
            return PAUSE_S if context is None else TLS_PAUSE_S

        with listener:
            await self._connections.accept_from(listener, begin)

    async def serve_door(self, door: Door) -> None:
        """Answer at a door, as ``serve`` does."""
        await self.serve(door.listener, door.find_context)

    @property
    def is_idle(self) -> bool:
        """Whether nobody is connected."""
        return self._connections.is_empty

    async def _end(self) -> None:
        """End those that answer nothing, and the others when they have answered, or after a moment."""
        for exchange in self._open.values():
            if not exchange.is_answering:
                exchange.end()
        for _ in range(2):
            if self._open:
                await asyncio.wait(self._open, timeout=CLOSE_TIMEOUT_S)
            for exchange in self._open.values():
                exchange.end()
        for task in self._open:
            task.cancel()
        with anyio.move_on_after(CLOSE_TIMEOUT_S):
            while self._connections.are_sending:  # noqa: ASYNC110 -- nobody tells when a client has taken it
                await anyio.sleep(LOOK_EVERY_S)
