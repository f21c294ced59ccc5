"""What was observed of a volume: its mounts, who is in the way, and all that one look found."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct, field

from agent.core.model.cluster import Origin
from agent.core.model.content import Content
from agent.core.model.device import Device, DeviceNumber, RootInode
from agent.core.model.records import FormatRecord, RawRecord
from agent.core.model.volume import VolumeId
from agent.core.reasons import Reason


class Mount(Struct, frozen=True):
    """One line of ``/proc/self/mountinfo``. ``path`` and ``root`` are unescaped."""

    mount_id: int
    parent_id: int
    device_number: DeviceNumber
    root: str
    path: str
    options: frozenset[str]
    fs_type: str
    source: str
    super_options: frozenset[str]
    peer_group: int = 0
    """By number: what is mounted or unmounted below one of it is so below all of it; 0 where it has none."""
    master: int = 0
    """The peer group of which it gets that, too."""

    @property
    def is_read_only(self) -> bool:
        return "ro" in self.options or "ro" in self.super_options


class Relocation(Struct, frozen=True):
    """A mount that the agent made and that is to be at another path."""

    volume_id: VolumeId
    path: str
    device_number: DeviceNumber
    to_path: str


class Exclusion(Struct, frozen=True):
    """Why a device is not the agent's to touch."""

    reason: Reason
    message: str
    hint: str | None = None


class Checked(Struct, frozen=True):
    """What a filesystem check found, in this look, on this descriptor."""

    is_clean: bool
    detail: str = ""


class Process(Struct, frozen=True):
    """A process in the way of an unmount."""

    pid: int
    name: str
    user: str = "?"

    def describe(self) -> str:
        """Return it as one word and what is in brackets: whoever runs a process chose its name."""
        name = "".join(c if c.isalnum() or c in "._+:@/-" else "_" for c in self.name) or "_"
        return f"{name} (pid {self.pid}, {self.user})"


class Tuning(Struct, frozen=True):
    """Block-layer settings of a device, as sysfs shows them."""

    read_ahead_bytes: int | None = None
    scheduler: str | None = None


class Ids(Struct, frozen=True):
    """Owner and group names of the policy resolved on this node; ``missing`` names one that is not there."""

    uid: int | None = None
    gid: int | None = None
    missing: str | None = None


class Observed(Struct, frozen=True):
    """Everything one look at one volume found. The planner sees nothing else of the world."""

    volume_id: VolumeId
    device: Device | None = None
    exclusion: Exclusion | None = None
    content: Content | None = None
    """None: not looked at, because the volume is absent, excluded, unmanaged or already mounted as wanted."""
    mounts: tuple[Mount, ...] = ()
    """Mounts of this device and its partitions."""
    stale_mounts: tuple[Mount, ...] = ()
    """Mounts the agent made of an appearance of this volume that is gone."""
    views: tuple[Mount, ...] = ()
    """Where but at its path it, a part of it or its node is mounted, by whomever."""
    shown: tuple[Mount, ...] = ()
    """Of a volume of the policy: where the agent has published it to pods."""
    going: tuple[Mount, ...] = ()
    """Those of ``views`` that the kernel unmounts together with the first of its mounts."""
    is_place_missing: bool = False
    """The directory of kubelet's where it is to be mounted is not there."""
    was_lost: bool = False
    """It vanished while mounted and has not been ready since."""
    applied_options: tuple[str, ...] | None = None
    """The options the agent last asked for at the wanted path; None for a mount it did not make."""
    obstacle: str | None = None
    """What the wanted mount path leads to in place of this volume, or what hides the first of its mounts:
    ``an ext4 filesystem (/dev/sdb1)``."""
    mounted_at: str | None = None
    """Where a volume that is to be raw is mounted, by anyone: ``at /data``. None for others."""
    is_hidden: bool = False
    """The first of its mounts is there and its path leads elsewhere: nobody can use it there."""
    is_frozen: bool = False
    """Somebody else froze the mounted filesystem, as far as that was found: who writes to it waits."""
    ring: tuple[Relocation, ...] = ()
    """Mounts, this volume's first, of which each is to be where the next one is, and the last where the first
    is: none of them can move before the others."""
    cut_off: Mount | None = None
    """An earlier mount of the agent, left by a move that was cut off when the volume was at its path."""
    checked: Checked | None = None
    format_record: FormatRecord | None = None
    root_inode: RootInode | None = None
    """Of the filesystem's root at the wanted path; None where it is not mounted there or did not answer."""
    ids: Ids = field(default_factory=Ids)
    processes: tuple[Process, ...] = ()
    """Who uses a mount that has to move; filled only where the wanted path differs from the mounted one."""
    left_behind: tuple[Process, ...] = ()
    """Who still uses a mount of an earlier appearance, which is out of sight and answers with errors."""
    links: frozenset[str] = frozenset()
    """Paths below ``/dev/ebs`` that lead to this device now, and are to."""
    wrong_links: frozenset[str] = frozenset()
    """Those that lead to this device, or bear this volume's name, and must not."""
    node_owner: RootInode | None = None
    """Owner, group and mode of the device node, for raw volumes."""
    raw: RawRecord | None = None
    """It was handed out raw since it appeared, and a process may have it open as that still."""
    tuning: Tuning = field(default_factory=Tuning)
    is_uuid_mounted_elsewhere: bool = False
    """Another mounted filesystem, or one that died mounted, has this UUID: xfs then needs ``nouuid``."""
    origin: Origin | None = None
    is_origin_awaited: bool = False
    """The cloud is being asked where the volume comes from, and has not answered yet."""
    is_entry_awaited: bool = False
    """No entry means it now, and one may, to be raw, once more is known of this node."""
    awaited_since: datetime | None = None
    awaited_until: datetime | None = None
    """When that is waited for no longer; None: it is waited for as long as it takes."""
