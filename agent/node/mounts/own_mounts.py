"""Which of the mounts there are are a volume's, and whether their paths lead to them.

Judged by mountinfo, sysfs and the agent's note alone: no filesystem and no device is asked anything.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from agent.core.model import Device, DeviceNumber, Mount, MountRecord
from agent.core.quoting import make_printable
from agent.node.device import open_device
from agent.node.device.foreign_use import UsageFacts
from agent.node.device.usage_facts import gather_surroundings
from agent.node.kernel.mountinfo import describe_mount, find_seen_mount, is_whole, read_mounts
from agent.node.kernel.sysfs import SYSFS
from agent.node.mounts.gone_devices import is_device_gone
from agent.node.mounts.namespaces import find_mount_elsewhere


class LeftMounts(Struct, frozen=True):
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
    stale = find_stale(surroundings, record, boot_id, is_present, None)
    alive = tuple(
        mount
        for mount in find_noted(surroundings, record, boot_id)
        if mount not in stale and _is_on(surroundings.devices_of(mount), record.diskseq)
    )
    return LeftMounts(stale, alive)


def _is_on(devices: frozenset[DeviceNumber], diskseq: int | None) -> bool:
    """Whether one of the devices is of this appearance of a disk; where that has no number, it is not."""
    return diskseq is not None and diskseq in map(open_device.read_noted_diskseq, devices)


def find_stale(
    surroundings: UsageFacts,
    record: MountRecord | None,
    boot_id: str,
    is_present: Callable[[DeviceNumber], bool],
    now: Device | None,
    sysfs: Path = SYSFS,
) -> tuple[Mount, ...]:
    """Return the agent's own mounts of an appearance of the volume that is gone.

    A mount is the noted one by boot, path and number, which is no proof: what somebody mounts there later may
    be given that number. So it is stale only where its device is known to be gone. ``now`` is the volume's
    device: what is mounted of it is alive, whichever appearance was noted.
    """
    if record is None:
        return ()
    present = frozenset() if now is None else now.numbers
    return tuple(
        mount
        for mount in find_noted(surroundings, record, boot_id)
        if not _is_alive(surroundings, mount, is_present, present)
        and is_device_gone(mount, is_present, sysfs)
    )


def find_noted(surroundings: UsageFacts, record: MountRecord, boot_id: str) -> tuple[Mount, ...]:
    """Return the mounts that a note of this boot is about, by their path and number."""
    if record.boot_id != boot_id:
        return ()
    noted = (record.path, record.device_number)
    return tuple(mount for mount in surroundings.mounts if (mount.path, mount.device_number) == noted)


def _is_alive(
    surroundings: UsageFacts,
    mount: Mount,
    is_present: Callable[[DeviceNumber], bool],
    numbers: frozenset[DeviceNumber],
) -> bool:
    """Whether a mount is of one of these numbers, or a btrfs on any device that is there."""
    if mount.device_number in numbers:
        return True
    members = (
        surroundings.sources.get(mount.mount_id, frozenset()) if mount.fs_type == "btrfs" else frozenset()
    )
    return bool(members & numbers) or any(map(is_present, members))


def find_obstacle(mounts: tuple[Mount, ...], path: str | None, own: tuple[Mount, ...]) -> str | None:
    """Return what keeps a volume from being mounted at ``path``, as a clause; ``own`` are its mounts.

    That is what is mounted there, or within, where the volume would hide it.
    """
    if path is None or any(mount.path == path for mount in own):
        return None
    seen = find_seen_mount(mounts, path)
    if seen is not None and seen.path == path:
        return describe_mount(seen, path)
    others = (mount for mount in mounts if mount.path.startswith(f"{path}/") and mount not in own)
    within = next((mount for mount in others if find_cover(mounts, mount) is None), None)
    return None if within is None else describe_mount(within, path)


def find_cover(mounts: tuple[Mount, ...], mount: Mount) -> str | None:
    """Return what the path of a mount leads to where that is not the mount itself."""
    seen = find_seen_mount(mounts, mount.path)
    if seen is not None and seen.mount_id == mount.mount_id:
        return None
    return "another mount" if seen is None else describe_mount(seen, mount.path)


def find_cut_off(
    others: tuple[Mount, ...], surroundings: UsageFacts, record: MountRecord | None, boot_id: str
) -> Mount | None:
    """Return the one that the agent noted of the ``others``: mounts of a volume seen at its path as well."""
    if record is None:
        return None
    noted = find_noted(surroundings, record, boot_id)
    kept = (mount for mount in others if mount in noted)
    return next((mount for mount in kept if find_cover(surroundings.mounts, mount) is None), None)


def find_any_mount(found: Device, surroundings: UsageFacts) -> str | None:
    """Return, as a clause, where a device or a part of it is mounted by anyone, here or in a container."""
    for mount in surroundings.mounts:
        if mount.fs_type != "devtmpfs" and surroundings.devices_of(mount) & found.numbers:
            return f"at {make_printable(mount.path)}"
    return find_mount_elsewhere(found.numbers)


def list_own_mounts(
    found: Device, surroundings: UsageFacts, wanted_path: str | None, noted_path: str | None
) -> tuple[Mount, ...]:
    """Return the mounts of the whole filesystem; views of parts of it, as containers have, are not listed.

    Of those at the wanted path the one that is seen there comes first.
    """
    numbers = found.numbers
    own = [
        mount
        for mount in surroundings.mounts
        if surroundings.devices_of(mount) & numbers and mount.fs_type != "devtmpfs" and is_whole(mount)
    ]
    hidden = {mount.mount_id for mount in own if find_cover(surroundings.mounts, mount) is not None}
    return tuple(
        sorted(
            own,
            key=lambda mount: (
                mount.path != wanted_path,
                mount.path != noted_path,
                mount.mount_id in hidden,
            ),
        )
    )
