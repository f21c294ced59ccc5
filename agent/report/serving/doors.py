"""Where the read-only face can be reached: its socket and certificates, as the policy in force says.

The socket is opened here and stays open whoever answers at it, and whether anybody does.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

import anyio
from anyio.abc import TaskGroup, TaskStatus
from msgspec import Struct, field

from agent.base.log import get_logger
from agent.base.off_loop import Aside, do_here
from agent.core.errors import AgentError
from agent.report.serving.certificates import ServerTls, make_server_tls
from agent.report.serving.sockets import Listen, name_taker, open_listener
from agent.report.serving.validity import find_expiry

if TYPE_CHECKING:
    import ssl

RETRY_S = 30.0
"""An address in use, or a certificate that cannot be read, is tried again."""

RENEWAL_S = 60.0
"""How often the files of certificates are looked at: they are renewed without a word."""

log = get_logger(__name__)


class Door(Struct):
    """One socket the read-only face is served at, and the TLS that whoever comes next is offered."""

    listen: Listen
    listener: socket.socket
    tls: ServerTls | None
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    is_shut: anyio.Event = field(default_factory=anyio.Event)

    renewed: anyio.Event = field(default_factory=anyio.Event)
    """Set once ``tls`` is another."""

    def renew(self, tls: ServerTls | None) -> None:
        """Offer this TLS from now on."""
        if tls is not self.tls:
            self.tls = tls
            self.renewed.set()
            self.renewed = anyio.Event()

    def find_context(self) -> ssl.SSLContext | None:
        return None if self.tls is None else self.tls.context


class DoorServer(Protocol):
    """Whoever answers at doors, in this process or in another."""

    async def __aenter__(self) -> object:
        """Begin."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        """End what is still being answered."""

    async def serve_door(self, door: Door) -> None:
        """Answer at a door until cancelled, then close its socket."""


async def open_here(listen: Listen) -> socket.socket:
    """Open the socket in this process."""
    return open_listener(listen)


class HttpFace:
    """The read-only face, where and with what certificates the policy in force says.

    Certificates change at the door that is open. Another address opens the new door before it shuts the old
    one. What cannot be had is logged and tried again, and the old stays: volumes matter more, and so do those
    who scrape.
    """

    def __init__(
        self,
        server: DoorServer,
        listen: Listen,
        aside: Aside = do_here,
        note_expiry: Callable[[float | None], None] = lambda _: None,
        open_socket: Callable[[Listen], Awaitable[socket.socket]] = open_here,
    ) -> None:
        """``note_expiry`` is told when the certificate that is shown ends, in seconds since 1970."""
        self._aside = aside
        self._open_socket = open_socket
        self._server = server
        self._wanted = listen
        self._is_changed = anyio.Event()
        self._note_expiry = note_expiry
        self._door: Door | None = None

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
        finally:
            tls = None if self._door is None else self._door.tls
            self._note_expiry(None if tls is None else find_expiry(tls.contents[0]))
        return True

    async def _tell_unavailable(self, error: AgentError) -> None:
        told = await name_taker(error, self._wanted, self._aside)
        log.error("http.unavailable", error=told.message, hint=told.hint)

    async def _change_door(self, tasks: TaskGroup, wanted: Listen) -> None:
        door = self._door
        before = None if door is None else door.tls
        tls = None if wanted.tls is None else await make_server_tls(wanted.tls, self._aside, before)
        if door is None:
            await self._open(tasks, wanted, tls)
        elif door.listen.address == wanted.address:
            door.listen = wanted
            door.renew(tls)
        else:
            await self._move(tasks, door, wanted, tls)

    async def _move(self, tasks: TaskGroup, old: Door, wanted: Listen, tls: ServerTls | None) -> None:
        try:
            await self._open(tasks, wanted, tls)
        except AgentError:
            if old.listen.port != wanted.port:
                raise
        else:
            await self._shut(old)
            return
        # All addresses and one of them cannot be listened on at once: the old one is in the way.
        await self._shut(old)
        try:
            await self._open(tasks, wanted, tls)
        except AgentError:
            await self._open(tasks, old.listen, old.tls)
            raise

    async def _open(self, tasks: TaskGroup, listen: Listen, tls: ServerTls | None) -> None:
        self._door = Door(listen, await self._open_socket(listen), tls)
        tasks.start_soon(self._serve, self._door)

    async def _serve(self, door: Door) -> None:
        try:
            with door.scope:
                await self._server.serve_door(door)
        finally:
            door.is_shut.set()

    async def _shut(self, door: Door) -> None:
        if self._door is door:
            self._door = None
        door.scope.cancel()
        await door.is_shut.wait()
