"""Keeps udev and other tools off an open disk, and finds out whether any of them is at work on it.

The lock belongs to the open file description: it holds until the last process that shares it is gone.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from pathlib import Path

from agent.core.errors import RefusedError
from agent.core.model import DeviceNumber, Reason

LOCK_PATIENCE_S = 5.0
_LOCK_RETRY_S = 0.05


def lock_device(fd: int, patience_s: float = LOCK_PATIENCE_S) -> None:
    """Take the lock that keeps udev and other tools off the disk, or raise RefusedError after ``patience_s``.

    It is ``flock`` on the whole disk, as https://systemd.io/BLOCK_DEVICE_LOCKING has it. It belongs to the
    open file description: taken here in a worker it is held by the daemon, and by an mkfs that was handed the
    descriptor, until the last of them closes it or dies.
    """
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:  # noqa: PERF203 -- retrying is the point
            if time.monotonic() >= deadline:
                raise RefusedError(
                    f"Another program has kept the disk locked for {patience_s:g} s.",
                    hint="lslocks names it. A formatting tool or udev may be at work on the device.",
                    reason=Reason.DEVICE_BUSY,
                ) from error
            # Nothing announces the end of another's lock; udev's lasts milliseconds.
            time.sleep(_LOCK_RETRY_S)
        else:
            return


def unlock_device(fd: int) -> None:
    """Give the lock back before the descriptor is closed."""
    fcntl.flock(fd, fcntl.LOCK_UN)


def announce_change(number: DeviceNumber) -> None:
    """Have udev look at a disk whose contents have changed while it was locked.

    Older ones (systemd before 250) drop what they hear of a locked disk, and no close of a descriptor that
    only read tells them of it. Where nobody may say so there is no udev to hear it either.
    """
    with contextlib.suppress(OSError):
        Path(f"/sys/dev/block/{number}/uevent").write_text("change", "ascii")


def refuse_claimed(fd: int) -> None:
    """Raise RefusedError where anyone, in any mount namespace, has claimed the disk or a partition of it.

    Mounts, swap, md, device-mapper and every tool that opens with O_EXCL claim a device. The claim made here
    to find out ends at once.
    """
    try:
        probe = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        raise RefusedError(
            "The device is in use: something has claimed it for itself.",
            hint="It may be mounted in a container, used as swap, or held by LVM, RAID or a running tool.",
            reason=Reason.DEVICE_BUSY,
        ) from error
    os.close(probe)
