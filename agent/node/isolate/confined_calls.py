"""Calls in confined processes, as the daemon makes them: one process for each, which is never trusted.

What comes back is bytes, whatever they are; that they are few and come in time is seen to here.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import anyio

from agent.core.errors import AgentError, NotAnsweringError
from agent.core.exhaustion import explain_shortage
from agent.core.model import Reason
from agent.node.isolate.forked_zygote import FIRST_CONFINED
from agent.node.isolate.zygote_handle import ZygoteProcess

TIMEOUT_S = 60.0
"""It takes a tenth of a second; with a disk that its libraries come from slowly, many."""
MAX_ANSWER_BYTES = 4 << 20
"""What is made of it takes twenty times as much at worst."""
_CHUNK_BYTES = 64 << 10


class ConfinedCalls:
    """Makes calls. ``ready``: the socket of a process that was begun early, for the first of them."""

    def __init__(self, zygote: ZygoteProcess, ready: socket.socket | None = None) -> None:
        self._zygote = zygote
        self._ready = ready
        self._last_number = FIRST_CONFINED

    async def __call__(self, function: str, request: bytes, *, subject: str) -> bytes:
        """Have ``function`` (``package.module:name``) make an answer of ``request``; it is to be distrusted.

        Raises NotAnsweringError where it takes too long, AgentError where none comes or it is too long,
        ShortageError where the node has no room for a process.
        """
        answer: bytes | None = None
        with self._begin(function) as sock, anyio.move_on_after(TIMEOUT_S):
            answer = await _exchange(sock, request)
        if answer is None:
            raise NotAnsweringError(
                f"{subject} was not read within {TIMEOUT_S:g} s.",
                hint="The machine is short of processors, or the disk the agent is installed on is slow.",
                reason=Reason.STALLED,
            )
        if not answer or len(answer) > MAX_ANSWER_BYTES:
            what = "said too much" if answer else "ended without an answer"
            raise AgentError(
                f"{subject} could not be read: the process that reads it {what}.",
                hint="The agent's log and the kernel's tell more.",
                reason=Reason.INTERNAL_ERROR,
            )
        return answer

    def stop(self) -> None:
        """Let go of a process that was begun early and never needed: it ends by that."""
        if self._ready is not None:
            self._ready.close()

    @contextlib.contextmanager
    def _begin(self, function: str) -> Iterator[socket.socket]:
        """Give the socket of a process, which is ended afterwards."""
        ours, self._ready, number = self._ready, None, FIRST_CONFINED
        if ours is None:
            self._last_number -= 1
            number = self._last_number
            ours = self._order(number, function)
        with ours:
            try:
                yield ours
            finally:
                self._zygote.kill(number)

    def _order(self, number: int, function: str) -> socket.socket:
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError as error:
            raise explain_shortage("A process could not be started", error) from error
        ours.setblocking(False)  # noqa: FBT003 -- its only form
        with theirs:
            try:
                self._zygote.confine(number, theirs, function)
            except BaseException:
                ours.close()
                raise
        return ours


async def _exchange(sock: socket.socket, request: bytes) -> bytes:
    """Send a request, and return what comes until the end, or until it is too much."""
    loop = asyncio.get_running_loop()
    answer = bytearray()
    with contextlib.suppress(ConnectionError):
        await loop.sock_sendall(sock, request)
        sock.shutdown(socket.SHUT_WR)
        while len(answer) <= MAX_ANSWER_BYTES and (part := await loop.sock_recv(sock, _CHUNK_BYTES)):
            answer += part
    return bytes(answer)
