"""Ioctls by name: numbers and layouts as the kernel's headers have them, and errors that name their call."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

import pytest

from agent.node.kernel import ioctl, mount_api
from agent.node.kernel.ioctl import Request

NUMBERS = {
    "BLKROGET": 0x125E,
    "BLKFLSBUF": 0x1261,
    "BLKPG": 0x1269,
    "BLKBSZGET": 0x80081270,
    "BLKGETSIZE64": 0x80081272,
    "BLKGETDISKSEQ": 0x80081280,
    "FIFREEZE": 0xC0045877,
    "FITHAW": 0xC0045878,
    "EXT4_IOC_RESIZE_FS": 0x40086610,
    "XFS_IOC_FSGEOMETRY_V1": 0x80705864,
    "XFS_IOC_FSGROWFSDATA": 0x4010586E,
    "BTRFS_IOC_RESIZE": 0x50009403,
    "BTRFS_IOC_FORGET_DEV": 0x50009405,
    "BTRFS_IOC_DEV_INFO": 0xD000941E,
    "BTRFS_IOC_FS_INFO": 0x8400941F,
    "LOOP_SET_FD": 0x4C00,
    "LOOP_CLR_FD": 0x4C01,
    "LOOP_SET_STATUS64": 0x4C04,
    "LOOP_GET_STATUS64": 0x4C05,
    "LOOP_SET_CAPACITY": 0x4C07,
    "LOOP_SET_DIRECT_IO": 0x4C08,
    "LOOP_CONFIGURE": 0x4C0A,
    "LOOP_CTL_GET_FREE": 0x4C82,
    "NVME_IOCTL_ADMIN_CMD": 0xC0484E41,
}

LAYOUTS: list[tuple[type[ctypes.Structure], int, dict[str, int]]] = [
    (ioctl.XfsGeometryV1, 112, {"blocksize": 0, "imaxpct": 28, "datablocks": 32, "dirblocksize": 104}),
    (ioctl.XfsGrowData, 16, {"newblocks": 0, "imaxpct": 8}),
    (ioctl.BtrfsVolArgs, 4096, {"fd": 0, "name": 8}),
    (ioctl.BtrfsFsInfo, 1024, {"max_id": 0, "num_devices": 8, "fsid": 16}),
    (ioctl.BtrfsDevInfo, 4096, {"devid": 0, "total_bytes": 32, "path": 3072}),
    (ioctl.BlkpgPartition, 152, {"start": 0, "length": 8, "pno": 16, "devname": 20, "volname": 84}),
    (ioctl.BlkpgArg, 24, {"op": 0, "flags": 4, "datalen": 8, "data": 16}),
    (
        ioctl.LoopInfo,
        232,
        {"device": 0, "inode": 8, "offset": 24, "flags": 52, "file_name": 56},
    ),
    (ioctl.LoopConfig, 304, {"fd": 0, "block_size": 4, "info": 8, "reserved": 240}),
    (ioctl.NvmeAdminCommand, 72, {"nsid": 4, "addr": 24, "data_len": 36, "cdw10": 40, "timeout_ms": 64}),
    (mount_api.MountAttr, 32, {"attr_set": 0, "attr_clr": 8, "propagation": 16, "userns_fd": 24}),
]


def test_numbers_are_the_kernels() -> None:
    """Every request has the number its header gives it."""
    assert {request.name: request.value for request in Request} == NUMBERS


@pytest.mark.parametrize(("structure", "size_bytes", "offsets"), LAYOUTS)
def test_layouts_are_the_kernels(
    structure: type[ctypes.Structure], size_bytes: int, offsets: dict[str, int]
) -> None:
    """Every structure is as long as the kernel's, and what is read or written lies where it is there."""
    assert ctypes.sizeof(structure) == size_bytes
    assert {name: getattr(structure, name).offset for name in offsets} == offsets


def test_error_names_request_and_file(tmp_path: Path) -> None:
    """Which call failed, and on what, is in the words; the number is the kernel's."""
    path = tmp_path / "file"
    with path.open("wb") as file, pytest.raises(OSError, match="BLKGETSIZE64") as caught:
        ioctl.ioctl(file.fileno(), Request.BLKGETSIZE64, ctypes.c_uint64())
    assert caught.value.errno == errno.ENOTTY
    assert caught.value.strerror == f"BLKGETSIZE64 on {path}: Inappropriate ioctl for device"


def test_error_keeps_its_class() -> None:
    """Python's own class of a number stays, so that nobody who tells errors by it is misled."""
    assert isinstance(ioctl.name_call(errno.EACCES, "fsopen of ext4"), PermissionError)
    assert isinstance(ioctl.name_call(errno.EAGAIN, "fsopen of ext4"), BlockingIOError)


def test_closed_descriptor_has_no_path() -> None:
    """An error about a descriptor that is not open is an error of the call still."""
    fd = os.open("/", os.O_RDONLY)
    os.close(fd)
    with pytest.raises(OSError, match=f"FITHAW on descriptor {fd}: Bad file descriptor"):
        mount_api.thaw(fd)


def test_system_call_names_itself() -> None:
    """A system call's error says which it was and what it was about, a path through a descriptor resolved."""
    fd = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    try:
        with pytest.raises(OSError, match=r"umount2 of /proc/nothing: ") as caught:
            mount_api.unmount(f"/proc/self/fd/{fd}/nothing", mount_api.UMOUNT_NOFOLLOW)
    finally:
        os.close(fd)
    assert caught.value.errno in {errno.ENOENT, errno.EPERM}
