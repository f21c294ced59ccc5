"""Files that stand in for volumes, as a worker sees them: which are there, and loop devices to match.

Touches no loop device whose file is not, or was not, in the directory it is told. Imports little, since every
worker that serves it imports it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TypeAlias

from msgspec import Struct

from agent.core.errors import AgentError, InconclusiveError, RefusedError, VanishedError
from agent.core.model import DeviceNumber, Identity, Reason, VolumeId, parse_volume_id
from agent.node.kernel.sysfs import SECTOR_BYTES, locate, read_attribute
from agent.node.standins import loop_device

MODEL = "File standing in for a volume"

_SUFFIX = ".img"
_DELETED = " (deleted)"
_GONE = {errno.ENOENT, errno.ENODEV, errno.ENXIO}


class Change(NamedTuple):
    """What was done to a loop device, in udev's words."""

    path: str
    action: str


FileState: TypeAlias = tuple[str, int, int, int]
"""Name, device, inode and size in bytes."""


class StandIn(Struct, frozen=True):
    """One file of the directory."""

    volume_id: VolumeId
    path: str
    device: int
    inode: int
    size_bytes: int


def identify_loop(directory: str, fd: int) -> Identity:
    """Return which file of ``directory`` the loop device open at ``fd`` stands on, by device and inode."""
    try:
        backing = loop_device.read_backing(fd)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise VanishedError(
                "The loop device has no file any more.", reason=Reason.NOT_ATTACHED
            ) from error
        raise RefusedError("The device is no loop device.", reason=Reason.NOT_EBS, retryable=False) from error
    try:
        alone = _find_alone(directory, fd, backing)
        present = list_files(directory) if alone is None else (alone,)
    except OSError as error:
        raise InconclusiveError(
            f"The directory {directory} of the loop device's file cannot be read: {error.strerror}.",
            hint="It may have been renamed; once it is back, all is as it was.",
            reason=Reason.UNREACHABLE,
        ) from error
    files = [file for file in present if (file.device, file.inode) == (backing.device, backing.inode)]
    if not files:
        raise VanishedError(f"The loop device's file is not in {directory}.", reason=Reason.NOT_ATTACHED)
    if len(files) > 1 or not backing.is_whole:
        raise RefusedError(
            f"The loop device shows a part of {files[0].path}, or that file has several names.",
            reason=Reason.DUPLICATE_DEVICE,
        )
    volume_id = files[0].volume_id
    return Identity(volume_id=volume_id, model=MODEL, serial=volume_id.replace("-", "", 1))


def _find_alone(directory: str, fd: int, backing: loop_device.Backing) -> StandIn | None:
    """Return the file by the name the kernel has for it, where that is the only one it has.

    None where only a look at all the files tells. There may be as many as devices to identify.
    """
    rdev = os.fstat(fd).st_rdev
    number = DeviceNumber(os.major(rdev), os.minor(rdev))
    path = read_attribute(f"{locate(number)}/loop/backing_file") or ""
    place, _, name = path.rpartition("/")
    if place != directory or not name.endswith(_SUFFIX):
        return None
    try:
        volume_id = parse_volume_id(name.removesuffix(_SUFFIX))
        now = os.lstat(path)
    except (AgentError, FileNotFoundError):
        return None
    is_it = (now.st_dev, now.st_ino) == (backing.device, backing.inode)
    if not is_it or not stat.S_ISREG(now.st_mode) or now.st_nlink != 1 or now.st_size < SECTOR_BYTES:
        return None
    return StandIn(volume_id, path, now.st_dev, now.st_ino, now.st_size)


def list_files(directory: str) -> tuple[StandIn, ...]:
    """Return the directory's stand-in volumes by name; files of other names, and empty ones, are none."""
    return tuple(sorted(_scan(directory), key=lambda file: file.path))


def list_states(directory: str) -> tuple[FileState, ...]:
    """Return what tells whether ``list_files`` would differ from what it was, for much less."""
    with os.scandir(directory) as entries:
        names = sorted(entry.name for entry in entries if entry.name.endswith(_SUFFIX))
    states = []
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            now = os.lstat(f"{directory}/{name}")
            states.append((name, now.st_dev, now.st_ino, now.st_size))
    return tuple(states)


class Synced(NamedTuple):
    """What was changed, and which files could not be attached and why."""

    changes: list[Change]
    problems: list[str]


def sync_directory(directory: str) -> Synced:
    """Attach, resize and detach until the loop devices are what the files are; return what was changed.

    A file that cannot be attached keeps no other from being.
    """
    hints: list[Change] = []
    problems: list[str] = []
    files = {(file.device, file.inode): file for file in list_files(directory)}
    for item in loop_device.list_loops():
        if not is_below(item, Path(directory)):
            continue
        key = _read_key(item.path)
        if key not in files:
            loop_device.detach(item.path, item.backing_file)
            hints.append(Change(item.path, "remove"))
            continue
        file = files.pop(key)
        if item.size_bytes != _round(file.size_bytes):
            loop_device.update_size(item.path)
            hints.append(Change(item.path, "change"))
        loop_device.make_partition_nodes(item.path)
    for file in files.values():
        try:
            path = loop_device.attach_file(Path(file.path))
        except (AgentError, OSError) as error:
            problems.append(f"{file.path} could not be attached: {error}")
            continue
        loop_device.make_partition_nodes(path)
        hints.append(Change(path, "add"))
    return Synced(hints, problems)


def release_directory(directory: str) -> None:
    """Detach each loop device whose file is, or was, in the directory; one in use after its last user."""
    for item in loop_device.list_loops():
        if is_below(item, Path(directory)):
            loop_device.detach(item.path, item.backing_file)


def has_file(number: DeviceNumber) -> bool:
    """Tell whether a loop device stands on a file that is still there: removing it is pulling the disk."""
    backing = read_attribute(f"{locate(number)}/loop/backing_file")
    return backing is not None and not backing.endswith(_DELETED)


def _scan(directory: str) -> Iterator[StandIn]:
    with os.scandir(directory) as entries:
        for entry in entries:
            try:
                volume_id = parse_volume_id(entry.name.removesuffix(_SUFFIX))
                now = entry.stat(follow_symlinks=False)
            except (AgentError, FileNotFoundError):
                continue
            is_file = stat.S_ISREG(now.st_mode) and entry.name.endswith(_SUFFIX)
            if is_file and now.st_size >= SECTOR_BYTES:
                yield StandIn(volume_id, entry.path, now.st_dev, now.st_ino, now.st_size)


def _read_key(path: str) -> tuple[int, int] | None:
    """Return device and inode of the file behind a loop device; None where the device or its file is gone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in _GONE:
            return None
        raise
    try:
        backing = loop_device.read_backing(fd)
    except OSError as error:
        if error.errno in _GONE:
            return None
        raise
    finally:
        os.close(fd)
    return backing.device, backing.inode


def is_below(item: loop_device.Loop, directory: Path, *, deleted: bool = True) -> bool:
    """Whether a loop device's file is a stand-in volume of the directory, or ``deleted``, was one."""
    name = item.backing_file
    if name.endswith(_DELETED):
        if not deleted:
            return False
        name = name.removesuffix(_DELETED)
    path = Path(name)
    return path.parent == directory and path.name.startswith("vol-") and path.suffix == _SUFFIX


def _round(size_bytes: int) -> int:
    return size_bytes // SECTOR_BYTES * SECTOR_BYTES
