"""What the daemon and its workers say to each other: pickled values and open descriptors on a stream socket.

One message is a four-byte length and a pickle. Descriptors travel beside its first byte (SCM_RIGHTS):
wherever an :class:`Fd` stands in the value, however deep, the other side finds an :class:`Fd` for the same
open file description. Both sides are this agent, running as the same user; nothing else can reach the socket,
which is why a pickle may be trusted here.
"""

from __future__ import annotations

import array
import io
import os
import pickle
import socket
import struct
from collections.abc import Callable
from typing import Any

from msgspec import Struct, field

from agent.core.errors import AgentError

_LENGTH = struct.Struct("!I")
_MAX_BYTES = 64 << 20
_MAX_FDS = 32
_CHUNK_BYTES = 64 << 10


class Fd(int):
    """An open descriptor that crosses between the daemon and a worker. Whoever receives one closes it."""

    __slots__ = ()

    def close(self) -> None:
        os.close(self)


class Started(Struct, frozen=True):
    """A worker's first word, before any answer: its number, by which the kernel tells what it waits for."""

    pid: int


class MessageError(Exception):
    """The other side spoke nonsense, or went away in the middle of a message."""


class CutOffError(MessageError):
    """Descriptors came for which this process had no room."""


class _Pickler(pickle.Pickler):
    """Puts descriptors aside, and keeps the fields of errors, which a plain pickle of an exception loses."""

    def __init__(self, file: io.BytesIO, fds: list[int]) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self._fds = fds

    def persistent_id(self, obj: object) -> int | None:
        if type(obj) is not Fd:
            return None
        self._fds.append(int(obj))
        return len(self._fds) - 1

    def reducer_override(self, obj: object) -> Any:
        if isinstance(obj, AgentError):
            return rebuild_error, (type(obj), dict(vars(obj)))
        return NotImplemented


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, fds: list[int]) -> None:
        super().__init__(file)
        self._fds = fds

    def persistent_load(self, pid: int) -> Fd:
        return Fd(self._fds[pid])


def rebuild_error(kind: type[AgentError], fields: dict[str, Any]) -> AgentError:
    """Return the error of class ``kind`` with these fields."""
    error = kind.__new__(kind, fields.get("message", ""))
    vars(error).update(fields)
    return error


def encode(value: object) -> tuple[bytes, list[int]]:
    """Return the message for ``value`` and the descriptors that go with it, which stay the sender's."""
    fds: list[int] = []
    file = io.BytesIO()
    file.write(_LENGTH.pack(0))
    _Pickler(file, fds).dump(value)
    if len(fds) > _MAX_FDS:
        raise MessageError(f"{len(fds)} descriptors are too many for one message")
    length = file.tell() - _LENGTH.size
    if length > _MAX_BYTES:
        raise MessageError(f"a message of {length} bytes is too long")
    file.seek(0)
    file.write(_LENGTH.pack(length))
    return file.getvalue(), fds


def ancillary(fds: list[int]) -> list[tuple[int, int, array.array[int]]]:
    """Return what ``sendmsg`` needs to carry ``fds``."""
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []


class Inbox(Struct):
    """One message being received. ``fds`` are the receiver's from the moment they are in here."""

    received: bytearray = field(default_factory=bytearray)
    fds: list[int] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        """The whole message is here."""
        if len(self.received) < _LENGTH.size:
            return False
        length: int = _LENGTH.unpack_from(self.received)[0]
        if length > _MAX_BYTES:
            raise MessageError(f"a message of {length} bytes is announced")
        return len(self.received) >= _LENGTH.size + length

    def receive(self, sock: socket.socket) -> bool:
        """Read once what is there; False at the end of the stream. May raise BlockingIOError."""
        chunk, controls, flags, _ = sock.recvmsg(
            _CHUNK_BYTES, socket.CMSG_SPACE(_MAX_FDS * 4), socket.MSG_CMSG_CLOEXEC
        )
        for level, kind, payload in controls:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds = array.array("i")
                fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
                self.fds.extend(fds)
        if flags & socket.MSG_CTRUNC:
            raise CutOffError("descriptors were cut off")
        self.received += chunk
        return bool(chunk)

    def decode(self) -> Any:
        """Return the value of the complete message, and keep what has come of the next."""
        end = _LENGTH.size + _LENGTH.unpack_from(self.received)[0]
        message = self.received[_LENGTH.size : end]
        del self.received[:end]
        return _Unpickler(io.BytesIO(message), self.fds).load()

    def close_fds(self, keep: Callable[[int], bool] = lambda _: False) -> None:
        """Close the received descriptors that ``keep`` does not claim."""
        for fd in self.fds:
            if not keep(fd):
                os.close(fd)
        self.fds = [fd for fd in self.fds if keep(fd)]


def send(sock: socket.socket, value: object) -> list[int]:
    """Send one message on a blocking socket; return the descriptors it carried, still open here."""
    message, fds = encode(value)
    sent = sock.sendmsg([message], ancillary(fds))
    if sent < len(message):
        sock.sendall(message[sent:])
    return fds


def receive(sock: socket.socket) -> Inbox | None:
    """Receive one message from a blocking socket; None when the other side has closed it."""
    inbox = Inbox()
    try:
        while not inbox.is_complete and inbox.receive(sock):
            pass
    except MessageError:
        inbox.close_fds()
        raise
    if inbox.is_complete:
        return inbox
    inbox.close_fds()
    if inbox.received:
        raise MessageError("the other side went away in the middle of a message")
    return None
