"""Who connected to a Unix socket, as the kernel noted when they did."""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

_UCRED = struct.Struct("iII")
"""struct ucred of unix(7): process, user and group."""


class Caller(Struct, frozen=True):
    """A process."""

    pid: int
    uid: int
    program: str | None = None
    """Its executable, where it can be told."""

    def __str__(self) -> str:
        return f"process {self.pid} ({self.program or 'unknown program'}) of user {self.uid}"


def read_caller(sock: socket.socket) -> Caller:
    """Return who is at the other end. Raises OSError."""
    pid, uid, _gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    program = None
    with suppress(OSError):
        program = str(Path(f"/proc/{pid}/exe").readlink())
    return Caller(pid, uid, program)
