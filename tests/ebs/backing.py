"""The sparse file behind a volume: reads, writes, holes, and what makes them durable.

Everything that changes the file happens in the call itself, never in a thread: once a connection is gone,
nothing it asked for can still reach the file and overwrite what a later connection wrote. Only waiting for
the disk (`sync`) is done elsewhere.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

_KEEP_SIZE, _PUNCH_HOLE = 1, 2  # linux/falloc.h
_FICLONE = 0x40049409  # linux/fs.h
_COPY_BYTES = 64 << 20

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class Backing:
    """An open backing file.

    ``sync`` is what makes written bytes durable; tests put a witness in its place.
    """

    def __init__(self, path: Path, *, sync: Callable[[int], None] = os.fdatasync) -> None:
        self.path = path
        self._sync = sync
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    @property
    def size_bytes(self) -> int:
        return os.fstat(self._fd).st_size

    @property
    def used_bytes(self) -> int:
        """Bytes the file occupies; holes are not among them."""
        return os.fstat(self._fd).st_blocks * 512

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill ``buffer`` with the bytes at ``offset``."""
        while buffer:
            count = os.preadv(self._fd, [buffer], offset)
            if count == 0:
                raise OSError(errno.EIO, f"{self.path} ends before byte {offset}")
            buffer, offset = buffer[count:], offset + count

    def write(self, data: bytes | bytearray, offset: int) -> None:
        """Write all of ``data`` at ``offset``. Not durable before `sync`."""
        rest = memoryview(data)
        while rest:
            count = os.pwrite(self._fd, rest, offset)
            rest, offset = rest[count:], offset + count

    def punch(self, offset: int, size_bytes: int) -> None:
        """Make a range read as zeros and give its space back."""
        if _libc.fallocate(self._fd, _KEEP_SIZE | _PUNCH_HOLE, offset, size_bytes):
            code = ctypes.get_errno()
            raise OSError(code, f"{self.path}: punching a hole failed: {os.strerror(code)}")

    def grow(self, size_bytes: int) -> None:
        """Make the file larger, durably, before anyone is told of its new size."""
        os.ftruncate(self._fd, size_bytes)
        os.fsync(self._fd)

    def sync(self) -> None:
        """Return when everything written before the call is durable. Blocks: call it in a thread."""
        self._sync(self._fd)

    def close(self) -> None:
        os.close(self._fd)


def create_file(path: Path, size_bytes: int) -> None:
    """Create a sparse file durably; FileExistsError where there is one."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(fd, size_bytes)
        os.fsync(fd)
    finally:
        os.close(fd)


def copy_file(source: Path, destination: Path) -> None:
    """Copy a backing file: blocks shared where the filesystem can, holes kept where not. Blocks."""
    with source.open("rb") as reader, destination.open("xb") as writer:
        try:
            fcntl.ioctl(writer.fileno(), _FICLONE, reader.fileno())
        except OSError:  # another filesystem, or one without reflinks
            _copy_extents(reader.fileno(), writer.fileno())
        os.fsync(writer.fileno())


def _copy_extents(source: int, destination: int) -> None:
    size_bytes = os.fstat(source).st_size
    os.ftruncate(destination, size_bytes)
    offset = 0
    while offset < size_bytes:
        try:
            offset = os.lseek(source, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                return
            raise
        end = os.lseek(source, offset, os.SEEK_HOLE)
        while offset < end:
            chunk = os.pread(source, min(_COPY_BYTES, end - offset), offset)
            if not chunk:
                raise OSError(errno.EIO, f"the file being copied ends before byte {offset}")
            offset += os.pwrite(destination, chunk, offset)
