"""Serves the read-only face where the policy says.

What answers is imported when somebody first asks. aiohttp alone takes as long to import as all that mounts a
volume, and volumes come first.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, cast

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup
from typing_extensions import Self

from agent.report.serving.connections import (
    CLOSE_TIMEOUT_S,
    LINGER_S,
    PAUSE_S,
    TLS_PAUSE_S,
    Connections,
    Limits,
)
from agent.report.serving.doors import Door
from agent.report.serving.flood_log import Outcome, Tally
from agent.report.serving.peer import Connection

if TYPE_CHECKING:
    from aiohttp import web

HTTP_LIMITS = Limits()


class Server:
    """Serves one application at sockets that come and go. ``make_app`` is called once, in a thread."""

    def __init__(self, make_app: Callable[[], web.Application], limits: Limits, tally: Tally) -> None:
        self._make_app = make_app
        self._tally = tally
        self._connections = Connections(limits, tally)
        self._starting = anyio.Lock()
        self._app: web.Application | None = None
        self._runner: web.AppRunner | None = None
        self._beginning: TaskGroup

    async def __aenter__(self) -> Self:
        # Those who shake hands belong to no socket: one that is closed for another takes none of them along.
        self._beginning = await anyio.create_task_group().__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        with anyio.CancelScope(shield=True):
            if self._runner is not None:
                await self._runner.cleanup()
                self._runner = None  # whoever enters again begins with another
            self._connections.end_all()
        self._beginning.cancel_scope.cancel()
        return await self._beginning.__aexit__(kind, error, trace)

    async def serve(
        self, listener: socket.socket, find_context: Callable[[], ssl.SSLContext | None] = lambda: None
    ) -> None:
        """Answer at a listening socket until cancelled, then close it; open connections go on.

        ``find_context`` is asked for TLS at each new connection, which keeps what it began with.
        """
        with listener:
            await anyio.wait_readable(listener)
            server = await self._start_runner()

            def begin(connection: Connection) -> float:
                context = find_context()
                self._beginning.start_soon(self._begin, connection, server, context)
                return PAUSE_S if context is None else TLS_PAUSE_S

            await self._connections.accept_from(listener, begin)

    async def serve_door(self, door: Door) -> None:
        """Answer at a door, as ``serve`` does."""
        await self.serve(door.listener, door.find_context)

    @property
    def is_idle(self) -> bool:
        """Whether nobody is connected."""
        return self._connections.is_empty

    async def _begin(
        self,
        connection: Connection,
        factory: Callable[[], asyncio.BaseProtocol],
        context: ssl.SSLContext | None,
    ) -> None:
        try:
            connection.transport, _ = await asyncio.get_running_loop().connect_accepted_socket(
                factory, connection.sock, ssl=context
            )
        except OSError as error:  # ssl.SSLError is one
            self._tally.note(Outcome.MALFORMED, error)

    async def _start_runner(self) -> web.Server:
        async with self._starting:
            if self._app is None:
                # Beside the loop, which volumes wait for; Python keeps imports in order.
                app = await anyio.to_thread.run_sync(self._make_app)
                self._app = _watch_requests(app, self._connections, self._tally)
            if self._runner is None:
                self._runner = await _start_runner(self._app, self._tally)
            return cast("web.Server", self._runner.server)  # it was set up


def _watch_requests(app: web.Application, connections: Connections, tally: Tally) -> web.Application:
    from agent.report.serving.requests import refuse_other_hosts, watch_requests  # noqa: PLC0415 -- imported by now

    app.middlewares[:0] = [watch_requests(connections), refuse_other_hosts(tally)]
    return app


async def _start_runner(app: web.Application, tally: Tally) -> web.AppRunner:
    from aiohttp import web  # noqa: PLC0415 -- imported by now

    from agent.report.serving.requests import make_logger  # noqa: PLC0415 -- likewise

    runner = web.AppRunner(
        app,
        handle_signals=False,
        handler_cancellation=True,  # a client that went away is waited for no longer
        access_log=None,
        logger=make_logger(tally),
        lingering_time=LINGER_S,
        shutdown_timeout=CLOSE_TIMEOUT_S,
    )
    await runner.setup()
    return runner
