"""Loop devices: attach a file, follow its size, let go of it. What ``losetup`` does, by ioctl (loop(4)).

Touches the loop devices and files it is told to and no others. Runs in a worker. Works where no udev runs and
``/dev`` is not the kernel's own: device nodes that are missing are made.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from msgspec import Struct

from agent.core.errors import AgentError
from agent.core.model import DeviceNumber
from agent.node.kernel.ioctl import LoopConfig, LoopInfo, Request, ioctl
from agent.node.kernel.sysfs import (
    SECTOR_BYTES,
    SYSFS,
    list_names,
    read_attribute,
    read_block_numbers,
    read_device_number,
    read_integer,
)

DEV = Path("/dev")

_READ_ONLY, _PARTSCAN, _DIRECT_IO = 1, 8, 16
_MAX_TRIES = 16
_NAME = re.compile(r"loop\d+", re.ASCII)


class Backing(Struct, frozen=True):
    """What a loop device stands on, as the kernel tells."""

    device: int
    inode: int
    is_whole: bool
    """The whole file, from its first byte on."""


class Loop(Struct, frozen=True):
    """A loop device in use, as sysfs lists it."""

    path: str
    backing_file: str
    """As the kernel has it: with `` (deleted)`` behind it when the file has no name any more."""
    size_bytes: int


def list_loops() -> list[Loop]:
    """Return the loop devices that have a file behind them."""
    found = []
    # Those without a file have no size, so they are not among these; a node may have a hundred of them.
    for name in read_block_numbers():
        if not _NAME.fullmatch(name):
            continue
        backing_file = _read_backing_file(name)
        sectors = read_integer(f"{SYSFS}/block/{name}/size")
        if backing_file is not None and sectors is not None:
            found.append(Loop(f"{DEV}/{name}", backing_file, sectors * SECTOR_BYTES))
    return sorted(found, key=lambda loop: loop.path)


def read_backing(fd: int) -> Backing:
    """Return what the loop device open at ``fd`` stands on. Raises OSError: ENXIO for one without a file."""
    info = LoopInfo()
    ioctl(fd, Request.LOOP_GET_STATUS64, info)
    return Backing(device=info.device, inode=info.inode, is_whole=info.offset == 0 and info.sizelimit == 0)


def attach_file(path: Path) -> str:
    """Make ``path`` a block device and return its node; with partitions, and direct I/O where possible."""
    with _open_file(path) as (file, flags):
        for _ in range(_MAX_TRIES):
            node = _find_free()
            loop = os.open(node, (os.O_RDONLY if flags & _READ_ONLY else os.O_RDWR) | os.O_CLOEXEC)
            try:
                _configure(loop, file, flags | _PARTSCAN | _DIRECT_IO)
            except OSError as error:
                # Another program took the free device first.
                if error.errno != errno.EBUSY:
                    raise
            else:
                return str(node)
            finally:
                os.close(loop)
    raise AgentError(f"No loop device could be had for {path}.", hint="losetup -a lists those in use.")


def update_size(path: str) -> None:
    """Let the loop device at ``path`` have the size its file has now."""
    with _opened(path) as loop:
        ioctl(loop, Request.LOOP_SET_CAPACITY)


def detach(path: str, backing_file: str | None = None) -> None:
    """Take the file from the loop device at ``path``: at once, or as soon as its last user is gone.

    With ``backing_file``, named as ``list_loops`` names it, only from that one: a device whose last user
    went since it was listed may be another program's by now.
    """
    with suppress(FileNotFoundError), _opened(path) as loop:
        # Open, it keeps its file, so what is found here still holds at the next line.
        if backing_file not in {None, _read_backing_file(Path(path).name)}:
            return
        try:
            ioctl(loop, Request.LOOP_CLR_FD)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise


def make_partition_nodes(path: str) -> None:
    """Make the device nodes of partitions that are missing, and mend those left from other ones."""
    disk = Path(path).name
    node = f"{SYSFS}/block/{disk}"
    for name in list_names(node):
        if name.startswith(f"{disk}p"):
            _make_node(DEV / name, read_device_number(f"{node}/{name}/dev"))


@contextmanager
def _open_file(path: Path) -> Iterator[tuple[int, int]]:
    try:
        file, flags = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW), 0
    except OSError as error:
        if error.errno not in {errno.EROFS, errno.EACCES}:
            raise
        file, flags = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), _READ_ONLY
    try:
        yield file, flags
    finally:
        os.close(file)


def _configure(loop: int, file: int, flags: int) -> None:
    name = os.fsencode(Path(f"/proc/self/fd/{file}").readlink())[:63]
    info = LoopInfo(flags=flags, file_name=name)
    try:
        ioctl(loop, Request.LOOP_CONFIGURE, LoopConfig(fd=file, info=info))
    except OSError as error:
        # Linux before 5.8 does it in steps.
        if error.errno not in {errno.ENOTTY, errno.EINVAL}:
            raise
        ioctl(loop, Request.LOOP_SET_FD, file)
        try:
            ioctl(loop, Request.LOOP_SET_STATUS64, info)
        except OSError:
            ioctl(loop, Request.LOOP_CLR_FD)
            raise
        with suppress(OSError):
            ioctl(loop, Request.LOOP_SET_DIRECT_IO, 1)


def _find_free() -> Path:
    control = os.open(DEV / "loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        number = ioctl(control, Request.LOOP_CTL_GET_FREE)
    finally:
        os.close(control)
    node = DEV / f"loop{number}"
    _make_node(node, read_device_number(f"{SYSFS}/block/{node.name}/dev"))
    return node


def _make_node(node: Path, number: DeviceNumber | None) -> None:
    if number is None:  # the device went away meanwhile
        return
    device = os.makedev(*number)
    with suppress(FileNotFoundError):
        now = node.lstat()
        if stat.S_ISBLK(now.st_mode) and now.st_rdev == device:
            return
        node.unlink()
    # Where devtmpfs or udev is at work it may come first.
    with suppress(FileExistsError):
        os.mknod(node, stat.S_IFBLK | 0o600, device)


@contextmanager
def _opened(path: str) -> Iterator[int]:
    loop = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        yield loop
    finally:
        os.close(loop)


def _read_backing_file(name: str) -> str | None:
    """Return the path of the file behind a loop device; None for one without a file."""
    return read_attribute(f"{SYSFS}/block/{name}/loop/backing_file")
