"""Writes that leave nothing behind, to see whether a mounted filesystem takes any: one begun, one undone.

Both may block on the device, or until a thaw, and run in a worker.
"""

from __future__ import annotations

import errno
import os

from agent.core.errors import CoveredError, NotMountedError
from agent.core.exhaustion import is_shortage
from agent.core.model import DeviceNumber
from agent.node.filesystem.change_mount import open_mount

NAME_MAX = 255
"""Bytes of a file's name, in every filesystem the agent mounts (include/uapi/linux/limits.h)."""


def begin_write(path: str, device_number: DeviceNumber) -> None:
    """Begin to write to a mounted filesystem, and change nothing: who does so waits while it is frozen.

    OSError where it takes no writes at all.
    """
    with open_mount(path, device_number) as (mount_fd, _):
        try:
            # Leave to write is taken before the name is looked at (do_unlinkat in fs/namei.c), and no
            # filesystem takes a name as long as this one, so there is nothing that it could remove.
            os.unlink("x" * (NAME_MAX + 1), dir_fd=mount_fd)
        except OSError as error:
            if error.errno not in {errno.ENAMETOOLONG, errno.ENOENT}:
                raise


def probe_write(path: str, number: DeviceNumber, mount_id: int) -> int | None:
    """Return the errno of making a file without a name in a mount; it is gone when it is closed.

    None too where something hides the mount by now, or it is gone.
    """
    try:
        with open_mount(path, number, mount_id) as (mount_fd, _):
            return _probe_write(mount_fd)
    except (CoveredError, NotMountedError):
        return None


def _probe_write(mount_fd: int) -> int | None:
    try:
        os.close(os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=mount_fd))
    except OSError as error:
        if is_shortage(error):
            raise
        # A full filesystem takes no file and is not broken for it; that is told by its usage.
        return error.errno if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EOPNOTSUPP} else None
    return None
