"""How the filesystem of a volume is: a part of a sample, made in a worker, which may get stuck in it."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from pathlib import Path

from agent.core.errors import AgentError, CoveredError, NotMountedError
from agent.core.exhaustion import is_shortage
from agent.core.model import Device, DeviceNumber, FsType, Mount
from agent.node.content.superblocks import FS_TYPES
from agent.node.device.open_device import open_partition
from agent.node.filesystem import change_mount, grow
from agent.node.kernel.mountinfo import (
    find_mounted_partition,
    find_top_mount,
    is_of_device,
    is_whole,
)
from agent.node.kernel.sysfs import PROC, SYSFS, find_name, read_attribute, read_integer
from agent.node.sampling.values import MountSample

_EXT4_SUPERBLOCK = 1024
_EXT4_MOUNT_TIME = 44
_EXT4_ERR_EROFS = 8


def sample_mount(
    fd: int, device: Device, path: str, mounts: Iterable[Mount]
) -> tuple[MountSample | None, int]:
    """Return how the filesystem is, and the bytes there are for it; ``mounts`` are all, or those towards it.

    None where ``path`` does not lead to this volume: what hides it is asked nothing, nor is anything read or
    written by a path, which may lead elsewhere by then.
    """
    mount = find_top_mount(mounts, path)
    if mount is None or not is_whole(mount) or not is_of_device(mount, device):
        return None, device.size_bytes
    try:
        with change_mount.open_seen(mount) as mount_fd:
            return _sample_open_mount(fd, device, mount, mount_fd)
    except (CoveredError, NotMountedError):
        return None, device.size_bytes


def _sample_open_mount(fd: int, device: Device, mount: Mount, mount_fd: int) -> tuple[MountSample, int]:
    partition = find_mounted_partition(device, mount)
    if partition is None:
        return _look_at_mount(fd, device.device_number, mount, mount_fd), device.size_bytes
    part_fd = open_partition(partition.path, partition.device_number)
    try:
        return _look_at_mount(part_fd, partition.device_number, mount, mount_fd), partition.size_bytes
    finally:
        os.close(part_fd)


def _look_at_mount(fd: int, number: DeviceNumber, mount: Mount, mount_fd: int) -> MountSample:
    marks = mount.super_options & {"emergency_ro", "shutdown"}
    usage: os.statvfs_result | None = None
    root_errno = spans_bytes = None
    try:
        # One that is shut down still answers statvfs, and so tells less than its root directory does.
        usage = os.fstatvfs(mount_fd)
        os.fstat(mount_fd)
        spans_bytes = _measure(fd, mount, mount_fd)
    except OSError as error:
        if is_shortage(error):
            raise
        root_errno = error.errno
    errors = read_error_count(mount.fs_type, number)
    is_emergency = (
        bool(marks)
        or ("ro" in mount.super_options and "ro" not in mount.options)
        or (mount.fs_type == FsType.EXT4.value and bool(errors) and has_refused_writes(fd, number))
    )
    return MountSample(
        path=mount.path,
        fs_type=mount.fs_type,
        is_read_only=mount.is_read_only or is_emergency or (usage is not None and _says_read_only(usage)),
        is_emergency=is_emergency,
        root_errno=root_errno,
        size_bytes=usage.f_blocks * usage.f_frsize if usage else 0,
        avail_bytes=usage.f_bavail * usage.f_frsize if usage else 0,
        files=usage.f_files if usage else 0,
        files_free=usage.f_ffree if usage else 0,
        spans_bytes=spans_bytes,
        errors=errors,
        device_number=mount.device_number,
        mount_id=mount.mount_id,
    )


def _says_read_only(usage: os.statvfs_result) -> bool:
    return bool(usage.f_flag & os.ST_RDONLY)


def _measure(fd: int, mount: Mount, mount_fd: int) -> int | None:
    kind = FS_TYPES.get(mount.fs_type)
    if kind is None:
        return None
    try:
        if kind is FsType.EXT4:
            # By its superblock alone, which is on the device that this mount was found to be of.
            return grow.read_ext4_size_bytes(fd)
        with change_mount.open_root(mount_fd) as root_fd:
            return grow.read_size_bytes(root_fd, fd, kind)
    except AgentError:
        return None


def has_refused_writes(fd: int, number: DeviceNumber, sysfs: Path = SYSFS, proc: Path = PROC) -> bool:
    """Tell whether a mounted ext4, open at ``fd``, has since met an error after which it takes no writes.

    From Linux 6.12 to 6.14, and with later updates of 6.1 and 6.6, neither its options nor statvfs say so. An
    error since it was mounted does, with what follows from it (ext4_handle_error in fs/ext4/super.c).
    """
    name = find_name(number, sysfs)
    if name is None:
        return False
    node = f"{sysfs}/fs/ext4/{name}"
    (mounted,) = struct.unpack("<I", os.pread(fd, 4, _EXT4_SUPERBLOCK + _EXT4_MOUNT_TIME))
    times = {which: read_integer(f"{node}/{which}_error_time") for which in ("first", "last")}
    recent = [which for which, time_s in times.items() if time_s is not None and time_s > mounted]
    # A journal that cannot be written ends it whatever its options say, and each later attempt is told so.
    if any(
        read_attribute(f"{node}/{which}_error_func") == "ext4_journal_check_start"
        or read_integer(f"{node}/{which}_error_errcode") == _EXT4_ERR_EROFS
        for which in recent
    ):
        return True
    options = read_attribute(f"{proc}/fs/ext4/{name}/options") or ""
    return bool(recent) and "errors=remount-ro" in options.split()


def read_error_count(fs_type: str, number: DeviceNumber, sysfs: Path = SYSFS) -> int | None:
    """Return how many errors a mounted filesystem has counted; None for those that count none."""
    name = find_name(number, sysfs)
    if name is None:
        return None
    if fs_type == FsType.EXT4.value:
        return read_integer(f"{sysfs}/fs/ext4/{name}/errors_count")
    if fs_type == FsType.BTRFS.value:
        return _read_btrfs_errors(name, sysfs)
    return None


def _read_btrfs_errors(name: str, sysfs: Path) -> int | None:
    """Sum the device's ``write_errs``, ``read_errs``, ``flush_errs`` and so on (Linux 5.14 and later)."""
    for member in (sysfs / "fs/btrfs").glob(f"*/devices/{name}"):
        texts = [read_attribute(str(stats)) for stats in member.parent.parent.glob("devinfo/*/error_stats")]
        counts = [line.split() for text in texts if text for line in text.splitlines()]
        return sum(int(words[1]) for words in counts if len(words) == 2 and words[1].isdigit())  # noqa: PLR2004
    return None
