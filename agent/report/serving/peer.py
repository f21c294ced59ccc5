"""One connection as the kernel has it: who connected, what of a request has come, and how it is ended."""

from __future__ import annotations

import asyncio
import socket
import struct
from enum import Enum

from msgspec import Struct

LOOK_BYTES = 4096
"""More than the head of any request of those who have a reason to ask."""

_TLS_HANDSHAKE, _TLS_HEAD_BYTES = 22, 5
"""RFC 8446, 5.1: the type of the first record, and what comes before its content."""
_UCRED = struct.Struct("iII")
"""struct ucred of unix(7): process, user and group."""


class Connection(Struct, eq=False):
    """One connection and what it is doing."""

    sock: socket.socket
    uid: int | None
    """Of the process that connected, where the kernel says so: on a Unix socket."""
    since: float
    """When it began to do what it does: to keep quiet, or to be answered."""
    is_answered: bool = False
    """Being answered now."""
    has_asked: bool = False
    transport: asyncio.Transport | None = None
    timer: asyncio.TimerHandle | None = None

    @property
    def is_closed(self) -> bool:
        """Whether its descriptor is free again, which a transport's closing does not say yet."""
        return self.sock.fileno() < 0

    @property
    def is_unread(self) -> bool:
        """Whether it has not taken all of its answer."""
        return self.transport is not None and self.transport.get_write_buffer_size() > 0

    def drop(self) -> None:
        """Close it now, whatever is still to be sent."""
        if self.transport is not None:
            self.transport.abort()
            return
        try:
            # Whoever shakes hands on it sees its end, and closes it.
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            return


class Asked(Enum):
    """How much of a request has come."""

    NOTHING = 0
    PART = 1
    WHOLE = 2
    END = 3
    """Nothing, and nothing will."""


def look_ahead(sock: socket.socket) -> Asked:
    """Return how much of a request, or of the beginning of TLS, waits to be read; it is left there."""
    try:
        waiting = sock.recv(LOOK_BYTES, socket.MSG_PEEK)
    except BlockingIOError:
        return Asked.NOTHING
    except OSError:
        return Asked.END
    if not waiting:
        return Asked.END
    if waiting[0] == _TLS_HANDSHAKE:
        is_whole = len(waiting) >= _TLS_HEAD_BYTES + int.from_bytes(waiting[3:_TLS_HEAD_BYTES], "big")
    else:
        is_whole = b"\r\n\r\n" in waiting or b"\n\n" in waiting
    return Asked.WHOLE if is_whole else Asked.PART


def read_peer_uid(sock: socket.socket) -> int | None:
    """Return the user of the process that connected to a Unix socket, as it was then; None elsewhere."""
    if sock.family != socket.AF_UNIX:
        return None
    found = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    _pid, uid, _gid = _UCRED.unpack(found)
    return int(uid)
