"""The size of a mounted filesystem, and growing it while it is in use: ioctls on its open root directory.

The ioctls are what resize2fs, xfs_growfs and btrfs call themselves. Called here they concern exactly the
mount that is open, not whatever a tool finds when it searches the mount table for a path or a device; nor do
they visit every other mount of the machine first, of which one may be stalled. They may block: for workers.
"""

from __future__ import annotations

import ctypes
import errno
import os
import uuid
from pathlib import Path

from msgspec import Struct

from agent.core.errors import AgentError
from agent.core.model import DeviceNumber, FsType, Reason
from agent.node.content.superblocks import LAYOUTS, parse_ext4_size
from agent.node.kernel.ioctl import (
    BtrfsDevInfo,
    BtrfsFsInfo,
    BtrfsVolArgs,
    Request,
    XfsGeometryV1,
    XfsGrowData,
    ioctl,
)
from agent.node.kernel.sysfs import SYSFS, list_names, read_attribute, read_device_number


class BtrfsDevice(Struct, frozen=True):
    """The one device of a btrfs filesystem, as the mounted filesystem names it."""

    fsid: str
    device_id: int
    path: str
    size_bytes: int


def read_size_bytes(root_fd: int, device_fd: int, fs_type: FsType) -> int:
    """Return the bytes a mounted filesystem spans.

    ``root_fd`` is its root directory; ``device_fd`` its device opened without O_DIRECT, so that ext4's
    superblock is read from the very page cache in which the mounted filesystem keeps it.
    """
    if fs_type is FsType.EXT4:
        return read_ext4_size_bytes(device_fd)
    if fs_type is FsType.XFS:
        geometry = _read_xfs_geometry(root_fd)
        return int(geometry.blocksize * geometry.datablocks)
    return read_btrfs_device(root_fd).size_bytes


def grow_filesystem(root_fd: int, device_fd: int, fs_type: FsType) -> int:
    """Let a mounted filesystem fill its device and return the bytes it spans then.

    Growing one that fills its device already changes nothing.
    """
    size_bytes = os.lseek(device_fd, 0, os.SEEK_END)
    try:
        if fs_type is FsType.EXT4:
            _grow_ext4(root_fd, device_fd, size_bytes)
        elif fs_type is FsType.XFS:
            _grow_xfs(root_fd, size_bytes)
        else:
            _grow_btrfs(root_fd)
    except OSError as error:
        raise _cannot_grow(fs_type, size_bytes, error) from error
    return read_size_bytes(root_fd, device_fd, fs_type)


# -- ext4 ----------------------------------------------------------------------------------------------------


def read_ext4_size_bytes(device_fd: int) -> int:
    """Return block count times block size of the primary superblock (fs/ext4/ext4.h, ext4_super_block)."""
    blocks, block_bytes = _read_ext4_size(device_fd)
    return blocks * block_bytes


def _read_ext4_size(device_fd: int) -> tuple[int, int]:
    """Return blocks and the bytes of each; its checksum is left alone, since the kernel may be writing it."""
    layout = LAYOUTS[FsType.EXT4]
    try:
        return parse_ext4_size(os.pread(device_fd, layout.length_bytes, layout.offset_bytes))
    except ValueError:
        raise AgentError(
            "There is no ext4 superblock where it should be.", reason=Reason.FILESYSTEM_ERRORS
        ) from None


def _grow_ext4(root_fd: int, device_fd: int, size_bytes: int) -> None:
    filled, block_bytes = _read_ext4_size(device_fd)
    blocks = size_bytes // block_bytes
    if blocks > filled:
        ioctl(root_fd, Request.EXT4_IOC_RESIZE_FS, ctypes.c_uint64(blocks))


# -- xfs -----------------------------------------------------------------------------------------------------


def _read_xfs_geometry(root_fd: int) -> XfsGeometryV1:
    geometry = XfsGeometryV1()
    ioctl(root_fd, Request.XFS_IOC_FSGEOMETRY_V1, geometry)
    return geometry


def _grow_xfs(root_fd: int, size_bytes: int) -> None:
    geometry = _read_xfs_geometry(root_fd)
    blocks = size_bytes // geometry.blocksize
    if blocks > geometry.datablocks:
        ioctl(root_fd, Request.XFS_IOC_FSGROWFSDATA, XfsGrowData(blocks, geometry.imaxpct))


# -- btrfs ---------------------------------------------------------------------------------------------------


def read_btrfs_device(root_fd: int) -> BtrfsDevice:
    """Return the only device of a mounted btrfs.

    AgentError where the filesystem spans several: the agent mounts and grows none of those.
    """
    info = BtrfsFsInfo()
    ioctl(root_fd, Request.BTRFS_IOC_FS_INFO, info)
    if info.num_devices != 1:
        raise AgentError(
            f"The btrfs filesystem spans {info.num_devices} devices.",
            hint="Mount it yourself; the agent takes filesystems on one volume only.",
            reason=Reason.FILESYSTEM_MISMATCH,
            retryable=False,
        )
    fsid = str(uuid.UUID(bytes=bytes(info.fsid)))
    # Device IDs are not reused: a filesystem that once had more devices may have a higher one, and only that.
    for device_id in range(1, min(info.max_id, 1 << 16) + 1):
        try:
            device = BtrfsDevInfo(devid=device_id)
            ioctl(root_fd, Request.BTRFS_IOC_DEV_INFO, device)
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
            continue
        return BtrfsDevice(fsid, device_id, os.fsdecode(device.path), device.total_bytes)
    raise AgentError("The btrfs filesystem does not name its device.", reason=Reason.PROBE_FAILED)


def find_btrfs_number(root_fd: int, uuid_wanted: str, sysfs: Path = SYSFS) -> DeviceNumber | None:
    """Return the number of a mounted btrfs' only device; None where it is not of the wanted UUID.

    By the kernel's own list of its members, not by a device's name. Beside a mounted copy the kernel gives
    the filesystem another ID for as long as it is mounted (Linux 6.7, ``temp_fsid`` in fs/btrfs/sysfs.c).
    """
    fsid = read_btrfs_device(root_fd).fsid
    node = f"{sysfs}/fs/btrfs/{fsid}"
    is_temporary = read_attribute(f"{node}/temp_fsid") == "1"
    if (read_attribute(f"{node}/metadata_uuid") if is_temporary else fsid) != uuid_wanted:
        return None
    names = list_names(f"{node}/devices")
    return read_device_number(f"{node}/devices/{min(names)}/dev") if len(names) == 1 else None


def _grow_btrfs(root_fd: int) -> None:
    device_id = read_btrfs_device(root_fd).device_id
    ioctl(root_fd, Request.BTRFS_IOC_RESIZE, BtrfsVolArgs(name=f"{device_id}:max".encode()))


def _cannot_grow(fs_type: FsType, size_bytes: int, error: OSError) -> AgentError:
    hints = {
        # ext4 asks for this capability, and answers the same when its superblock records errors.
        errno.EPERM: "The agent's unit needs CAP_SYS_RESOURCE; else the filesystem has errors on record:"
        " unmount and check it.",
        errno.EBUSY: "Another resize or balance is running.",
        errno.ENOSPC: "The filesystem is too full to describe its new space; free some.",
        errno.EROFS: "It is read-only.",
    }
    return AgentError(
        f"The kernel did not grow the {fs_type} filesystem to {size_bytes} bytes: {error.strerror}.",
        hint=hints.get(error.errno or 0, "See the kernel log."),
        reason=Reason.NOT_GROWN,
    )
