"""One sample of how a volume is: a single call to a worker, which may get stuck in it. Changes nothing.

What each part of the machine says is gathered side by side, so that one that fails hides no other. How it is
judged is not decided here (``agent.report.verdicts``).
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agent.errors import AgentError, InconclusiveError, VanishedError
from agent.model import Device, DeviceNumber, FsType, Identity, Mount, VolumeId
from agent.node import growth, mounted, nvme
from agent.node.device import open_device, reopen
from agent.node.look import open_partition
from agent.node.mountinfo import find_node_number, find_top_mount, read_mounts_at
from agent.node.sysfs import PROC, SECTOR_BYTES, SYSFS, find_name, locate, read_attribute, read_integer

_PROBE_BYTES = 4096
_MIN_FIELDS = 11
_EXT4_SUPERBLOCK = 1024
_EXT4_MOUNT_TIME = 44
_EXT4_ERR_EROFS = 8
_FS_TYPES = {kind.value: kind for kind in FsType}


@dataclass(frozen=True)
class SampleRequest:
    """Which volume to sample, and what of it may be touched."""

    volume: VolumeId
    path: str
    """Its device node."""
    mount_path: str | None = None
    """Where it is mounted; None: no filesystem is touched."""
    may_read: bool = False
    """Read one block of the device, past every cache: the only way to see an idle one stall."""
    may_write: bool = False
    """Make a nameless file in the filesystem's root and let it go again."""


@dataclass(frozen=True)
class BlockCounters:
    """What the kernel counted of a block device since it appeared (Documentation/block/stat.rst)."""

    reads: int
    read_bytes: int
    read_ms: int
    writes: int
    write_bytes: int
    write_ms: int
    in_flight: int
    busy_ms: int
    others: int = 0
    """Discards and flushes that completed."""

    @property
    def completed(self) -> int:
        return self.reads + self.writes + self.others


@dataclass(frozen=True)
class MountSample:
    """How the filesystem of a volume is. ``…_errno`` is that of a call that failed."""

    path: str
    fs_type: str
    is_read_only: bool
    """The kernel takes no writes there, whatever the reason."""
    is_emergency: bool = False
    """An error made it so, or shut it down."""
    root_errno: int | None = None
    """Of looking at the root directory; EIO on one that is shut down."""
    write_errno: int | None = None
    size_bytes: int = 0
    avail_bytes: int = 0
    files: int = 0
    files_free: int = 0
    spans_bytes: int | None = None
    """Of its device, by its own superblock; statvfs leaves its own structures out."""
    errors: int | None = None
    """Errors it has counted: ext4 since mkfs or the last full check, btrfs since they were reset."""


@dataclass(frozen=True)
class Sample:
    """What one sample found."""

    device_number: DeviceNumber
    size_bytes: int
    """Of the device, or of the partition that holds the filesystem."""
    counters: BlockCounters | None = None
    log_page: bytes | None = None
    """Log page 0xD0 as it came; None where the device has none."""
    log_page_error: str | None = None
    mount: MountSample | None = None
    read_errno: int | None = None
    probe_s: float | None = None
    """How long the one read took; None where none was made."""
    io_timeout_s: int | None = None
    """After which the kernel gives a command to this device up; None for what is no NVMe device."""
    duration_s: float = 0.0


def take_sample(request: SampleRequest, identify: Callable[[int], Identity]) -> Sample:
    """Return how a volume is now.

    Raises VanishedError where its device is gone or another volume by now, InconclusiveError where the kernel
    cannot reach it now, AgentError where it does not say which volume it is.
    """
    began = time.monotonic()
    fd, device = open_device(request.path, identify)
    try:
        if device.identity.volume_id != request.volume:
            raise VanishedError(f"{request.path} is {device.identity.volume_id}, not {request.volume}.")
        log_page, log_page_error = _read_log_page(fd)
        mount, size_bytes = None, device.size_bytes
        if request.mount_path is not None:
            mount, size_bytes = _sample_mount(fd, device, request.mount_path, may_write=request.may_write)
        # The read last, as it may hang, and the counters after it, so that the next ones tell others' work.
        read_errno, probe_s = _probe(fd) if request.may_read else (None, None)
        return Sample(
            device_number=device.device_number,
            size_bytes=size_bytes,
            counters=read_block_counters(device.device_number),
            log_page=log_page,
            log_page_error=log_page_error,
            mount=mount,
            read_errno=read_errno,
            probe_s=probe_s,
            io_timeout_s=read_io_timeout_s(device.device_number),
            duration_s=time.monotonic() - began,
        )
    finally:
        fd.close()


# -- The device ----------------------------------------------------------------------------------------------


def read_block_counters(number: DeviceNumber, sysfs: Path = SYSFS) -> BlockCounters | None:
    """Return the kernel's counters of a block device, or None. Asks the kernel alone, so it never blocks."""
    try:
        text = read_attribute(f"{locate(number, sysfs)}/stat")
    except OSError:
        return None
    return None if text is None else parse_block_counters(text)


