"""A device from look to use: opened once, identified, and checked to be the same when it matters.

Opens read-only and never writes. What is pinned here is an open file description: while it is open the kernel
reuses its device number for nothing else.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from agent.core.errors import AgentError, RefusedError, VanishedError
from agent.core.exhaustion import is_shortage
from agent.core.model import Device, DeviceNumber, Identity, Partition, Reason
from agent.node.isolate.messages import Fd
from agent.node.kernel.ioctl import Request, ioctl
from agent.node.kernel.sysfs import (
    SECTOR_BYTES,
    SYSFS,
    find_name,
    list_names,
    locate,
    read_attribute,
    read_device_number,
    read_integer,
)

T = TypeVar("T")

_WAIT_WRITE_WAIT = 1 | 2 | 4
"""SYNC_FILE_RANGE_WAIT_BEFORE, WRITE and WAIT_AFTER (linux/fs.h)."""
_libc = ctypes.CDLL(None, use_errno=True)
_libc.sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


def open_device(path: str, identify: Callable[[int], Identity]) -> tuple[Fd, Device]:
    """Open the whole disk at ``path`` and find out what it is; the descriptor is the caller's.

    Raises VanishedError where it is gone, RefusedError where it is no whole disk or not a volume, AgentError
    where the facts contradict each other.
    """
    fd = _open_block(path)
    try:
        return fd, observe_device(fd, path, identify)
    except OSError as error:
        fd.close()
        if error.errno in {errno.ENXIO, errno.ENODEV}:
            raise VanishedError(
                f"{path} went away while it was looked at.", reason=Reason.NOT_ATTACHED
            ) from error
        raise
    except BaseException:
        fd.close()
        raise


def open_partition(path: str, number: DeviceNumber) -> Fd:
    """Open a partition's node for reading and make sure that it is that partition; the caller closes it."""
    fd = Fd(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW))
    rdev = os.fstat(fd).st_rdev
    if DeviceNumber(os.major(rdev), os.minor(rdev)) != number:
        fd.close()
        raise AgentError(f"{path} is not the partition {number} any more.")
    return fd


def observe_device(fd: int, path: str, identify: Callable[[int], Identity], sysfs: Path = SYSFS) -> Device:
    """Return what the kernel has of the device open at ``fd``, checked against sysfs."""
    rdev = os.fstat(fd).st_rdev
    number = DeviceNumber(os.major(rdev), os.minor(rdev))
    node, name = locate(number, sysfs), find_name(number, sysfs)
    entries = list_names(node)
    if name is None or not entries:
        raise VanishedError(f"{path} ({number}) is gone from sysfs.", reason=Reason.NOT_ATTACHED)
    if "partition" in entries:
        raise RefusedError(f"{path} is a partition, and volumes are whole disks.", retryable=False)
    if read_attribute(f"{node}/hidden") == "1":
        raise RefusedError(f"{path} is a hidden path to another device.", retryable=False)
    identity = identify(fd)
    _cross_check_serial(path, node, identity)
    size_bytes, diskseq = read_size(fd), read_diskseq(fd)
    told_seq = read_attribute(f"{node}/diskseq")
    if diskseq is not None and told_seq and told_seq != str(diskseq):
        raise VanishedError(f"{path} is another disk by now.", reason=Reason.NOT_ATTACHED)
    return Device(
        path=path,
        device_number=number,
        identity=identity,
        size_bytes=size_bytes,
        diskseq=diskseq,
        is_read_only=_is_read_only(fd),
        # A partition's directory bears its disk's name and its number.
        partitions=_read_partitions(node, [entry for entry in entries if entry.startswith(name)]),
        holders=_list_holders(node),
    )


def verify_pin(fd: int, device: Device, identify: Callable[[int], Identity]) -> None:
    """Raise VanishedError unless the device open at ``fd`` is still ``device``: just before and after a use.

    A changed size counts too: what was proven about the device was proven about its former end.
    """
    try:
        now = observe_device(fd, device.path, identify)
    except OSError as error:
        if is_shortage(error):
            raise
        words = os.strerror(error.errno or 0)
        raise VanishedError(f"{device.path} went away: {words}.", reason=Reason.NOT_ATTACHED) from error
    for what, then_value, now_value in (
        ("volume", device.identity, now.identity),
        ("device number", device.device_number, now.device_number),
        ("disk sequence number", device.diskseq, now.diskseq),
        ("size", device.size_bytes, now.size_bytes),
        ("partitions", device.partitions, now.partitions),
        ("holders", device.holders, now.holders),
    ):
        if then_value != now_value:
            raise VanishedError(
                f"{device.path} changed its {what} from {then_value} to {now_value} while it was looked at.",
                reason=Reason.PROBE_FAILED,
            )


def reopen(fd: int, flags: int) -> Fd:
    """Open the same disk again with other ``flags``, as a description of its own, or raise."""
    again = Fd(os.open(f"/proc/self/fd/{fd}", flags | os.O_CLOEXEC | os.O_NONBLOCK))
    try:
        same = os.fstat(fd).st_rdev == os.fstat(again).st_rdev and read_diskseq(fd) == read_diskseq(again)
    except BaseException:
        again.close()
        raise
    if not same:
        again.close()
        raise VanishedError(
            "The device became another one while it was looked at.", reason=Reason.PROBE_FAILED
        )
    return again


# -- Facts of an open descriptor -----------------------------------------------------------------------------


def read_size(fd: int) -> int:
    """Return the size in bytes the kernel has for the device now."""
    return _read_u64(fd, Request.BLKGETSIZE64)


