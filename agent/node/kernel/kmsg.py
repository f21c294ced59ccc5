"""The kernel's own words about a device: what ext4 and xfs say only in its log.

Read after something failed, to explain it. Only one thing is decided by it: that an xfs is mounted with
``nouuid``, since another one with its UUID is. They come from ``/dev/kmsg``, or where this process may not
read that, as in the agent's unit, from the journal.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator

_RECORD_BYTES = 8192
_MAX_RECORDS = 2000
_JOURNAL_S = 3.0
"""For the journal to answer. It is asked after a failure, while the volume waits."""


@contextlib.contextmanager
def follow_kernel_log() -> Iterator[KernelLog]:
    """Yield what the kernel says from now on."""
    fd, since_s = -1, time.time()
    try:
        with contextlib.suppress(OSError):
            fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.lseek(fd, 0, os.SEEK_END)
        yield KernelLog(fd, since_s)
    finally:
        if fd >= 0:
            os.close(fd)


class KernelLog:
    """The kernel's log from some moment on: of a descriptor, or for -1 of the journal."""

    def __init__(self, fd: int, since_s: float, journalctl: str = "journalctl") -> None:
        self._fd = fd
        self._since_s = since_s
        self._journalctl = journalctl

    def read_about(self, device_path: str) -> list[str]:
        """Return the unread messages that name the device, as in ``XFS (nvme1n1): …``."""
        name = re.compile(rf"\b{re.escape(device_path.rsplit('/', 1)[-1])}\b")
        messages = self._read_journal() if self._fd < 0 else self._read_records()
        return [message for message in messages if name.search(message)]

    def _read_records(self) -> Iterator[str]:
        for _ in range(_MAX_RECORDS):
            try:
                record = os.read(self._fd, _RECORD_BYTES)
            except BrokenPipeError:
                continue  # records were overwritten before they were read
            except OSError:
                break
            # "priority,sequence,time,flags;message", then lines of keys (Documentation/ABI/testing/dev-kmsg)
            yield record.decode(errors="replace").partition(";")[2].partition("\n")[0]

    def _read_journal(self) -> list[str]:
        """Return what the journal has of the kernel's since then; nothing where there is no journal."""
        import subprocess  # noqa: PLC0415 -- only a failure needs it

        def run(*words: str) -> str:
            done = subprocess.run(
                [self._journalctl, "--quiet", *words],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_JOURNAL_S,
                check=False,
            )
            return done.stdout[-_MAX_RECORDS * _RECORD_BYTES // 8 :].decode(errors="replace")

        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            run("--sync")  # what the kernel has said is in it then
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            since = f"--since=@{self._since_s:.6f}"
            return run("--dmesg", since, f"--lines={_MAX_RECORDS}", "--output=cat").splitlines()
        return []
