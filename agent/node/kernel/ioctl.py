"""Ioctls under the kernel's names: numbers, the structures that go with them, and errors that name the call.

An error of the kernel says a number and nothing of which call it was, nor on what. So
:func:`name_call` adds both; the number stays, and with it all that is concluded from it.
"""

from __future__ import annotations

import ctypes
import enum
import fcntl
import os
from pathlib import Path

from agent.core.quoting import make_printable


class XfsGeometryV1(ctypes.Structure):
    """``struct xfs_fsop_geom_v1`` (fs/xfs/libxfs/xfs_fs.h)."""

    _fields_ = (
        *((name, ctypes.c_uint32) for name in ("blocksize", "rtextsize", "agblocks", "agcount")),
        *((name, ctypes.c_uint32) for name in ("logblocks", "sectsize", "inodesize", "imaxpct")),
        *((name, ctypes.c_uint64) for name in ("datablocks", "rtblocks", "rtextents", "logstart")),
        ("uuid", ctypes.c_uint8 * 16),
        *((name, ctypes.c_uint32) for name in ("sunit", "swidth", "version", "flags")),
        *((name, ctypes.c_uint32) for name in ("logsectsize", "rtsectsize", "dirblocksize")),
    )


class XfsGrowData(ctypes.Structure):
    """``struct xfs_growfs_data`` (fs/xfs/libxfs/xfs_fs.h)."""

    _fields_ = (("newblocks", ctypes.c_uint64), ("imaxpct", ctypes.c_uint32))


class BtrfsVolArgs(ctypes.Structure):
    """``struct btrfs_ioctl_vol_args`` (linux/btrfs.h)."""

    _fields_ = (("fd", ctypes.c_int64), ("name", ctypes.c_char * 4088))


class BtrfsFsInfo(ctypes.Structure):
    """``struct btrfs_ioctl_fs_info_args`` (linux/btrfs.h), as far as it has always been there."""

    _fields_ = (
        ("max_id", ctypes.c_uint64),
        ("num_devices", ctypes.c_uint64),
        ("fsid", ctypes.c_uint8 * 16),
        ("rest", ctypes.c_uint8 * 992),
    )


class BtrfsDevInfo(ctypes.Structure):
    """``struct btrfs_ioctl_dev_info_args`` (linux/btrfs.h)."""

    _fields_ = (
        ("devid", ctypes.c_uint64),
        ("uuid", ctypes.c_uint8 * 16),
        ("bytes_used", ctypes.c_uint64),
        ("total_bytes", ctypes.c_uint64),
        ("unused", ctypes.c_uint64 * 379),
        ("path", ctypes.c_char * 1024),
    )


class BlkpgPartition(ctypes.Structure):
    """``struct blkpg_partition`` (linux/blkpg.h)."""

    _fields_ = (
        ("start", ctypes.c_longlong),
        ("length", ctypes.c_longlong),
        ("pno", ctypes.c_int),
        ("devname", ctypes.c_char * 64),
        ("volname", ctypes.c_char * 64),
    )


class BlkpgArg(ctypes.Structure):
    """``struct blkpg_ioctl_arg`` (linux/blkpg.h)."""

    _fields_ = (
        ("op", ctypes.c_int),
        ("flags", ctypes.c_int),
        ("datalen", ctypes.c_int),
        ("data", ctypes.POINTER(BlkpgPartition)),
    )


class LoopInfo(ctypes.Structure):
    """``struct loop_info64`` (linux/loop.h), without its prefix ``lo_``."""

    _fields_ = (
        *((name, ctypes.c_uint64) for name in ("device", "inode", "rdevice", "offset", "sizelimit")),
        *((name, ctypes.c_uint32) for name in ("number", "encrypt_type", "encrypt_key_size", "flags")),
        ("file_name", ctypes.c_char * 64),
        ("crypt_name", ctypes.c_char * 64),
        ("encrypt_key", ctypes.c_uint8 * 32),
        ("init", ctypes.c_uint64 * 2),
    )


class LoopConfig(ctypes.Structure):
    """``struct loop_config`` (linux/loop.h)."""

    _fields_ = (
        ("fd", ctypes.c_uint32),
        ("block_size", ctypes.c_uint32),
        ("info", LoopInfo),
        ("reserved", ctypes.c_uint64 * 8),
    )


