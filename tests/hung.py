"""A file or a directory whose disk hangs: a filesystem of FUSE that never answers, and says who asks it."""

from __future__ import annotations

import ctypes
import os
import select
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from agent.core.errors import NotAnsweringError
from tests.waiting import WAIT_S

_IN_HEADER = struct.Struct("=IIQQIIII")
"""struct fuse_in_header of linux/fuse.h: length, opcode, unique, node, user, group, process, padding."""
_OUT_HEADER = struct.Struct("=IiQ")
_INIT_OUT = struct.Struct("=IIIIHHIIHHI28x")
_INIT = 26
_VERSION = 7, 31
_MAX_REQUEST_BYTES = 1 << 20
_MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)

T = TypeVar("T")


async def never_answer(function: Callable[..., T], *args: object, subject: str) -> T:
    """Be an ``Aside`` whose time is over."""
    del function, args
    raise NotAnsweringError(f"{subject} did not answer.")


class Hung:
    """What hangs, and the requests that it has had."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def greet(self) -> None:
        """Say that the filesystem is there, so that the kernel asks it."""
        _, opcode, unique, *_ = _IN_HEADER.unpack_from(os.read(self._fd, _MAX_REQUEST_BYTES))
        assert opcode == _INIT
        said = _INIT_OUT.pack(*_VERSION, 0, 0, 1, 1, 4096, 1, 1, 0, 0)
        os.write(self._fd, _OUT_HEADER.pack(_OUT_HEADER.size + len(said), 0, unique) + said)

    def wait_asked(self) -> int:
        """Return which process asked it something, and waits for the answer from now on."""
        readable, _, _ = select.select([self._fd], [], [], WAIT_S)
        assert readable, "nobody asked"
        pid: int = _IN_HEADER.unpack_from(os.read(self._fd, _MAX_REQUEST_BYTES))[6]
        return pid


@contextmanager
def hanging(path: Path) -> Iterator[Hung]:
    """Have whoever opens or looks at ``path``, a file or a directory, wait; afterwards they get an error."""
    fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
        options = f"fd={fd},rootmode={kind:o},user_id={os.geteuid()},group_id={os.getegid()}"
        if _libc.mount(b"hung", os.fsencode(path), b"fuse", 0, options.encode()) != 0:
            raise OSError(ctypes.get_errno(), "the filesystem of FUSE cannot be mounted", str(path))
        try:
            hung = Hung(fd)
            hung.greet()
            yield hung
        finally:
            _libc.umount2(os.fsencode(path), _MNT_DETACH)
    finally:
        os.close(fd)
