"""Letting go of a device before it is detached: who still has it, and writing back what is not on it yet.

Whoever has a raw volume open is not seen by any unmount. Processes are found by their descriptors, in every
container; what the kernel itself holds (a mount in another namespace, LVM, RAID, swap) by an exclusive open.
For a worker: finding may take long, and flushing takes as long as the device does.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

import psutil
from msgspec import Struct

from agent.core.errors import AgentError, CoveredError
from agent.core.model import Device, DeviceNumber, FsType, Mount, Partition, Process, Reason
from agent.core.quoting import make_printable
from agent.core.replace import replace
from agent.node.device.open_device import open_partition
from agent.node.filesystem import change_mount
from agent.node.kernel.ioctl import Request, ioctl, name_call
from agent.node.kernel.open_files import PROC, has_ended, is_shielded_init, list_descriptors, list_processes
from agent.node.kernel.sysfs import list_names, locate
from agent.node.mounts.mount_users import describe_process, list_workers

_NODE_TYPES = frozenset({"devtmpfs", "tmpfs", "overlay", "ramfs", "ext2", "ext3", "ext4", "xfs", "btrfs"})
"""Filesystems device nodes live on, of the host and of containers. Asking about a file on any other may have
to wait for its server; on a mount with ``nodev``, as the volumes' own are, no device node can be opened."""
_FLUSHED_BY_DEVICE = frozenset({FsType.EXT4.value, FsType.XFS.value})
"""Filesystems that a flush of their device writes back whole (block/ioctl.c). Of a btrfs, which may have
several, only newer kernels' devices know."""
_LOOKS, _PAUSE_S = 4, 0.25
"""udev and blkid open a device for a moment whenever something changes about it."""
_CLEAN_LOOKS = 2
"""In a row: who passes a descriptor on while processes are looked through may be missed once."""


class Users(Struct, frozen=True):
    """Who has a device."""

    processes: tuple[Process, ...] = ()
    holders: tuple[str, ...] = ()
    """Block devices on top of it."""
    is_claimed: bool = False
    """The kernel grants it to nobody exclusively: somewhere it is mounted, or used by a driver."""
    unread: tuple[Process, ...] = ()
    """Processes of which it cannot be told what they have open."""

    @property
    def are_any(self) -> bool:
        return bool(self.processes or self.holders or self.is_claimed)

    def describe(self) -> str:
        return ", ".join([*_name(self.processes), *self.holders]) or (
            "a mount in another namespace, swap, or a driver"
        )


Find = Callable[[str, frozenset[DeviceNumber]], Users]


def check_unused(device: Device, find: Find | None = None) -> None:
    """Raise AgentError with reason DeviceBusy where anyone has the device or one of its partitions.

    So it does where that cannot be told: nobody is taken for gone who was merely not seen.
    """
    busy: list[Users] = []
    clean = 0
    while clean < _CLEAN_LOOKS:
        users = _look(device, find or find_users)
        if not users.are_any and not users.unread:
            clean += 1
            continue
        clean = 0
        busy.append(users)
        if len(busy) == _LOOKS:
            raise _name_users(device, _leave_out_passers_by(busy))
        time.sleep(_PAUSE_S)


def _leave_out_passers_by(looks: Sequence[Users]) -> Users:
    """Return whom the last look found, without who opened the device just then where something else stays."""
    last = looks[-1]
    staying = tuple(one for one in last.processes if all(one in look.processes for look in looks))
    is_claimed = all(look.is_claimed for look in looks)
    if staying or last.holders or is_claimed or all(look.unread for look in looks):
        return replace(last, processes=staying, is_claimed=is_claimed)
    return last


def _look(device: Device, find: Find) -> Users:
    try:
        return find(device.path, device.numbers)
    except PermissionError as error:
        raise _cannot_tell(device, f"{error.strerror} in {error.filename}") from error


def _name_users(device: Device, users: Users) -> AgentError:
    if not users.are_any:
        return _cannot_tell(device, f"what {', '.join(_name(users.unread))} has open cannot be read")
    return AgentError(
        f"{device.identity.volume_id} ({device.path}) is in use by {users.describe()}.",
        hint="End them, or have them close the device, and try again.",
        reason=Reason.DEVICE_BUSY,
    )


def _cannot_tell(device: Device, why: str) -> AgentError:
    return AgentError(
        f"Whether {device.identity.volume_id} ({device.path}) is in use cannot be told: {why}.",
        hint="To see what others have open the agent needs CAP_SYS_PTRACE, which its unit gives it."
        " If you know that nobody has the volume: ebs-agent detach --force.",
        reason=Reason.DEVICE_BUSY,
    )


