"""Which devices are not the agent's to touch: the system's own, and whatever someone else uses.

Facts are gathered first, then judged without I/O, so that every layout of a root disk can be tried on paper.
Where a fact cannot be had the answer is no. The last word before a format belongs to the kernel all the same
(:func:`agent.node.device.open_device.refuse_claimed`): it knows of mounts in other namespaces.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from msgspec import Struct, field

from agent.core.model import Device, DeviceNumber, Exclusion, Mount, MountRecord, Reason
from agent.core.quoting import make_printable
from agent.core.replace import replace
from agent.core.system_places import INSTANCE_STORE, SAGEMAKER, SYSTEM_MOUNTS
from agent.node.kernel.mountinfo import is_whole

_CSI_PLACE = re.compile(
    r"/plugins/kubernetes\.io/(?:csi|aws-ebs)/"
    r"|/plugins/kubernetes\.io~(?:csi|aws-ebs)/"
    r"|/pods/[^/]+/(?:volumes|volumeDevices)/kubernetes\.io~(?:csi|aws-ebs)/"
)
"""Where kubelet has volumes staged and published, below its root directory (pkg/volume/csi in Kubernetes).
That may be anywhere, and behind a link: mountinfo knows it by its real path alone."""


_POD_DIRECTORY = re.compile(r"/pods/[^/]+/volume-subpaths/")
"""Where kubelet mounts a directory of a pod's volume, whatever kind of volume that is (subPath)."""


class BlockNode(Struct, frozen=True):
    """One block device as sysfs has it, and what it stands on."""

    name: str
    beneath: frozenset[DeviceNumber] = frozenset()
    """Directly below: a partition's disk, a mapped device's or RAID's members, what backs a loop device."""
    what: str = "a block device"
    """What it is, for people: ``an LVM volume (vg.01-lv)``."""


class UsageFacts(Struct, frozen=True):
    """What the node uses block devices for, at one moment."""

    mounts: tuple[Mount, ...] = ()
    blocks: Mapping[DeviceNumber, BlockNode] = field(default_factory=dict)
    sources: Mapping[int, frozenset[DeviceNumber]] = field(default_factory=dict)
    """By mount ID: the devices of a mount whose own number is of no block device (btrfs, overlay)."""
    swaps: frozenset[DeviceNumber] = frozenset()
    """Block devices that are swapped to. A swap file is its filesystem's matter."""
    pools: tuple[frozenset[DeviceNumber], ...] = ()
    """The member devices of each btrfs filesystem that is mounted somewhere."""
    loops: Mapping[DeviceNumber, str] = field(default_factory=dict)
    """Block devices that back a loop device, and its name."""

    def devices_of(self, mount: Mount) -> frozenset[DeviceNumber]:
        """Return the block devices directly below a mount."""
        return self.sources.get(mount.mount_id, frozenset({mount.device_number}))

    def closure(self, numbers: Iterable[DeviceNumber]) -> frozenset[DeviceNumber]:
        """Return ``numbers`` and everything they stand on, down to the disks."""
        found: set[DeviceNumber] = set()
        queue = list(numbers)
        while queue:
            number = queue.pop()
            if number not in found:
                found.add(number)
                if number in self.blocks:
                    queue.extend(self.blocks[number].beneath)
        return frozenset(found)


class Shown(Struct, frozen=True):
    """Where the agent has published a volume of the policy to pods."""

    paths: frozenset[str] = frozenset()
    is_raw: bool = False
    """It is wanted raw, so that its device node may be there, and else its filesystem."""


NOWHERE = Shown()


# -- Judging -------------------------------------------------------------------------------------------------


def find_exclusion(
    device: Device,
    surroundings: UsageFacts,
    *,
    records: Iterable[MountRecord] = (),
    boot_id: str = "",
    wanted_path: str | None = None,
    is_kubelets: bool = False,
    shown: Shown = NOWHERE,
) -> Exclusion | None:
    """Return why ``device`` must not be touched, or None.

    A mount counts as the agent's own where it shows a whole filesystem, at ``wanted_path`` or at the path of
    a record made in this boot for this device; then other mounts of it are views of that one. CSI's
    mounts are CSI's, wherever kubelet keeps them: below a directory of the system's as well. Only of a volume
    that kubelet asks the agent for (``is_kubelets``) they are the agent's: where it is mounted by the agent,
    and where it is raw. Of one of the policy those are where the agent has ``shown`` it to pods, as long as
    it is mounted by the agent, or wanted raw.
    """
    ours = _find_ours(device, surroundings, tuple(records), boot_id, wanted_path)
    may_be_raw = is_kubelets and wanted_path is None
    strangers = _leave_out_shown(device, surroundings, shown, is_mounted=ours)
    return (
        _exclude_system(device, surroundings)
        or (None if is_kubelets and ours else _exclude_csi(device, strangers, may_be_raw=may_be_raw))
        or _exclude_swap(device, surroundings)
        or _exclude_held(device, strangers, may_be_raw=may_be_raw)
        or (None if ours else _exclude_mounted(device, surroundings))
    )


def _leave_out_shown(
    device: Device, surroundings: UsageFacts, shown: Shown, *, is_mounted: bool
) -> UsageFacts:
    """Return the surroundings without the mounts of a device that the agent itself has published."""
    names = _node_names(device)
    staying = tuple(
        mount
        for mount in surroundings.mounts
        if mount.path not in shown.paths or not (shown.is_raw if _is_raw(mount, names) else is_mounted)
    )
    return replace(surroundings, mounts=staying)


