"""What udev does where it runs: it tells everybody of a device that was closed by who had it open to write.

systemd-udevd watches device nodes for IN_CLOSE_WRITE, and has the kernel announce a change for each.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

_IN_CLOSE_WRITE = 0x8
_EVENT = struct.Struct("iIII")
_BUFFER_BYTES = 65536


class Watch:
    """Counts how often one device was closed after writing."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def take(self) -> int:
        """Return how often since it was asked last."""
        count = 0
        while True:
            try:
                events = os.read(self._fd, _BUFFER_BYTES)
            except BlockingIOError:
                return count
            offset = 0
            while offset < len(events):
                _, mask, _, name_bytes = _EVENT.unpack_from(events, offset)
                count += bool(mask & _IN_CLOSE_WRITE)
                offset += _EVENT.size + name_bytes


@contextmanager
def watching(device: str) -> Iterator[Watch]:
    """Watch a device node for the block."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if fd < 0 or libc.inotify_add_watch(fd, device.encode(), _IN_CLOSE_WRITE) < 0:
        raise OSError(ctypes.get_errno(), "inotify")
    try:
        yield Watch(fd)
    finally:
        os.close(fd)
