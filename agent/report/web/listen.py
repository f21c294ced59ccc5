"""The socket that strangers connect to, as the daemon gets it: its own, or by a unit that may open one."""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable
from functools import partial

import anyio
import anyio.to_thread

from agent.base.unit_process import UnitSocket, start_in_unit
from agent.core.errors import AgentError
from agent.report.serving.doors import open_here
from agent.report.serving.sockets import Listen, explain_refusal

LIMIT_S = 5.0
"""For a process that is there to open a socket."""
HINT = "Look at: systemctl status ebs-agent-listen.socket; journalctl --identifier ebs-agent-listen"


def choose_opener(unit: UnitSocket | None) -> Callable[[Listen], Awaitable[socket.socket]]:
    """Return what opens a socket that listens where it is told, or raises AgentError."""
    return open_here if unit is None else partial(open_in_unit, unit)


async def open_in_unit(unit: UnitSocket, listen: Listen) -> socket.socket:
    """Have systemd start a process that opens it. What comes is looked at before it is used."""
    try:
        running = await start_in_unit(unit, [listen.host, str(listen.port)], {})
        try:
            with anyio.fail_after(LIMIT_S):
                await anyio.wait_readable(running.stream)
            return _take(running.stream, listen)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(running.discard)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise AgentError(
            f"Nothing can listen at {listen.host}:{listen.port}: {why}.", hint=HINT, retryable=False
        ) from error


def _take(stream: socket.socket, listen: Listen) -> socket.socket:
    """Return the socket that was handed over; AgentError, OSError or ValueError where it is not as asked."""
    said, fds, _, _ = socket.recv_fds(stream, 16, 1)
    if not fds:
        number = int(said or b"0")
        if number:
            raise explain_refusal(listen, OSError(number, os.strerror(number)))
        raise ConnectionAbortedError("its process ended before it was opened")
    listener = socket.socket(fileno=fds[0])
    try:
        _check(listener, listen)
        os.set_inheritable(listener.fileno(), False)  # noqa: FBT003 -- its only form
    except BaseException:
        listener.close()
        raise
    return listener


def _check(listener: socket.socket, listen: Listen) -> None:
    """Raise OSError or ValueError where a socket does not listen where it is to."""
    host, port, *_ = listener.getsockname()
    is_same = listen.port in {0, port} and _is_same(listener.family, host, listen.host)
    if not is_same or not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise ValueError("what was opened is another")


def _is_same(family: int, host: str, wanted: str) -> bool:
    """Whether two ways to write an address, one of them the kernel's, mean the same."""
    if family not in {socket.AF_INET, socket.AF_INET6}:
        return False
    try:
        return socket.inet_pton(family, host) == socket.inet_pton(family, wanted)
    except OSError:  # a name, which its resolver has looked up
        return True
