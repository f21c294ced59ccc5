"""Serves the calls of kubelet and the sidecars at a listening Unix socket, to those who may call."""

from __future__ import annotations

import socket
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Protocol

import anyio
from anyio.abc import TaskStatus
from grpclib.const import Handler, Status
from grpclib.events import RecvRequest, listen
from grpclib.exceptions import GRPCError
from grpclib.protocol import Peer
from grpclib.server import Server

from agent.base.log import get_logger
from agent.csi.sockets.callers import Caller, read_caller

CLOSE_S = 1.0
"""How long calls may take to end once serving ends."""

ROOT_ONLY = frozenset({0})


class Service(Protocol):
    """What grpclib serves: the handlers of calls, by their paths."""

    def __mapping__(self) -> Mapping[str, Handler]: ...


log = get_logger(__name__)


async def serve_calls(
    listener: socket.socket,
    services: Collection[Service],
    allowed_uids: Collection[int] = ROOT_ONLY,
    *,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Answer at ``listener`` until cancelled. The socket stays open, and whoever connects meanwhile waits."""
    server = Server(services)
    who = "Only root" if ROOT_ONLY.issuperset(allowed_uids) else "Only root and the agent's own user"

    async def check_caller(event: RecvRequest) -> None:
        caller = _find_caller(event.peer)
        if caller is None or caller.uid not in allowed_uids:
            log.warning("csi.stranger", call=event.method_name, caller=str(caller))
            raise GRPCError(
                Status.PERMISSION_DENIED,
                f"{who} may call the agent here, and this is {caller or 'nobody the kernel knows'}.",
            )

    listen(server, RecvRequest, check_caller)
    await server.start(sock=listener.dup())
    try:
        task_status.started()
        await anyio.sleep_forever()
    finally:
        server.close()
        # A connection that is kept open would be waited for without end.
        with anyio.CancelScope(shield=True), anyio.move_on_after(CLOSE_S):
            await server.wait_closed()


def _find_caller(peer: Peer) -> Caller | None:
    """Return who made the connection; grpclib shows an address alone, and that of a Unix socket is empty."""
    sock = peer._transport.get_extra_info("socket")  # noqa: SLF001
    with suppress(OSError):
        return None if sock is None else read_caller(sock)
    return None