def read_diskseq(fd: int) -> int | None:
    """Return the number of this appearance of a disk, or None from a kernel before 5.15."""
    try:
        return _read_u64(fd, Request.BLKGETDISKSEQ)
    except OSError as error:
        if error.errno in {errno.ENOTTY, errno.EINVAL}:
            return None
        raise


def count_writes(fd: int, sysfs: Path = SYSFS, *, is_flushing: bool = True) -> tuple[int, ...]:
    """Return how much was written to the disk, and how much discarded, since it appeared.

    What programs wrote and the kernel still holds back goes to the disk first, so that it is counted. Equal
    counts before and after mean that nobody wrote in between, unless accounting is off (``queue/iostats``).
    """
    if is_flushing:
        _write_back(fd)
    rdev = os.fstat(fd).st_rdev
    number = DeviceNumber(os.major(rdev), os.minor(rdev))
    # Nothing is not a count: it would be equal to nothing.
    text = _need(read_attribute(f"{locate(number, sysfs)}/stat") or None, str(number))
    fields = [int(word) for word in text.split()]
    # Sectors written and discarded (Documentation/block/stat.rst). Not requests: a flush counts as one.
    return tuple(fields[index] for index in (6, 13) if index < len(fields))


def _write_back(fd: int) -> None:
    """Have the kernel write what it holds back of a device, and wait for it (sync_file_range(2)).

    Unlike fsync this has nobody flush a cache, the disk's or that of a file behind it, which may take long
    and tells nothing. Raises OSError, EIO where something could not be written.
    """
    if _libc.sync_file_range(fd, 0, 0, _WAIT_WRITE_WAIT) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _open_block(path: str) -> Fd:
    """Open a block device without side effects: no write access, no media check, nothing but a block."""
    try:
        # O_PATH first: opening a tape, a terminal or a FIFO to find out that it is one has effects.
        handle = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise VanishedError(f"{path} is gone.", reason=Reason.NOT_ATTACHED) from error
    try:
        if not stat.S_ISBLK(os.fstat(handle).st_mode):
            raise RefusedError(f"{path} is no block device.", retryable=False)
        return Fd(os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as error:
        if error.errno in {errno.ENXIO, errno.ENODEV}:
            raise VanishedError(f"{path} has no device behind it.", reason=Reason.NOT_ATTACHED) from error
        raise
    finally:
        os.close(handle)


def _read_u64(fd: int, request: Request) -> int:
    answer = ctypes.c_uint64()
    ioctl(fd, request, answer)
    return answer.value


def _is_read_only(fd: int) -> bool:
    answer = ctypes.c_int()
    ioctl(fd, Request.BLKROGET, answer)
    return answer.value != 0


# -- Facts of sysfs ------------------------------------------------------------------------------------------


def read_noted_diskseq(number: DeviceNumber) -> int | None:
    """Return which appearance a disk, or the one a partition is of, is by sysfs; None before Linux 5.15."""
    node = locate(number)
    return read_integer(f"{node}/diskseq") or read_integer(f"{node}/../diskseq")


def read_appearance(path: str, sysfs: Path = SYSFS) -> tuple[int | None, int | None]:
    """Return the number of this appearance of the disk at ``path``, and its size in bytes.

    As the kernel has them: the device is not asked. None for what it does not say, or where the disk is gone.
    """
    node = f"{sysfs}/class/block/{path.removeprefix('/dev/')}"
    sectors = read_integer(f"{node}/size")
    return read_integer(f"{node}/diskseq"), None if sectors is None else sectors * SECTOR_BYTES


def is_block_device(number: DeviceNumber) -> bool:
    """Tell whether the kernel has a block device of this number: a disk that was pulled has none."""
    return find_name(number) is not None


def _read_partitions(node: str, names: list[str]) -> tuple[Partition, ...]:
    """Return the partitions among ``names`` in the directory of a disk, by number."""
    found = [
        _read_partition(f"{node}/{name}", name)
        for name in names
        if read_attribute(f"{node}/{name}/partition") is not None
    ]
    return tuple(sorted(found, key=lambda partition: partition.number))


def _read_partition(entry: str, name: str) -> Partition:
    return Partition(
        number=_need(read_integer(f"{entry}/partition"), name),
        path=f"/dev/{name}",
        device_number=_need(read_device_number(f"{entry}/dev"), name),
        start_bytes=_need(read_integer(f"{entry}/start"), name) * SECTOR_BYTES,
        size_bytes=_need(read_integer(f"{entry}/size"), name) * SECTOR_BYTES,
        holders=_list_holders(entry),
    )


def _list_holders(node: str) -> tuple[str, ...]:
    return tuple(sorted(list_names(f"{node}/holders")))


def _cross_check_serial(path: str, node: str, identity: Identity) -> None:
    """Compare what the device said with what the kernel noted when the device appeared."""
    noted = (read_attribute(f"{node}/device/serial") or "").strip()
    if noted and noted != identity.serial:
        raise AgentError(
            f"{path} says it is {identity.serial!r}, and the kernel knows it as {noted!r}.",
            hint="The device was exchanged under its name; the next look finds out.",
            reason=Reason.PROBE_FAILED,
        )


def _need(attribute: T | None, name: str) -> T:
    """Return an attribute that is there as long as its device is."""
    if attribute is None:
        raise VanishedError(f"{name} went away while it was looked at.", reason=Reason.PROBE_FAILED)
    return attribute
