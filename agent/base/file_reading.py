"""Reads files that lie on disks of the node's own. For workers: such a disk may hang as any other."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence

from msgspec import Struct


class FileRead(Struct, frozen=True):
    """A file as it was read: what it holds, and who may have written it."""

    content: bytes
    """Nothing where it is no regular file."""
    uid: int
    mode: int
    """As in ``st_mode``, with the kind of the file."""

    @property
    def is_regular(self) -> bool:
        return stat.S_ISREG(self.mode)

    def check_regular(self) -> bytes:
        """Return the content, or raise OSError where it is no regular file."""
        if not self.is_regular:
            raise OSError(errno.EINVAL, "It is not a file")
        return self.content


def read_file(path: str, limit_bytes: int) -> FileRead:
    """Return what the file holds, its first ``limit_bytes`` at most; OSError where it cannot be read.

    A FIFO in its place holds nobody up: no more is read of it than that it is one.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        facts = os.fstat(fd)
        if not stat.S_ISREG(facts.st_mode):
            return FileRead(b"", facts.st_uid, facts.st_mode)
        with os.fdopen(fd, "rb", closefd=False) as file:
            return FileRead(file.read(limit_bytes), facts.st_uid, facts.st_mode)
    finally:
        os.close(fd)


def read_end(path: str, limit_bytes: int) -> bytes | None:
    """Return the last ``limit_bytes`` of a file, None where there is none, or raise OSError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except FileNotFoundError:
        return None
    try:
        with os.fdopen(fd, "rb", closefd=False) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - limit_bytes))
            return file.read(limit_bytes)
    finally:
        os.close(fd)


def find_directory(paths: Sequence[str]) -> str | None:
    """Return the first of ``paths`` that is a directory, None where none is."""
    return next((path for path in paths if os.path.isdir(path)), None)  # noqa: PTH112 -- workers import little
