"""The kernel's mount interface: fsopen(2) and its family, mount_setattr(2), umount2(2), by way of ctypes.

System calls only, one function each; what may be mounted where is decided in
:mod:`agent.node.filesystem.mount`. Every call may block on a device, so they run in a worker. Needs Linux
5.12 (mount_setattr).
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import errno
import os
import re
from collections.abc import Iterator

from agent.node.kernel.ioctl import BtrfsVolArgs, Request, describe_descriptor, ioctl, name_call

_BTRFS_CONTROL = "/dev/btrfs-control"


class _Syscall(enum.IntEnum):
    """From 424 on, system calls have the same number on x86-64 and arm64 (kernel: scripts/syscall.tbl)."""

    OPEN_TREE = 428
    MOVE_MOUNT = 429
    FSOPEN = 430
    FSCONFIG = 431
    FSMOUNT = 432
    FSPICK = 433
    MOUNT_SETATTR = 442


class _Command(enum.IntEnum):
    """``enum fsconfig_command`` (linux/mount.h)."""

    FSCONFIG_SET_FLAG = 0
    FSCONFIG_SET_STRING = 1
    FSCONFIG_CMD_CREATE = 6
    FSCONFIG_CMD_RECONFIGURE = 7


class MountAttr(ctypes.Structure):
    """``struct mount_attr`` (linux/mount.h)."""

    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


# include/uapi/linux/mount.h
_FSOPEN_CLOEXEC = 1
_FSMOUNT_CLOEXEC = 1
_FSPICK_CLOEXEC = 1
_FSPICK_EMPTY_PATH = 8
_MOVE_MOUNT_F_EMPTY_PATH = 0x04
_MOVE_MOUNT_T_EMPTY_PATH = 0x40
_OPEN_TREE_CLONE = 1
_OPEN_TREE_CLOEXEC = os.O_CLOEXEC
_AT_EMPTY_PATH = 0x1000

MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

_ATTRIBUTES = {
    "ro": 0x1,
    "nosuid": 0x2,
    "nodev": 0x4,
    "noexec": 0x8,
    "relatime": 0x0,
    "noatime": 0x10,
    "strictatime": 0x20,
    "nodiratime": 0x80,
    "nosymfollow": 0x200000,
}
"""MOUNT_ATTR_* of each per-mount option (:data:`agent.core.mount_options.ATTRIBUTES`)."""
_ATTRIBUTE_ATIME_MASK = 0x70
_ATTRIBUTES_ALL = 0x1 | 0x2 | 0x4 | 0x8 | 0x80 | 0x200000 | _ATTRIBUTE_ATIME_MASK

_OLD_FLAGS = {
    "ro": 0x1,
    "nosuid": 0x2,
    "nodev": 0x4,
    "noexec": 0x8,
    "noatime": 0x400,
    "nodiratime": 0x800,
    "nosymfollow": 0x100,
    "relatime": 0x200000,
    "strictatime": 0x1000000,
}
"""MS_* of each per-mount option, for mount(2)."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)
_libc.mount.argtypes = (
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_ulong,
    ctypes.c_char_p,
)


def attribute_bits(attributes: frozenset[str]) -> int:
    """Return the MOUNT_ATTR_* bits of per-mount options; KeyError for a word that is none."""
    bits = 0
    for attribute in attributes:
        bits |= _ATTRIBUTES[attribute]
    return bits


def old_flags(attributes: frozenset[str]) -> int:
    """Return the MS_* bits of per-mount options, for :func:`mount_by_old_call`."""
    bits = 0
    for attribute in attributes:
        bits |= _OLD_FLAGS[attribute]
    return bits


@contextlib.contextmanager
def open_filesystem(fs_type: str) -> Iterator[FilesystemContext]:
    """Begin to configure a filesystem of a type (fsopen). OSError ENODEV: the kernel has no such type."""
    fd = _call(_Syscall.FSOPEN, f"of {fs_type}", fs_type.encode(), _FSOPEN_CLOEXEC)
    try:
        yield FilesystemContext(fd, fs_type)
    finally:
        os.close(fd)


@contextlib.contextmanager
def pick_filesystem(mount_fd: int) -> Iterator[FilesystemContext]:
    """Begin to reconfigure the filesystem of an open mount (fspick)."""
    flags = _FSPICK_CLOEXEC | _FSPICK_EMPTY_PATH
    fd = _call(_Syscall.FSPICK, mount_fd, mount_fd, b"", flags)
    try:
        yield FilesystemContext(fd, describe_descriptor(mount_fd))
    finally:
        os.close(fd)


