"""The face's process as the daemon has it: started when somebody connects, fed, and ended.

The daemon keeps the listening socket, so that whoever connects while no process answers there waits. Of what
the process sends nothing is looked at but that it sends.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

import anyio

import agent
from agent.base.companion import Companion
from agent.base.log import get_logger
from agent.base.unit_process import UnitSocket
from agent.node.isolate.unprivileged import NOBODY_UID
from agent.report.feed.face_process import choose_user, end_face, start_face
from agent.report.feed.words import Words
from agent.report.serving.doors import Door

if TYPE_CHECKING:
    from agent.report.feed.teller import Teller

USER = "ebs-agent-web"
PROGRAM = (sys.executable, "-I", "-m", "agent.report.web.main")
"""Neither the working directory nor the environment says which code runs."""

SEND_S = 10.0
"""For a frame to be taken."""
SILENCE_S = 120.0
"""Without a word of the process; it says one every half minute."""
SHARE = 0.1
"""Of the loop's time that telling the process may take, however often it asks."""
GRACE_S = 1.5
"""For the process to end by itself once its feed has: answers under way have one second."""
RETRY_S = (0.2, 1.0, 5.0, 15.0, 30.0)
"""Pauses before the process is started again that ended soon after it was started."""
LONG_S = 10.0
"""A process that lived so long is started again at once."""

log = get_logger(__name__)


class WebProcess:
    """Answers at doors by a process for each. ``make_teller`` is called anew for every process."""

    def __init__(
        self,
        make_teller: Callable[[], Teller],
        user: str = USER,
        program: tuple[str, ...] = PROGRAM,
        unit: UnitSocket | None = None,
    ) -> None:
        self._make_teller = make_teller
        self._program = program
        self._user = user
        self._unit = unit
        self._words = Words("web.said")
        self._has_warned = False
        self.pid: int | None = None
        """Of the process, while there is one."""

    async def __aenter__(self) -> object:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End nothing: each process ends with its door."""

    async def serve_door(self, door: Door) -> None:
        """Have a process answer whenever somebody connects, until cancelled; then close the socket."""
        failures = 0
        with door.listener as listener:
            while True:
                await anyio.wait_readable(listener)
                began = anyio.current_time()
                await self._run_process(door)
                failures = 0 if anyio.current_time() - began >= LONG_S else failures + 1
                if failures:
                    await anyio.sleep(RETRY_S[min(failures, len(RETRY_S)) - 1])

    async def _run_process(self, door: Door) -> None:
        """Start a process and feed it until one of the two ends it, or it has another certificate to show."""
        try:
            running = await start_face(self._program, self._choose_user(), self._unit)
        except OSError as error:
            log.error("web.unavailable", error=str(error.strerror or error))  # noqa: TRY400 -- no fault of ours
            return
        self.pid = running.process.pid
        telling = asyncio.create_task(self._words.tell(running.words, self.pid), name="web words")
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_end_once_renewed, door.renewed, tasks.cancel_scope)
                await self._feed(running, door)
                tasks.cancel_scope.cancel()
        finally:
            self.pid = None
            with anyio.CancelScope(shield=True):
                code = await end_face(running, telling, GRACE_S)
            if code:
                log.warning("web.ended", pid=running.process.pid, code=code)

    def _choose_user(self) -> int | None:
        """Return who the process is to be; None: who the daemon is, where that is not root."""
        uid = choose_user(self._user)
        if uid == NOBODY_UID and not self._has_warned:
            self._has_warned = True
            log.warning("web.user_missing", user=self._user, runs_as=uid)
        return uid

    async def _feed(self, running: Companion, door: Door) -> None:
        """Tell the process how volumes are whenever it asks, until it closes the feed or takes too long."""
        # Imported when somebody asks: most of the time nobody does.
        from agent.report.feed.frames import Setup, encode  # noqa: PLC0415

        feed, teller = running.stream, self._make_teller()
        setup = Setup(agent.__version__, None if door.tls is None else door.tls.contents)
        try:
            await _send(feed, encode(setup), door.listener)
            while await _hear(feed):
                began_s = time.thread_time()
                await _send(feed, teller.tell())
                await anyio.sleep((time.thread_time() - began_s) * (1 / SHARE - 1))
        except TimeoutError:
            log.warning("web.stuck", pid=running.process.pid, send_s=SEND_S, silence_s=SILENCE_S)
        except OSError as error:
            log.warning("web.cut_off", pid=running.process.pid, error=f"{error.strerror or error}")


async def _hear(feed: socket.socket) -> bool:
    """Wait until the process sends, whatever that is, and tell whether it does."""
    with anyio.fail_after(SILENCE_S):
        return bool(await asyncio.get_running_loop().sock_recv(feed, 4096))


async def _send(feed: socket.socket, content: bytes, listener: socket.socket | None = None) -> None:
    from agent.report.feed.frames import frame  # noqa: PLC0415 -- imported by now

    rest = frame(content)
    with anyio.fail_after(SEND_S):
        if listener is not None:
            # The first bytes of a new socket are taken whole.
            sent = socket.send_fds(feed, [rest[:4]], [listener.fileno()])
            rest = rest[sent:]
        await asyncio.get_running_loop().sock_sendall(feed, rest)


async def _end_once_renewed(renewed: anyio.Event, scope: anyio.CancelScope) -> None:
    await renewed.wait()
    scope.cancel()