class NvmeAdminCommand(ctypes.Structure):
    """``struct nvme_passthru_cmd``, by its other name ``nvme_admin_cmd`` (linux/nvme_ioctl.h)."""

    _fields_ = (
        ("opcode", ctypes.c_uint8),
        ("flags", ctypes.c_uint8),
        ("rsvd1", ctypes.c_uint16),
        *((name, ctypes.c_uint32) for name in ("nsid", "cdw2", "cdw3")),
        *((name, ctypes.c_uint64) for name in ("metadata", "addr")),
        *((name, ctypes.c_uint32) for name in ("metadata_len", "data_len", "cdw10", "cdw11", "cdw12")),
        *((name, ctypes.c_uint32) for name in ("cdw13", "cdw14", "cdw15", "timeout_ms", "result")),
    )


def _ioc(direction: int, group: str | int, number: int, size: int) -> int:
    """_IOC of asm-generic/ioctl.h, which both x86-64 and arm64 take as it is."""
    return direction << 30 | size << 16 | (ord(group) if isinstance(group, str) else group) << 8 | number


def _io(group: str | int, number: int) -> int:
    return _ioc(0, group, number, 0)


def _iow(group: str | int, number: int, argument: type[ctypes.Structure | ctypes.c_uint64]) -> int:
    return _ioc(1, group, number, ctypes.sizeof(argument))


def _ior(group: str | int, number: int, argument: type[ctypes.Structure | ctypes.c_uint64]) -> int:
    return _ioc(2, group, number, ctypes.sizeof(argument))


def _iowr(group: str | int, number: int, argument: type[ctypes.Structure | ctypes.c_int]) -> int:
    return _ioc(3, group, number, ctypes.sizeof(argument))


class Request(enum.IntEnum):
    """Every ioctl the agent makes."""

    # linux/fs.h
    BLKROGET = _io(0x12, 94)
    BLKFLSBUF = _io(0x12, 97)
    BLKPG = _io(0x12, 105)
    BLKBSZGET = _ior(0x12, 112, ctypes.c_uint64)  # in its number a size_t; what it writes is an int
    BLKGETSIZE64 = _ior(0x12, 114, ctypes.c_uint64)
    BLKGETDISKSEQ = _ior(0x12, 128, ctypes.c_uint64)
    FIFREEZE = _iowr("X", 119, ctypes.c_int)
    FITHAW = _iowr("X", 120, ctypes.c_int)
    # fs/ext4/ext4.h, fs/xfs/libxfs/xfs_fs.h, linux/btrfs.h
    EXT4_IOC_RESIZE_FS = _iow("f", 16, ctypes.c_uint64)
    XFS_IOC_FSGEOMETRY_V1 = _ior("X", 100, XfsGeometryV1)
    XFS_IOC_FSGROWFSDATA = _iow("X", 110, XfsGrowData)
    BTRFS_IOC_RESIZE = _iow(0x94, 3, BtrfsVolArgs)
    BTRFS_IOC_FORGET_DEV = _iow(0x94, 5, BtrfsVolArgs)
    BTRFS_IOC_DEV_INFO = _iowr(0x94, 30, BtrfsDevInfo)
    BTRFS_IOC_FS_INFO = _ior(0x94, 31, BtrfsFsInfo)
    # linux/loop.h has these as plain numbers.
    LOOP_SET_FD = _io("L", 0x00)
    LOOP_CLR_FD = _io("L", 0x01)
    LOOP_SET_STATUS64 = _io("L", 0x04)
    LOOP_GET_STATUS64 = _io("L", 0x05)
    LOOP_SET_CAPACITY = _io("L", 0x07)
    LOOP_SET_DIRECT_IO = _io("L", 0x08)
    LOOP_CONFIGURE = _io("L", 0x0A)
    LOOP_CTL_GET_FREE = _io("L", 0x82)
    # linux/nvme_ioctl.h
    NVME_IOCTL_ADMIN_CMD = _iowr("N", 0x41, NvmeAdminCommand)


def ioctl(
    fd: int, request: Request, argument: int | ctypes.Structure | ctypes.c_uint64 | ctypes.c_int = 0
) -> int:
    """Make an ioctl, which may write to ``argument``; return its result. OSError names call and object."""
    try:
        return fcntl.ioctl(fd, request, argument)
    except OSError as error:
        raise name_call(error.errno or 0, f"{request.name} on {describe_descriptor(fd)}") from None


def name_call(number: int, call: str) -> OSError:
    """Return the kernel's error ``number`` with the call that gave it, and the object, for its words."""
    return OSError(number, f"{call}: {os.strerror(number)}")


def describe_descriptor(fd: int) -> str:
    """Return the path of what is open, as the kernel notes it: nothing is asked of any device."""
    try:
        return make_printable(str(Path(f"/proc/self/fd/{fd}").readlink()))
    except OSError:
        return f"descriptor {fd}"
