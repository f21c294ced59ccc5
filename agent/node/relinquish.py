"""Letting go of a device before it is detached: who still has it, and writing back what is not on it yet.

Whoever has a raw volume open is not seen by any unmount. Processes are found by their descriptors, in every
container; what the kernel itself holds (a mount in another namespace, LVM, RAID, swap) by an exclusive open.
For a worker: finding may take long, and flushing takes as long as the device does.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from agent.errors import AgentError
from agent.model import Device, DeviceNumber, Process, Reason
from agent.node import mounted
from agent.node.processes import describe_process, read_link
from agent.node.sysfs import list_names, locate

BLKFLSBUF = 0x1261
"""Write back and forget the buffer cache: linux/fs.h."""
_NODE_TYPES = frozenset({"devtmpfs", "tmpfs", "overlay"})
"""Filesystems device nodes live on, of the host and of containers. Asking about a file on any other may have
to wait for its device or its server."""
_LOOKS, _PAUSE_S = 4, 0.25
"""udev and blkid open a device for a moment whenever something changes about it."""


@dataclass(frozen=True)
class Users:
    """Who has a device."""

    processes: tuple[Process, ...] = ()
    holders: tuple[str, ...] = ()
    """Block devices on top of it."""
    is_claimed: bool = False
    """The kernel grants it to nobody exclusively: somewhere it is mounted, or used by a driver."""

    @property
    def are_any(self) -> bool:
        return bool(self.processes or self.holders or self.is_claimed)

    def describe(self) -> str:
        named = [f"{one.name} (pid {one.pid}, {one.user})" for one in self.processes[:10]]
        return ", ".join([*named, *self.holders]) or "a mount in another namespace, swap, or a driver"


def check_unused(device: Device) -> None:
    """Raise AgentError with reason DeviceBusy where anyone has the device or one of its partitions."""
    users = find_users(device.path, device.numbers)
    for _ in range(_LOOKS - 1):
        if not users.are_any:
            return
        time.sleep(_PAUSE_S)
        users = find_users(device.path, device.numbers)
    if users.are_any:
        raise AgentError(
            f"{device.identity.volume_id} ({device.path}) is in use by {users.describe()}.",
            hint="End them, or have them close the device, and try again.",
            reason=Reason.DEVICE_BUSY,
        )


def find_users(path: str, numbers: frozenset[DeviceNumber]) -> Users:
    """Return who has the device at ``path``; ``numbers`` are its own and its partitions'."""
    own = _list_own_processes()
    safe_mounts: dict[str, frozenset[str]] = {}
    found = []
    for pid in psutil.pids():
        process = Path("/proc", str(pid))
        # A process may end at any moment.
        with contextlib.suppress(OSError, psutil.Error):
            if pid not in own and _has_open(process, numbers, safe_mounts):
                found.append(describe_process(process))
    holders = sorted({name for number in numbers for name in list_names(f"{locate(number)}/holders")})
    return Users(tuple(found), tuple(holders), _is_claimed(path))


def _has_open(
    process: Path, numbers: frozenset[DeviceNumber], safe_mounts: dict[str, frozenset[str]]
) -> bool:
    with os.scandir(process / "fd") as entries:
        for entry in entries:
            if not read_link(Path(entry.path)).startswith("/"):
                continue  # a socket, a pipe
            if _read_mount_id(process, entry.name) in _find_safe_mounts(process, safe_mounts):
                found = entry.stat()
                is_device = stat.S_ISBLK(found.st_mode)
                if is_device and DeviceNumber(os.major(found.st_rdev), os.minor(found.st_rdev)) in numbers:
                    return True
    return False


def _read_mount_id(process: Path, descriptor: str) -> str:
    for line in (process / "fdinfo" / descriptor).read_text("ascii").splitlines():
        if line.startswith("mnt_id:"):
            return line.split()[1]
    return ""


def _find_safe_mounts(process: Path, known: dict[str, frozenset[str]]) -> frozenset[str]:
    namespace = read_link(process / "ns/mnt")
    if namespace not in known:
        known[namespace] = frozenset(_list_safe_mounts(process))
    return known[namespace]


def _list_safe_mounts(process: Path) -> Iterator[str]:
    for line in (process / "mountinfo").read_text("utf-8", "surrogateescape").splitlines():
        mount, _, filesystem = line.partition(" - ")
        if filesystem.split()[0] in _NODE_TYPES:
            yield mount.split()[0]


def _list_own_processes() -> frozenset[int]:
    """Return this worker, its siblings, their parent, and the daemon, which holds the device as well."""
    zygote = psutil.Process(os.getppid())
    return frozenset({os.getpid(), zygote.pid, zygote.ppid(), *(one.pid for one in zygote.children())})


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
        fcntl.ioctl(fd, BLKFLSBUF, 0)


def flush_mount(path: str, device_number: DeviceNumber) -> None:
    """Have everything written to the mounted filesystem on its device; OSError where it could not be."""
    libc = ctypes.CDLL(None, use_errno=True)
    with mounted.open_mount(path, device_number) as (mount_fd, _), mounted.open_root(mount_fd) as root_fd:
        if libc.syncfs(root_fd) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), path)
