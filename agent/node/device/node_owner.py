"""Owner, group and permission bits of device nodes. A device is not opened for them."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator

from agent.core.errors import VanishedError
from agent.core.model import DeviceNumber, RootInode


def read_node_owner(path: str, device_number: DeviceNumber) -> RootInode:
    """Return owner, group and permission bits of a device's node."""
    with _open_node(path, device_number) as fd:
        status = os.fstat(fd)
    return RootInode(status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode))


def set_node_owner(
    path: str, device_number: DeviceNumber, uid: int | None, gid: int | None, mode: int | None
) -> None:
    """Give a device's node its owner, group and permission bits; None leaves one as it is.

    VanishedError where the node at ``path`` is not of the device ``device_number``.
    """
    with _open_node(path, device_number) as fd:
        # An O_PATH descriptor takes no fchown, but its link in /proc leads to exactly this node.
        node = f"/proc/self/fd/{fd}"
        if uid is not None or gid is not None:
            os.chown(node, -1 if uid is None else uid, -1 if gid is None else gid)
        if mode is not None:
            os.chmod(node, mode)  # noqa: PTH101


@contextlib.contextmanager
def _open_node(path: str, device_number: DeviceNumber) -> Iterator[int]:
    try:
        fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise VanishedError(f"The device node {path} is gone.") from error
    try:
        status = os.fstat(fd)
        number = DeviceNumber(os.major(status.st_rdev), os.minor(status.st_rdev))
        if not stat.S_ISBLK(status.st_mode) or number != device_number:
            raise VanishedError(
                f"The node {path} is not of the block device {device_number} any more.",
                hint="Devices were renumbered meanwhile; the next look finds the volume again.",
            )
        yield fd
    finally:
        os.close(fd)
