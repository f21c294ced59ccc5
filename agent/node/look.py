"""One look at an attached volume: a single call to a worker. Changes nothing.

What is gathered is what the planner needs and no more; how it is judged is not decided here. Contents are
looked at as far as a signature tells; what has none is blank only by proof, which is dear and not made here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from agent.errors import AgentError
from agent.model import (
    Device,
    DeviceNumber,
    Exclusion,
    Filesystem,
    Foreign,
    FsType,
    Identity,
    Mount,
    MountRecord,
    RootInode,
    Tuning,
    Unknown,
)
from agent.node import block, device, mounted
from agent.node.exclusion import Surroundings, find_exclusion
from agent.node.mountinfo import find_top_mount, read_mounts
from agent.node.signature import recognize
from agent.node.superblocks import LAYOUTS
from agent.node.surroundings import gather_surroundings
from agent.node.wire import Fd

_FS_TYPES = {kind.value: kind for kind in FsType}


@dataclass(frozen=True)
class LookRequest:
    """What to look for: the wanted path, what was noted of the volume's mount, and where links are kept."""

    path: str
    identify: Callable[[int], Identity]
    is_present: Callable[[DeviceNumber], bool]
    dev_ebs: Path
    boot_id: str
    wanted_path: str | None = None
    record: MountRecord | None = None
    reads_contents: bool = False
    """Recognise what is on a device that is not mounted and that nothing keeps the agent's hands off."""
    known: Filesystem | None = None
    """What an earlier look through the same descriptor recognised."""


@dataclass(frozen=True)
class Look:
    """What was found."""

    device: Device
    exclusion: Exclusion | None
    mounts: tuple[Mount, ...] = ()
    """Of this device, as mountinfo has them; the one at the wanted path first, then the noted one."""
    stale_mounts: tuple[Mount, ...] = ()
    obstacle: str | None = None
    content: Filesystem | Foreign | Unknown | None = None
    """Of a volume mounted at the wanted path, by the mounted filesystem itself; of another, by signatures.
    None where it was not looked at, or nothing was recognised, which proves nothing."""
    root_inode: RootInode | None = None
    node_owner: RootInode | None = None
    tuning: Tuning = field(default_factory=Tuning)
    links: frozenset[str] = frozenset()


def open_and_look(request: LookRequest) -> tuple[Fd, Look]:
    """Open the device at the request's path and look at it; the descriptor is the caller's.

    Raises as ``open_device`` and ``look_at`` do.
    """
    fd, found = device.open_device(request.path, request.identify)
    try:
        return fd, _look_at(fd, found, request)
    except BaseException:
        fd.close()
        raise


def look_at(fd: int, request: LookRequest) -> Look:
    """Return what there is to know of the device open at ``fd``.

    Raises VanishedError where it is gone, AgentError with reason ShutDown or IoErrors where its mounted
    filesystem answers with errors.
    """
    return _look_at(fd, device.observe_device(fd, request.path, request.identify), request)


def _look_at(fd: int, found: Device, request: LookRequest) -> Look:
    all_mounts = read_mounts()
    surroundings = gather_surroundings(all_mounts)
    exclusion = find_exclusion(
        found,
        surroundings,
        records=() if request.record is None else (request.record,),
        boot_id=request.boot_id,
        wanted_path=request.wanted_path,
    )
    mounts = _list_own_mounts(found, surroundings, request)
    stale = _find_stale(surroundings, request.record, request.boot_id, request.is_present, found)
    # One that is about to be taken away is in nobody's way.
    staying = tuple(mount for mount in all_mounts if mount not in stale)
    here = mounts[0] if mounts and mounts[0].path == request.wanted_path else None
    content: Filesystem | Foreign | Unknown | None = None
    if here is not None:
        content = _read_mounted(fd, found, here)
    elif request.reads_contents and not mounts and exclusion is None:
        content = recognize(fd, found, request.known)
    return Look(
        device=found,
        exclusion=exclusion,
        mounts=mounts,
        stale_mounts=stale,
        obstacle=find_obstacle(staying, request.wanted_path, here),
        content=content,
        root_inode=None if here is None else mounted.read_root_inode(here.path, here.device_number),
        node_owner=block.read_node_owner(request.path, found.device_number),
        tuning=block.read_tuning(found.device_number),
        links=block.find_links_to(request.dev_ebs, request.path),
    )


@dataclass(frozen=True)
class LeftMounts:
    """Mounts of a volume that is not found under any device node."""

    stale: tuple[Mount, ...] = ()
    """Of a device that is gone."""
    alive: tuple[Mount, ...] = ()
    """Of the same appearance of its device, which the kernel still has."""