def _exclude_system(device: Device, surroundings: UsageFacts) -> Exclusion | None:
    for mount in surroundings.mounts:
        is_store = mount.path == INSTANCE_STORE or mount.path.startswith(f"{INSTANCE_STORE}/")
        is_system = mount.path in SYSTEM_MOUNTS or mount.path.startswith(f"{SAGEMAKER}/")
        if not (is_store or is_system):
            continue
        # Of the system's own disks these are views, too, and those are told by what they are mounted at.
        if _is_kubelets(mount) or _POD_DIRECTORY.search(mount.path):
            continue
        if not device.numbers & surroundings.closure(surroundings.devices_of(mount)):
            continue
        if is_store:
            return Exclusion(
                Reason.INSTANCE_STORE,
                f"{device.path} is part of the node's instance store at {make_printable(mount.path)}.",
            )
        path = make_printable(mount.path)
        return Exclusion(Reason.ROOT_DEVICE, f"{device.path} carries {path} of the running system.")
    return None


def _exclude_swap(device: Device, surroundings: UsageFacts) -> Exclusion | None:
    if device.numbers & surroundings.closure(surroundings.swaps):
        return Exclusion(Reason.DEVICE_BUSY, f"{device.path} is used as swap.", hint="swapoff frees it.")
    return None


def _exclude_csi(device: Device, surroundings: UsageFacts, *, may_be_raw: bool) -> Exclusion | None:
    names = _node_names(device)
    for mount in surroundings.mounts:
        if not _is_kubelets(mount):
            continue
        if (_is_raw(mount, names) and not may_be_raw) or device.numbers & surroundings.devices_of(mount):
            return Exclusion(
                Reason.MANAGED_BY_CSI,
                f"{device.path} is used by the EBS CSI driver at {make_printable(mount.path)}.",
                hint="Leave the volume to Kubernetes, or take it out of there first.",
            )
    return None


def _is_kubelets(mount: Mount) -> bool:
    # Each mount is asked at each look, and hardly any has the word in it.
    return "/kubernetes.io" in mount.path and _CSI_PLACE.search(mount.path) is not None


def list_views(device: Device, surroundings: UsageFacts, place: str | None) -> tuple[Mount, ...]:
    """Return where else than at ``place`` a device is mounted, in part or whole, or its node is."""
    names = _node_names(device)
    return tuple(
        mount
        for mount in surroundings.mounts
        if mount.path != place and (_is_raw(mount, names) or device.numbers & surroundings.devices_of(mount))
    )


def _is_raw(mount: Mount, names: frozenset[str]) -> bool:
    """Whether a mount is a device node, of one of these names, that is mounted over a file."""
    return mount.fs_type == "devtmpfs" and mount.root.removeprefix("/") in names


def _exclude_held(device: Device, surroundings: UsageFacts, *, may_be_raw: bool) -> Exclusion | None:
    holders = (*device.holders, *(name for partition in device.partitions for name in partition.holders))
    by_name = {block.name: block for block in surroundings.blocks.values()}
    if holders:
        held_by = ", ".join(
            f"{by_name[name].what if name in by_name else 'another device'} ({name})" for name in holders
        )
        return Exclusion(
            Reason.DEVICE_BUSY,
            f"{device.path} is part of {held_by}.",
            hint="The agent leaves devices with something built on them alone.",
        )
    for number in sorted(device.numbers & surroundings.loops.keys()):
        name = surroundings.loops[number]
        return Exclusion(Reason.DEVICE_BUSY, f"{device.path} backs the loop device {name}.")
    names = _node_names(device)
    for mount in surroundings.mounts:
        if _is_raw(mount, names) and not (may_be_raw and _is_kubelets(mount)):
            return Exclusion(
                Reason.DEVICE_BUSY,
                f"{device.path} is handed to someone as a raw device at {make_printable(mount.path)}.",
            )
    return None


def _exclude_mounted(device: Device, surroundings: UsageFacts) -> Exclusion | None:
    numbers = device.numbers
    for mount in surroundings.mounts:
        if numbers & surroundings.devices_of(mount):
            return Exclusion(
                Reason.DEVICE_BUSY,
                f"{device.path} is mounted at {make_printable(mount.path)}, and not by the agent.",
                hint="Unmount it there, or make that the policy's path.",
            )
    if any(device.numbers & pool for pool in surroundings.pools):
        return Exclusion(Reason.DEVICE_BUSY, f"{device.path} belongs to a btrfs filesystem that is mounted.")
    return None


def _find_ours(
    device: Device,
    surroundings: UsageFacts,
    records: tuple[MountRecord, ...],
    boot_id: str,
    wanted_path: str | None,
) -> bool:
    paths = {
        record.path
        for record in records
        if record.volume_id == device.identity.volume_id
        and record.boot_id == boot_id
        and record.diskseq in {device.diskseq, None}
    }
    if wanted_path is not None:
        paths.add(wanted_path)
    return any(
        mount.path in paths and is_whole(mount) and device.numbers & surroundings.devices_of(mount)
        for mount in surroundings.mounts
    )


def _node_names(device: Device) -> frozenset[str]:
    paths = (device.path, *(partition.path for partition in device.partitions))
    return frozenset(path.removeprefix("/dev/") for path in paths)