def find_users(path: str, numbers: frozenset[DeviceNumber], proc: Path = PROC) -> Users:
    """Return who has the device at ``path``; ``numbers`` are its own and its partitions'.

    Raises PermissionError where not all processes can be seen, OSError where the device does not answer.
    """
    all_processes = list_processes(proc)
    own = _list_own_processes()
    processes = [process for process in all_processes if int(process.name) not in own]
    found: list[Process] = []
    unread: list[Process] = []
    safe_mounts = _SafeMounts()
    # First the mounts of all, since a descriptor may be on one that its holder has no way to any more.
    for ask in (safe_mounts.add, lambda process: _has_open(process, numbers, safe_mounts.ids)):
        for process in processes:
            answer = _try(ask, process)
            if answer is not False:
                (found if answer else unread).append(_describe(process))
    holders = sorted({name for number in numbers for name in list_names(f"{locate(number)}/holders")})
    return Users(tuple(found), tuple(holders), _is_claimed(path), tuple(dict.fromkeys(unread)))


def _try(ask: Callable[[Path], bool], process: Path) -> bool | None:
    """Return the answer; None where the process cannot be read."""
    try:
        return ask(process)
    except OSError as error:
        return False if is_shielded_init(process, error) else None


def _has_open(process: Path, numbers: frozenset[DeviceNumber], safe_mounts: AbstractSet[int]) -> bool:
    for descriptor in list_descriptors(process):
        if not descriptor.link.startswith("/"):
            continue  # a socket, a pipe
        if descriptor.read_mount_id() not in safe_mounts:
            continue
        found = descriptor.stat()
        if found is None or not stat.S_ISBLK(found.st_mode):
            continue
        if DeviceNumber(os.major(found.st_rdev), os.minor(found.st_rdev)) in numbers:
            return True
    return False


class _SafeMounts:
    """The mounts of every namespace that device nodes can be opened on, and on which asking does not wait."""

    def __init__(self) -> None:
        self.ids: set[int] = set()
        self._seen: set[tuple[str, str]] = set()

    def add(self, process: Path) -> bool:
        """Take in those that a process sees; False. OSError where that cannot be read."""
        try:
            # A process with a root directory of its own sees a part of its namespace.
            place = (os.readlink(process / "ns/mnt"), os.readlink(process / "root"))  # noqa: PTH115 (as they are)
            if place not in self._seen:
                self.ids.update(_list_safe_mounts(process))
                self._seen.add(place)
        except OSError as error:
            if not has_ended(error):
                raise
        return False


def _list_safe_mounts(process: Path) -> Iterator[int]:
    for line in (process / "mountinfo").read_text("utf-8", "surrogateescape").splitlines():
        mount, _, filesystem = line.partition(" - ")
        number, *_, options = mount.split()[:6]
        if filesystem.split()[0] in _NODE_TYPES and "nodev" not in options.split(","):
            yield int(number)


def _describe(process: Path) -> Process:
    try:
        return describe_process(process)
    except (OSError, psutil.Error):
        return Process(int(process.name), "?")


def _name(processes: tuple[Process, ...]) -> list[str]:
    return [one.describe() for one in processes[:10]]


def _list_own_processes() -> frozenset[int]:
    """Return this worker, its siblings, their parent, and the daemon, which holds the device as well."""
    zygote = psutil.Process(os.getppid())
    return list_workers() | {zygote.pid, zygote.ppid()}


def _is_claimed(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as error:
        if error.errno == errno.EBUSY:
            return True
        raise
    return False


def flush_device(fd: int) -> None:
    """Have everything written to the device on it; OSError where the device did not take it."""
    os.fsync(fd)
    with contextlib.suppress(PermissionError):
        ioctl(fd, Request.BLKFLSBUF)


def flush_mount(path: str, device_number: DeviceNumber) -> None:
    """Have everything written to the mounted filesystem on its device; OSError where it could not be."""
    libc = ctypes.CDLL(None, use_errno=True)
    with (
        change_mount.open_mount(path, device_number) as (mount_fd, _),
        change_mount.open_root(mount_fd) as root_fd,
    ):
        if libc.syncfs(root_fd) != 0:
            raise name_call(ctypes.get_errno(), f"syncfs of {make_printable(path)}")


def flush_any_mount(mount: Mount, device: Device) -> None:
    """Do what ``flush_mount`` does, also where something hides the mount: then by way of its device.

    CoveredError where the filesystem is not reached that way.
    """
    try:
        flush_mount(mount.path, mount.device_number)
    except CoveredError:
        parts: tuple[Device | Partition, ...] = (device, *device.partitions)
        path = next((part.path for part in parts if part.device_number == mount.device_number), None)
        if path is None or mount.fs_type not in _FLUSHED_BY_DEVICE:
            raise
        with contextlib.closing(open_partition(path, mount.device_number)) as fd:
            ioctl(fd, Request.BLKFLSBUF)
            os.fsync(fd)