def find_mounts_of_absent(
    record: MountRecord, boot_id: str, is_present: Callable[[DeviceNumber], bool]
) -> LeftMounts:
    """Return the mounts that ``record`` notes of a volume that no device node leads to."""
    surroundings = gather_surroundings(read_mounts())
    stale = _find_stale(surroundings, record, boot_id, is_present, None)
    alive = tuple(
        mount
        for mount in _find_noted(surroundings, record, boot_id)
        if mount not in stale and _is_on(surroundings.devices_of(mount), record.diskseq)
    )
    return LeftMounts(stale, alive)


def _is_on(devices: frozenset[DeviceNumber], diskseq: int | None) -> bool:
    """Whether one of the devices is of this appearance of a disk; where that has no number, it is not."""
    return diskseq is not None and diskseq in map(device.read_noted_diskseq, devices)


def _find_stale(
    surroundings: Surroundings,
    record: MountRecord | None,
    boot_id: str,
    is_present: Callable[[DeviceNumber], bool],
    now: Device | None,
) -> tuple[Mount, ...]:
    """Return the agent's own mounts of an appearance of the volume that is gone.

    A mount is the agent's by its record: same boot, same path, same number. Its device is gone where none of
    the disks it stands on is there any more, or where the volume has appeared anew since.
    """
    if record is None:
        return ()
    return tuple(
        mount
        for mount in _find_noted(surroundings, record, boot_id)
        if not _is_alive(surroundings.devices_of(mount), is_present, now, record)
    )


def _find_noted(surroundings: Surroundings, record: MountRecord, boot_id: str) -> tuple[Mount, ...]:
    if record.boot_id != boot_id:
        return ()
    noted = (record.path, record.device_number)
    return tuple(mount for mount in surroundings.mounts if (mount.path, mount.device_number) == noted)


def _is_alive(
    devices: frozenset[DeviceNumber],
    is_present: Callable[[DeviceNumber], bool],
    now: Device | None,
    record: MountRecord,
) -> bool:
    if now is not None and devices & now.numbers:
        return record.diskseq in {None, now.diskseq}
    return any(is_present(number) for number in devices)


def find_obstacle(mounts: tuple[Mount, ...], path: str | None, here: Mount | None) -> str | None:
    """Return what is seen at ``path`` and is not the mount ``here``, as a clause."""
    if path is None:
        return None
    top = find_top_mount(mounts, path)
    if top is None or (here is not None and top.mount_id == here.mount_id):
        return None
    return f"a {top.fs_type} filesystem ({top.source})"


def _list_own_mounts(found: Device, surroundings: Surroundings, request: LookRequest) -> tuple[Mount, ...]:
    """Return the mounts of the whole filesystem; views of parts of it, as containers have, are not listed."""
    own = [
        mount
        for mount in surroundings.mounts
        if surroundings.devices_of(mount) & found.numbers
        and mount.fs_type != "devtmpfs"
        and (mount.root == "/" or mount.fs_type == FsType.BTRFS.value)
    ]
    noted = None if request.record is None else request.record.path
    return tuple(sorted(own, key=lambda mount: (mount.path != request.wanted_path, mount.path != noted)))


def _read_mounted(fd: int, found: Device, mount: Mount) -> Filesystem | None:
    kind = _FS_TYPES.get(mount.fs_type)
    if kind is None:
        return None
    partition = next((p for p in found.partitions if p.device_number == mount.device_number), None)
    if kind is FsType.BTRFS and found.partitions:
        partition = found.partitions[0]
    if partition is None:
        return _measure(fd, kind, mount, None)
    part_fd = open_partition(partition.path, partition.device_number)
    try:
        return _measure(part_fd, kind, mount, partition.number)
    finally:
        os.close(part_fd)


def _measure(fd: int, kind: FsType, mount: Mount, partition: int | None) -> Filesystem:
    layout = LAYOUTS[kind]
    size_bytes = mounted.read_mounted_size_bytes(mount.path, mount.device_number, fd, kind)
    try:
        superblock = layout.parse(os.pread(fd, layout.length_bytes, layout.offset_bytes))
    except ValueError:
        # It is mounted and changing while it is read; what it says of itself comes by the next look.
        return Filesystem(kind, "", size_bytes=size_bytes, partition=partition)
    return Filesystem(
        kind, superblock.uuid, superblock.label, size_bytes, partition, has_errors=superblock.has_errors
    )


def open_partition(path: str, number: DeviceNumber) -> Fd:
    """Open a partition's node for reading and make sure that it is that partition; the caller closes it."""
    fd = Fd(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW))
    rdev = os.fstat(fd).st_rdev
    if DeviceNumber(os.major(rdev), os.minor(rdev)) != number:
        fd.close()
        raise AgentError(f"{path} is not the partition {number} any more.")
    return fd


def identify_device(path: str, identify: Callable[[int], Identity]) -> Device:
    """Open the disk at ``path``, ask it what it is, and close it again."""
    fd, found = device.open_device(path, identify)
    fd.close()
    return found
