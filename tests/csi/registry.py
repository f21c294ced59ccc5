"""kubelet's side of registration: which sockets come and go in its registry, and the talk with each."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import anyio
from grpclib.client import Channel

from agent.csi.wire import registration_pb2
from agent.csi.wire.registration_grpc import RegistrationStub

GET_INFO_S = 1.0
NOTIFY_S = 5.0

_IN_MOVED_TO, _IN_CREATE, _IN_DELETE = 0x80, 0x100, 0x200
_EVENT = struct.Struct("iIII")
_BUFFER_BYTES = 1 << 16

_libc = ctypes.CDLL(None, use_errno=True)


class Change(NamedTuple):
    """A name came to the directory, or is gone."""

    name: str
    is_there: bool


class DirectoryWatch:
    """Sees what kubelet sees of a directory: names made there or moved there, and names removed."""

    def __init__(self, directory: Path) -> None:
        self._fd = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        mask = _IN_CREATE | _IN_MOVED_TO | _IN_DELETE
        if self._fd < 0 or _libc.inotify_add_watch(self._fd, os.fsencode(directory), mask) < 0:
            raise OSError(ctypes.get_errno(), "inotify", str(directory))

    def close(self) -> None:
        os.close(self._fd)

    async def changes(self) -> AsyncIterator[Change]:
        """Give the changes from the making of this watch on, until cancelled."""
        while True:
            await anyio.wait_readable(self._fd)
            read = os.read(self._fd, _BUFFER_BYTES)
            while read:
                _, mask, _, length = _EVENT.unpack_from(read)
                name = os.fsdecode(read[_EVENT.size : _EVENT.size + length].rstrip(b"\0"))
                read = read[_EVENT.size + length :]
                yield Change(name, not mask & _IN_DELETE)


async def get_info(socket: Path) -> registration_pb2.PluginInfo:
    """Ask a socket of the registry whose it is, for as long as kubelet would."""
    channel = Channel(path=str(socket))
    try:
        return await RegistrationStub(channel).GetInfo(registration_pb2.InfoRequest(), timeout=GET_INFO_S)
    finally:
        channel.close()


async def notify(socket: Path, error: str | None) -> None:
    """Tell a plugin that it is registered, or why it is not; raise where it has no ear for it."""
    status = registration_pb2.RegistrationStatus(plugin_registered=error is None, error=error or "")
    channel = Channel(path=str(socket))
    try:
        await RegistrationStub(channel).NotifyRegistrationStatus(status, timeout=NOTIFY_S)
    finally:
        channel.close()
