"""The kernel's own words about a device, from ``/dev/kmsg``: what ext4 and xfs say only there.

Read after something failed, to explain it; nothing is ever decided by it.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator

_RECORD_BYTES = 8192
_MAX_RECORDS = 2000


@contextlib.contextmanager
def follow_kernel_log() -> Iterator[KernelLog]:
    """Yield what the kernel says from now on; nothing where this process may not read its log."""
    fd = -1
    try:
        with contextlib.suppress(OSError):
            fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.lseek(fd, 0, os.SEEK_END)
        yield KernelLog(fd)
    finally:
        if fd >= 0:
            os.close(fd)


class KernelLog:
    """The kernel's log from some moment on; empty for the descriptor -1."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read_about(self, device_path: str) -> list[str]:
        """Return the unread messages that name the device, as in ``XFS (nvme1n1): …``."""
        found: list[str] = []
        if self._fd < 0:
            return found
        name = re.compile(rf"\b{re.escape(device_path.rsplit('/', 1)[-1])}\b")
        for _ in range(_MAX_RECORDS):
            try:
                record = os.read(self._fd, _RECORD_BYTES)
            except BrokenPipeError:
                continue  # records were overwritten before they were read
            except OSError:
                break
            # "priority,sequence,time,flags;message", then lines of keys (Documentation/ABI/testing/dev-kmsg)
            message = record.decode(errors="replace").partition(";")[2].partition("\n")[0]
            if name.search(message):
                found.append(message)
        return found