def parse_block_counters(text: str) -> BlockCounters | None:
    """Return what a line of ``stat`` says: 11 numbers, with discards 15, with flushes 17."""
    try:
        numbers = [int(word) for word in text.split()]
    except ValueError:
        return None
    if len(numbers) < _MIN_FIELDS:
        return None
    reads, _, read_sectors, read_ms, writes, _, write_sectors, write_ms, in_flight, busy_ms, _ = numbers[:11]
    return BlockCounters(
        reads=reads,
        read_bytes=read_sectors * SECTOR_BYTES,
        read_ms=read_ms,
        writes=writes,
        write_bytes=write_sectors * SECTOR_BYTES,
        write_ms=write_ms,
        in_flight=in_flight,
        busy_ms=busy_ms,
        others=sum(numbers[11:12]) + sum(numbers[15:16]),
    )


def read_io_timeout_s(number: DeviceNumber, sysfs: Path = SYSFS) -> int | None:
    """Return ``nvme_core.io_timeout``; None for a device that is no NVMe one, or where it cannot be read."""
    if not (find_name(number, sysfs) or "").startswith("nvme"):
        return None
    return read_integer(f"{sysfs}/module/nvme_core/parameters/io_timeout")


def _read_log_page(fd: int) -> tuple[bytes | None, str | None]:
    try:
        return nvme.read_log_page(fd), None
    except InconclusiveError:
        raise
    except AgentError as error:
        return None, error.message


def _probe(fd: int) -> tuple[int | None, float]:
    """Read the first block from the device itself; return the errno of a failure, and how long it took."""
    began = time.monotonic()
    failure = None
    try:
        direct = reopen(fd, os.O_RDONLY | os.O_DIRECT)
        with contextlib.closing(direct), mmap.mmap(-1, _PROBE_BYTES) as block:
            os.preadv(direct, [block], 0)
    except OSError as error:
        failure = error.errno
    return failure, time.monotonic() - began


# -- The filesystem ------------------------------------------------------------------------------------------


def _sample_mount(fd: int, device: Device, path: str, *, may_write: bool) -> tuple[MountSample | None, int]:
    """Return how the filesystem is, and the bytes there are for it; None where this volume is not mounted."""
    mount = find_top_mount(read_mounts_at(path), path)
    if mount is None or not _is_of(mount, device):
        return None, device.size_bytes
    partition = next((p for p in device.partitions if p.device_number == mount.device_number), None)
    # btrfs gives its mounts numbers of their own; the agent mounts none that spans several devices.
    if partition is None and mount.fs_type == FsType.BTRFS.value and len(device.partitions) == 1:
        partition = device.partitions[0]
    if partition is None:
        return _look_at_mount(fd, device.device_number, mount, may_write=may_write), device.size_bytes
    part_fd = open_partition(partition.path, partition.device_number)
    try:
        found = _look_at_mount(part_fd, partition.device_number, mount, may_write=may_write)
        return found, partition.size_bytes
    finally:
        os.close(part_fd)


def _is_of(mount: Mount, device: Device) -> bool:
    return mount.device_number in device.numbers or find_node_number(mount.source) in device.numbers


def _look_at_mount(fd: int, number: DeviceNumber, mount: Mount, *, may_write: bool) -> MountSample:
    marks = mount.super_options & {"emergency_ro", "shutdown"}
    usage: os.statvfs_result | None = None
    root_errno = write_errno = spans_bytes = None
    try:
        # One that is shut down still answers statvfs, and so tells less than its root directory does.
        usage = os.statvfs(mount.path)
        Path(mount.path).stat()
        spans_bytes = _measure(fd, mount)
        if may_write and not mount.is_read_only:
            write_errno = _probe_write(mount.path)
    except OSError as error:
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
        write_errno=write_errno,
        size_bytes=usage.f_blocks * usage.f_frsize if usage else 0,
        avail_bytes=usage.f_bavail * usage.f_frsize if usage else 0,
        files=usage.f_files if usage else 0,
        files_free=usage.f_ffree if usage else 0,
        spans_bytes=spans_bytes,
        errors=errors,
    )


def _says_read_only(usage: os.statvfs_result) -> bool:
    return bool(usage.f_flag & os.ST_RDONLY)


def _measure(fd: int, mount: Mount) -> int | None:
    kind = _FS_TYPES.get(mount.fs_type)
    if kind is None:
        return None
    try:
        if kind is FsType.EXT4:
            # By its superblock alone, which is on the device that this mount was found to be of.
            return growth.read_ext4_size_bytes(fd)
        return mounted.read_mounted_size_bytes(mount.path, mount.device_number, fd, kind)
    except AgentError:
        return None


def _probe_write(path: str) -> int | None:
    """Return the errno of making a file without a name; it is gone when it is closed."""
    try:
        os.close(os.open(path, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except OSError as error:
        # A full filesystem takes no file and is not broken for it; that is told by its usage.
        return error.errno if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EOPNOTSUPP} else None
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
