"""Serves the agent's two faces: the control socket, and the read-only one where the policy says.

What answers is imported when somebody first asks. aiohttp alone takes as long to import as all that mounts a
volume, and volumes come first.
"""

from __future__ import annotations

import asyncio
import math
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, cast

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup, TaskStatus
from typing_extensions import Self

from agent.base.log import get_logger
from agent.base.off_loop import Aside, do_here
from agent.core.errors import AgentError
from agent.report.serving.certificates import ServerTls, make_server_tls
from agent.report.serving.connections import PAUSE_S, TLS_PAUSE_S, Connections, Limits
from agent.report.serving.flood_log import Count, Outcome, Tally
from agent.report.serving.peer import Connection
from agent.report.serving.sockets import (
    Listen,
    bind_control_socket,
    name_taker,
    open_listener,
    remove_control_socket,
)

if TYPE_CHECKING:
    from aiohttp import web

CLOSE_TIMEOUT_S = 1.0
"""How long open requests may go on once the agent stops: the whole agent has 5 s."""

LINGER_S = 1.0
"""For the rest of a request that was answered before it had come to its end."""

HTTP_LIMITS = Limits()
CONTROL_LIMITS = Limits(lobby=0, each_user=16, others=32, answer_s=None)
"""Whoever waits, or follows events, may do so for a day; root is let in however many of them there are."""

RETRY_S = 30.0
"""An address in use, or a certificate that cannot be read, is tried again."""

RENEWAL_S = 60.0
"""How often the files of certificates are looked at: they are renewed without a word."""

log = get_logger(__name__)


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


async def serve_control(
    make_app: Callable[[], web.Application],
    path: Path,
    count: Count | None = None,
    limits: Limits = CONTROL_LIMITS,
    *,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serve an application on a Unix socket at ``path`` until cancelled, then remove it.

    Raises AgentError where another agent answers there.
    """
    listener, inode = bind_control_socket(path)
    try:
        async with Server(make_app, limits, Tally("control", count)) as server:
            task_status.started()
            await server.serve(listener)
    finally:
        remove_control_socket(path, inode)


@dataclass
class _Door:
    """One socket the read-only face is served at, and the TLS that whoever comes next is offered."""

    listen: Listen
    listener: socket.socket
    tls: ServerTls | None
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    is_shut: anyio.Event = field(default_factory=anyio.Event)

    def find_context(self) -> ssl.SSLContext | None:
        return None if self.tls is None else self.tls.context


class HttpFace:
    """The read-only face, where and with what certificates the policy in force says.

    Certificates change at the door that is open. Another address opens the new door before it shuts the old
    one. What cannot be had is logged and tried again, and the old stays: volumes matter more, and so do those
    who scrape.
    """

    def __init__(
        self,
        make_app: Callable[[], web.Application],
        listen: Listen,
        count: Count | None = None,
        limits: Limits = HTTP_LIMITS,
        aside: Aside = do_here,
    ) -> None:
        self._aside = aside
        self._server = Server(make_app, limits, Tally("http", count))
        self._wanted = listen
        self._is_changed = anyio.Event()
        self._door: _Door | None = None

    @property
    def port(self) -> int:
        """The port in use, which the kernel chose where 0 was asked for; 0 while there is none."""
        return 0 if self._door is None else int(self._door.listener.getsockname()[1])

    def apply(self, listen: Listen) -> None:
        """Serve as ``listen`` says from now on, by its certificates as they are now."""
        self._wanted = listen
        self._is_changed.set()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled. Started once the first door is open, or was found not to be had."""
        self._door = None  # one that was open before, if this is begun anew, is shut
        async with self._server, anyio.create_task_group() as tasks:
            is_first = True
            while True:
                self._is_changed = anyio.Event()
                is_open = await self._try_door(tasks)
                if is_first:
                    task_status.started()
                is_first = False
                pause_s = RETRY_S if not is_open else math.inf if self._wanted.tls is None else RENEWAL_S
                with anyio.move_on_after(pause_s):
                    await self._is_changed.wait()

    async def _try_door(self, tasks: TaskGroup) -> bool:
        try:
            await self._change_door(tasks, self._wanted)
        except AgentError as error:
            await self._tell_unavailable(error)
            return False
        return True

    async def _tell_unavailable(self, error: AgentError) -> None:
        told = await name_taker(error, self._wanted, self._aside)
        log.error("http.unavailable", error=told.message, hint=told.hint)

    async def _change_door(self, tasks: TaskGroup, wanted: Listen) -> None:
        door = self._door
        before = None if door is None else door.tls
        tls = None if wanted.tls is None else await make_server_tls(wanted.tls, self._aside, before)
        if door is None:
            self._open(tasks, wanted, tls)
        elif door.listen.address == wanted.address:
            door.listen, door.tls = wanted, tls
        else:
            await self._move(tasks, door, wanted, tls)

    async def _move(self, tasks: TaskGroup, old: _Door, wanted: Listen, tls: ServerTls | None) -> None:
        try:
            self._open(tasks, wanted, tls)
        except AgentError:
            if old.listen.port != wanted.port:
                raise
        else:
            await self._shut(old)
            return
        # All addresses and one of them cannot be listened on at once: the old one is in the way.
        await self._shut(old)
        try:
            self._open(tasks, wanted, tls)
        except AgentError:
            self._open(tasks, old.listen, old.tls)
            raise

    def _open(self, tasks: TaskGroup, listen: Listen, tls: ServerTls | None) -> None:
        self._door = _Door(listen, open_listener(listen), tls)
        tasks.start_soon(self._serve, self._door)

    async def _serve(self, door: _Door) -> None:
        try:
            with door.scope:
                await self._server.serve(door.listener, door.find_context)
        finally:
            door.is_shut.set()

    async def _shut(self, door: _Door) -> None:
        if self._door is door:
            self._door = None
        door.scope.cancel()
        await door.is_shut.wait()