class FilesystemContext:
    """A filesystem being configured, and the kernel's own words about what is wrong with it."""

    def __init__(self, fd: int, subject: str) -> None:
        self._fd = fd
        self._subject = subject

    def set(self, option: str) -> None:
        """Set ``key=value`` or a bare flag. OSError EINVAL for what the filesystem does not know."""
        key, separator, value = option.partition("=")
        if separator:
            self._configure(_Command.FSCONFIG_SET_STRING, key.encode(), os.fsencode(value))
        else:
            self._configure(_Command.FSCONFIG_SET_FLAG, key.encode(), None)

    def create(self) -> None:
        """Read the superblock and set the filesystem up: the moment its log is replayed."""
        self._configure(_Command.FSCONFIG_CMD_CREATE, None, None)

    def reconfigure(self) -> None:
        self._configure(_Command.FSCONFIG_CMD_RECONFIGURE, None, None)

    def open_mount(self, attributes: frozenset[str]) -> int:
        """Return a descriptor of a mount that is attached nowhere, so nobody can see it yet (fsmount)."""
        bits = attribute_bits(attributes)
        return _call(_Syscall.FSMOUNT, f"of {self._subject}", self._fd, _FSMOUNT_CLOEXEC, bits)

    def read_messages(self) -> list[str]:
        """Return what the kernel has said since the last call: errors, warnings and notes, untagged."""
        messages: list[str] = []
        with contextlib.suppress(OSError):  # ENODATA ends them
            while message := os.read(self._fd, 4096):
                tag, _, text = message.decode(errors="replace").strip().partition(" ")
                messages.append(text if tag in {"e", "w", "i"} else f"{tag} {text}".strip())
        return messages

    def _configure(self, command: _Command, key: bytes | None, value: bytes | None) -> None:
        # The value is left out: it may be long, and the key leads to it.
        what = command.name if key is None else f'{command.name}, "{key.decode()}"'
        _call(_Syscall.FSCONFIG, f"({what}) of {self._subject}", self._fd, command, key, value, 0)


def attach_mount(mount_fd: int, directory_fd: int) -> None:
    """Attach a detached mount at an open directory (move_mount): no path that could be swapped is used."""
    flags = _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH
    _call(_Syscall.MOVE_MOUNT, directory_fd, mount_fd, b"", directory_fd, b"", flags)


def clone_mount(mount_fd: int) -> int:
    """Return a descriptor of a detached copy of an open mount (open_tree), which nobody can see yet."""
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | _AT_EMPTY_PATH
    return _call(_Syscall.OPEN_TREE, mount_fd, mount_fd, b"", flags)


def set_mount_attributes(mount_fd: int, attributes: frozenset[str]) -> None:
    """Give an open mount exactly these per-mount options (mount_setattr)."""
    wanted = attribute_bits(attributes)
    # The access-time bits are one field and cleared together.
    unwanted = (_ATTRIBUTES_ALL & ~wanted) | _ATTRIBUTE_ATIME_MASK
    settings = bytes(MountAttr(attr_set=wanted, attr_clr=unwanted))
    _call(_Syscall.MOUNT_SETATTR, mount_fd, mount_fd, b"", _AT_EMPTY_PATH, settings, len(settings))


def mount_by_old_call(source: str, target: str, fs_type: str, flags: int, parameters: str) -> None:
    """Mount by mount(2), for kernels and sandboxes without the newer calls."""
    result = _libc.mount(
        os.fsencode(source), os.fsencode(target), fs_type.encode(), flags, os.fsencode(parameters)
    )
    if result != 0:
        raise name_call(ctypes.get_errno(), f"mount of {source} at {_resolve(target)}")


def unmount(path: str, flags: int) -> None:
    """Unmount what is at ``path`` (umount2). OSError EBUSY while it is used."""
    if _libc.umount2(os.fsencode(path), flags) != 0:
        raise name_call(ctypes.get_errno(), f"umount2 of {_resolve(path)}")


def freeze(mount_fd: int) -> None:
    """Stop writes to a filesystem and flush it (FIFREEZE). OSError EBUSY where it is frozen already."""
    ioctl(mount_fd, Request.FIFREEZE)


def thaw(mount_fd: int) -> None:
    """Let writes go on (FITHAW). OSError EINVAL where it is not frozen."""
    ioctl(mount_fd, Request.FITHAW)


def _call(call: _Syscall, subject: int | str, *arguments: int | bytes | None) -> int:
    """Make a system call; its error says ``subject`` behind its name: a descriptor's path, or words."""
    # Variadic: every argument must fill a register, or its upper half is whatever was there before.
    converted = [
        ctypes.c_long(argument) if isinstance(argument, int) else ctypes.c_char_p(argument)
        for argument in arguments
    ]
    result: int = _libc.syscall(ctypes.c_long(call), *converted)
    if result < 0:
        number = ctypes.get_errno()
        words = subject if isinstance(subject, str) else f"of {describe_descriptor(subject)}"
        raise name_call(number, f"{call.name.lower()}{'' if words.startswith('(') else ' '}{words}")
    return result


def _resolve(path: str) -> str:
    """Return a path through a descriptor as the path of what is open there."""
    return re.sub(r"^/proc/self/fd/(\d+)", lambda found: describe_descriptor(int(found[1])), path)


def is_unavailable(error: OSError) -> bool:
    """Whether the kernel does not have the call, or a filter of system calls does not let it through."""
    return error.errno in {errno.ENOSYS, errno.EPERM}


def forget_btrfs_device(path: str) -> bool:
    """Have btrfs forget what it heard of a device number when another disk had it; return whether it did.

    It keeps that for ever of filesystems on several devices that nobody mounts (``mkfs.btrfs`` and ``btrfs
    device scan`` tell it of them), and only a copy on a number it knows nothing of gets an ID of its own
    beside the original that is mounted (find_fsid_by_device in fs/btrfs/volumes.c). What is mounted
    stays (EBUSY).
    """
    try:
        fd = os.open(_BTRFS_CONTROL, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        ioctl(fd, Request.BTRFS_IOC_FORGET_DEV, BtrfsVolArgs(name=os.fsencode(path)))
    except OSError:
        return False
    finally:
        os.close(fd)
    return True
