"""One look at an attached volume, or one more at several: a single call to a worker. Changes nothing.

What is gathered is what the planner needs and no more; how it is judged is not decided here. Contents are
looked at as far as a signature tells; what has none is blank only by proof, which is dear and not made here.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct, field

from agent.core.errors import AgentError, CoveredError, InconclusiveError, NotMountedError
from agent.core.model import (
    Device,
    DeviceNumber,
    Exclusion,
    Filesystem,
    Foreign,
    FsType,
    Identity,
    Mount,
    MountRecord,
    Reason,
    RootInode,
    Tuning,
    Unknown,
    VolumeId,
)
from agent.node.content.recognize import recognize
from agent.node.content.superblocks import FS_TYPES, LAYOUTS, SpreadError, parse_settled
from agent.node.device import open_device as device
from agent.node.device.foreign_use import Shown, UsageFacts, find_exclusion, list_views
from agent.node.device.links import find_links_to
from agent.node.device.node_owner import read_node_owner
from agent.node.device.tuning import read_tuning
from agent.node.device.usage_facts import gather_for_look
from agent.node.filesystem import change_mount, grow
from agent.node.filesystem.directories import is_missing
from agent.node.isolate.messages import Fd
from agent.node.kernel.mountinfo import find_mounted_partition, follow_mounts, read_mounts
from agent.node.mounts.own_mounts import (
    find_any_mount,
    find_cover,
    find_cut_off,
    find_obstacle,
    find_stale,
    list_own_mounts,
)
from agent.node.mounts.propagation import list_going
from agent.node.state.volume_records import Notes, Records, read_notes
from agent.node.volume_session.recheck import State, read_state

_LOOKS = 3


class LookRequest(Struct, frozen=True):
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
    is_raw: bool = False
    """It is to be used raw: whether anybody has it mounted is asked."""
    is_kubelets: bool = False
    """Kubelet wants it: its mounts at places of kubelet's are the agent's."""
    shown_at: frozenset[str] = frozenset()
    """Where the agent has published a volume of the policy to pods: those mounts are its own as well."""
    is_leaving: bool = False
    """Its mounted filesystem is asked nothing: it may be dead, and is to go."""
    known: Filesystem | None = None
    """What an earlier look through the same descriptor recognised."""


class DeviceFacts(Struct, frozen=True):
    """What was found."""

    device: Device
    exclusion: Exclusion | None
    mounts: tuple[Mount, ...] = ()
    """Of this device, as mountinfo has them; the one at the wanted path first, then the noted one."""
    views: tuple[Mount, ...] = ()
    """Its mounts but that at the wanted path: whole, in part or of its node, whoever made them."""
    shown: tuple[Mount, ...] = ()
    """Those at which the agent has published a volume of the policy."""
    going: tuple[Mount, ...] = ()
    """Those that go where the first of its mounts is unmounted."""
    is_place_missing: bool = False
    stale_mounts: tuple[Mount, ...] = ()
    cut_off: Mount | None = None
    """Where it was mounted before, left by a move that was cut off half way."""
    obstacle: str | None = None
    """What the wanted path leads to in place of this volume, or what hides the first of its mounts."""
    mounted_at: str | None = None
    """Where a volume that is to be raw is mounted, by anyone: a clause."""
    is_hidden: bool = False
    """The first of its mounts is not what its path leads to."""
    content: Filesystem | Foreign | Unknown | None = None
    """Of a volume seen at the wanted path, by the mounted filesystem itself; of another, by signatures.
    None where it was not looked at, or nothing was recognised, which proves nothing."""
    recognized: State | None = None
    """In which state of the device that was recognised; None where it was only confirmed, or is not known."""
    root_inode: RootInode | None = None
    node_owner: RootInode | None = None
    tuning: Tuning = field(default_factory=Tuning)
    links: frozenset[str] = frozenset()


class PastLook(Struct, frozen=True):
    """A look that was made, by which one finds out whether another would find the same."""

    volume: VolumeId
    request: LookRequest
    notes: Notes
    facts: DeviceFacts


def open_and_look(request: LookRequest) -> tuple[Fd, DeviceFacts]:
    """Open the device at the request's path and look at it; the descriptor is the caller's.

    Raises as ``open_device`` and ``look_at`` do.
    """
    fd, found = device.open_device(request.path, request.identify)
    try:
        return fd, _look_at(fd, found, request)
    except BaseException:
        fd.close()
        raise


def look_at(fd: int, request: LookRequest) -> DeviceFacts:
    """Return what there is to know of the device open at ``fd``.

    Raises VanishedError where it is gone, AgentError with reason ShutDown or IoErrors where its mounted
    filesystem answers with errors, InconclusiveError where mounts come and go faster than they are looked at.
    """
    return _look_at(fd, device.observe_device(fd, request.path, request.identify), request)


def find_changed(records: Records, looks: tuple[PastLook, ...]) -> tuple[VolumeId, ...]:
    """Make looks again, one after the other, and return the volumes of which they find anything else.

    Also those that could not be looked at: why is for a look of their own to tell. What the node uses its
    devices for is read once for all, as long as nobody mounts anything.
    """
    changed = []
    with follow_mounts() as read:
        surroundings = gather_for_look(read())
        for look in looks:
            mounts = read()
            if surroundings.mounts is not mounts:
                surroundings = gather_for_look(mounts)
            try:
                is_same = _look_again(look.request, surroundings) == look.facts
                is_same = is_same and read_notes(records, look.volume) == look.notes
            except (AgentError, OSError):
                is_same = False
            if not is_same:
                changed.append(look.volume)
    return tuple(changed)


def _look_again(request: LookRequest, surroundings: UsageFacts) -> DeviceFacts:
    fd, found = device.open_device(request.path, request.identify)
    try:
        return _look_once(fd, found, request, surroundings)
    finally:
        fd.close()


def _look_at(fd: int, found: Device, request: LookRequest) -> DeviceFacts:
    for _ in range(_LOOKS):
        # Mounted, unmounted or covered while it was looked at: then it is looked at as it is by now.
        with contextlib.suppress(CoveredError, NotMountedError):
            return _look_once(fd, found, request, gather_for_look(read_mounts()))
    raise InconclusiveError(
        f"What is mounted of {found.identity.volume_id} changes while it is looked at.",
        hint="findmnt --poll shows who mounts and unmounts there; it is looked at again by itself.",
        reason=Reason.PATH_IN_USE,
    )


def _look_once(fd: int, found: Device, request: LookRequest, surroundings: UsageFacts) -> DeviceFacts:
    """Look at the device, open at ``fd``, whose surroundings were gathered for it.

    Raises CoveredError or NotMountedError where what is mounted there is not as they say any more.
    """
    all_mounts = surroundings.mounts
    exclusion = find_exclusion(
        found,
        surroundings,
        records=() if request.record is None else (request.record,),
        boot_id=request.boot_id,
        wanted_path=request.wanted_path,
        is_kubelets=request.is_kubelets,
        shown=Shown(request.shown_at, request.is_raw),
    )
    views = list_views(found, surroundings, request.wanted_path)
    noted_path = None if request.record is None else request.record.path
    mounts = list_own_mounts(found, surroundings, request.wanted_path, noted_path)
    stale = find_stale(surroundings, request.record, request.boot_id, request.is_present, found)
    # One that is about to be taken away is in nobody's way.
    staying = tuple(mount for mount in all_mounts if mount not in stale)
    here = mounts[0] if mounts and mounts[0].path == request.wanted_path else None
    cover = None if not mounts else find_cover(all_mounts, mounts[0])
    # What is hidden is not reached by its path, and what hides it may be a server that does not answer.
    seen = here if cover is None and not request.is_leaving else None
    others = tuple(mount for mount in mounts if mount.path != request.wanted_path)
    content: Filesystem | Foreign | Unknown | None = None
    root_inode = recognized = None
    if seen is not None:
        with change_mount.open_seen(seen) as mount_fd:
            content = _read_mounted(fd, found, seen, mount_fd)
            root_inode = change_mount.read_inode(mount_fd)
    elif request.reads_contents and not mounts and exclusion is None:
        # Before it is read: what is written while it is read counts as written after it.
        state = read_state(fd, found, False)  # noqa: FBT003 -- for workers
        content = recognize(fd, found, request.known)
        recognized = None if content is request.known else state
    return DeviceFacts(
        device=found,
        exclusion=exclusion,
        mounts=mounts,
        views=views,
        shown=tuple(mount for mount in views if mount.path in request.shown_at),
        going=list_going(all_mounts, mounts[0], views) if mounts else (),
        is_place_missing=request.is_kubelets and not mounts and is_missing(request.wanted_path),
        stale_mounts=stale,
        cut_off=None if seen is None else find_cut_off(others, surroundings, request.record, request.boot_id),
        obstacle=cover or find_obstacle(staying, request.wanted_path, mounts),
        mounted_at=find_any_mount(found, surroundings) if request.is_raw else None,
        is_hidden=cover is not None,
        content=content,
        recognized=recognized,
        root_inode=root_inode,
        node_owner=read_node_owner(request.path, found.device_number),
        tuning=read_tuning(found.device_number),
        links=find_links_to(request.dev_ebs, request.path),
    )


def _read_mounted(fd: int, found: Device, mount: Mount, mount_fd: int) -> Filesystem | Foreign | None:
    kind = FS_TYPES.get(mount.fs_type)
    if kind is None:
        return None
    partition = find_mounted_partition(found, mount)
    if partition is None:
        return _measure(fd, kind, mount_fd, None)
    part_fd = device.open_partition(partition.path, partition.device_number)
    try:
        return _measure(part_fd, kind, mount_fd, partition.number)
    finally:
        os.close(part_fd)


def _measure(fd: int, kind: FsType, mount_fd: int, partition: int | None) -> Filesystem | Foreign:
    layout = LAYOUTS[kind]
    with change_mount.open_root(mount_fd) as root_fd:
        size_bytes = grow.read_size_bytes(root_fd, fd, kind)
    try:
        superblock = parse_settled(layout, lambda: os.pread(fd, layout.length_bytes, layout.offset_bytes))
    except SpreadError as error:
        return Foreign(str(error), offset_bytes=layout.offset_bytes)
    except ValueError:
        # What it says of itself comes by a later look.
        return Filesystem(kind, "", size_bytes=size_bytes, partition=partition)
    return Filesystem(
        kind,
        superblock.uuid,
        superblock.label,
        size_bytes,
        partition,
        has_errors=superblock.has_errors,
        is_panicking=superblock.is_panicking,
    )


def identify_device(path: str, identify: Callable[[int], Identity]) -> Device:
    """Open the disk at ``path``, ask it what it is, and close it again."""
    fd, found = device.open_device(path, identify)
    fd.close()
    return found
