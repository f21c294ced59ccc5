"""A process that may compute and answer, and asks nothing else of the kernel any more: by seccomp.

For one that reads what others wrote. Whoever takes it over finds a processor and memory, and the descriptors
that it has: it opens nothing, signals nobody, starts nothing and connects to nothing, whoever it runs as.
Sources: seccomp(2); include/uapi/linux/{filter,seccomp,audit}.h; the tables of calls of each architecture.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from typing import Any

_ALLOWED: dict[str, tuple[int, int]] = {
    "recvfrom": (45, 207),
    "sendto": (44, 206),
    "write": (1, 64),
    "close": (3, 57),
    "brk": (12, 214),
    "mmap": (9, 222),
    "mremap": (25, 216),
    "munmap": (11, 215),
    "madvise": (28, 233),
    "futex": (202, 98),
    "getrandom": (318, 278),
    "clock_gettime": (228, 113),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "restart_syscall": (219, 128),
    "getpid": (39, 172),
    "exit": (60, 93),
    "exit_group": (231, 94),
}
"""What is left, by its numbers on x86-64 and on arm64. Anything else fails with EPERM."""
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Which of the numbers, and what the kernel calls the architecture; others have no such filter here."""

PR_SET_NO_NEW_PRIVS = 38
_PR_SET_SECCOMP = 22
_MODE_FILTER = 2
_KILL_PROCESS, _ALLOW, _FAIL = 0x80000000, 0x7FFF0000, 0x00050000 | errno.EPERM
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_NUMBER_AT, _ARCHITECTURE_AT = 0, 4
_CAPABILITY_VERSION_3 = 0x20080522


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def seal() -> None:
    """Let this process do nothing from now on but what is allowed above. OSError where that cannot be.

    What it is to import has to be imported, and what it reads or writes has to be open.
    """
    filtered = build_filter(os.uname().machine)
    program = _Program(len(filtered) // 8, filtered)
    # Without it only who may administer the system may have a filter.
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program))


def build_filter(machine: str) -> bytes:
    """Return the filter for an architecture as the kernel runs it. OSError where there is none for it."""
    if machine not in _MACHINES or sys.maxsize < 1 << 32:
        raise OSError(errno.ENOSYS, f"no filter of system calls is known for {machine}")
    which, architecture = _MACHINES[machine]
    numbers = sorted(numbers[which] for numbers in _ALLOWED.values())
    steps = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_JUMP_IF_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL_PROCESS),  # a call by another table of numbers
        (_LOAD, 0, 0, _NUMBER_AT),
        *((_JUMP_IF_EQUAL, len(numbers) - at, 0, number) for at, number in enumerate(numbers)),
        (_RETURN, 0, 0, _FAIL),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def prctl(option: int, value: int, pointer: Any = 0) -> None:
    """Have the kernel do an operation on this process (prctl(2)). OSError where it does not."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, pointer, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value})")


def drop_capabilities() -> None:
    """Have no capability any more, whoever this is, nor a way to one: not even as root."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    if libc.capset(header, bytes(24)) != 0:
        raise OSError(ctypes.get_errno(), "capset")
