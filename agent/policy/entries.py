"""The policy's ``classes`` and ``volumes``: what is wanted of volumes, as the file says it.

Each field is checked by itself here; what contradicts what is found in ``agent.policy.entry_checks``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from agent.core.errors import InvalidValueError
from agent.core.model import FormatRule, FsType, VolumeId, WantedTuning
from agent.core.units import GIB
from agent.policy.values.annotations import Between, Check, written
from agent.policy.values.fields import (
    Count,
    Cron,
    DeviceName,
    DurationSeconds,
    Flag,
    Label,
    MkfsOption,
    Mode,
    MountOption,
    Name,
    NodeMode,
    Owner,
    PathTemplate,
    ReadAheadBytes,
    SizeBytes,
    Sizes,
    SourceId,
    Tags,
    Text,
    VolumeIdField,
    Zone,
)

VolumeType = Literal["gp2", "gp3", "io1", "io2", "st1", "sc1", "standard"]
Scheduler = Literal["none", "mq-deadline", "kyber", "bfq"]

_DAY_S = 86400


def _check_claim_size(size_bytes: int) -> int:
    if size_bytes <= 0 or size_bytes % GIB:
        raise InvalidValueError("A volume's size is whole GiB.", "Write it as in 500GiB.")
    return size_bytes


def _check_lock_duration(seconds: float) -> float:
    if seconds % _DAY_S or not _DAY_S <= seconds <= 36500 * _DAY_S:
        raise InvalidValueError("A snapshot is locked for whole days.", "Choose from 1d to 36500d.")
    return seconds


def _check_unheld_limit(seconds: float) -> float:
    if not _DAY_S <= seconds <= 3650 * _DAY_S:
        raise InvalidValueError(
            "That is no time to keep a volume that nobody holds.", "Choose from 1d to 3650d."
        )
    return seconds


@dataclass(frozen=True, kw_only=True)
class VolumeClass:
    """Parameters of volumes the agent makes."""

    type: VolumeType = "gp3"
    """EBS volume type."""
    iops: Count | None = None
    """Provisioned IOPS; gp3, io1 and io2."""
    iops_per_gib: Count | None = None
    """Provisioned IOPS for each GiB of size, in place of ``iops``."""
    throughput: Count | None = None
    """Provisioned throughput in MiB/s; gp3."""
    encrypted: Flag | None = None
    """Encrypt; without it the account's default decides."""
    kms_key_id: Text | None = None
    """KMS key to encrypt with: ID, alias or ARN."""
    tags: Tags = field(default_factory=dict)
    """Tags of the volume."""
    initialization_rate: Count | None = None
    """MiB/s at which a volume made from a snapshot is filled."""
    multi_attach: Flag = False
    """Attachable to several instances at once; io1 and io2, raw only."""


@dataclass(frozen=True, kw_only=True)
class Match:
    """Which volume is meant; all that is said must hold."""

    volume_id: VolumeIdField | None = None
    """This volume and no other."""
    device_name: DeviceName | None = None
    """Device name chosen at attach, with or without /dev/."""
    size: Sizes | None = None
    """500GiB (exactly), >=1TiB, <=1TiB or 100GiB..2TiB."""
    instance_group: Text | None = None
    """Only on nodes of this instance group."""
    tags: Tags | None = None
    """Tags the volume has, with these values; asked of AWS."""
    type: VolumeType | None = None
    """EBS volume type; asked of AWS."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A volume the agent makes."""

    class_name: Name = field(metadata=written("class"))
    """One of ``classes``."""
    size_bytes: Annotated[SizeBytes, Check(_check_claim_size)] | None = field(
        default=None, metadata=written("size")
    )
    """Size, whole GiB; may be left out with ``from``."""
    per: Literal["node", "cluster"] = "node"
    """One for each node, or one for the whole cluster."""
    source: SourceId | None = field(default=None, metadata=written("from"))
    """Snapshot to make it from, or volume of this zone to make it as a copy of; never formatted."""
    on_delete: Literal["retain", "snapshot", "delete"] = "retain"
    """What becomes of the volume when its entry is taken out of the policy; whose node is gone, it stays."""
    unheld_limit_s: Annotated[DurationSeconds, Check(_check_unheld_limit)] | None = field(
        default=None, metadata=written("delete_unheld_after")
    )
    """How long a volume whose node is gone is kept before it is deleted, in the way ``on_delete`` says."""

    @property
    def snapshot_id(self) -> str | None:
        """The snapshot it is made from."""
        return self.source if self.source is not None and self.source.startswith("snap-") else None

    @property
    def source_volume_id(self) -> VolumeId | None:
        """The volume it is a copy of."""
        is_volume = self.source is not None and self.source.startswith("vol-")
        return VolumeId(str(self.source)) if is_volume else None


@dataclass(frozen=True, kw_only=True)
class FilesystemEntry:
    """The filesystem on the volume."""

    type: FsType
    """ext4, xfs or btrfs."""
    format: FormatRule = FormatRule.NEVER
    """if-blank: make it when the volume is proven blank."""
    label: Label | None = None
    """Label given when it is made."""
    mkfs_options: tuple[MkfsOption, ...] = ()
    """Further options of mkfs, one element each."""


@dataclass(frozen=True, kw_only=True)
class MountEntry:
    """Where and how the filesystem is mounted."""

    path: PathTemplate
    """Directory beneath an allowed root; may hold {volume_id} {name} {instance_name} {instance_group}
    {instance_id} {tag:KEY}."""
    options: tuple[MountOption, ...] = ()
    """Mount options; nosuid and nodev are set unless suid or dev is here."""
    owner: Owner | None = None
    """User that owns the filesystem's root directory."""
    group: Owner | None = None
    """Its group."""
    mode: Mode | None = None
    """Its mode, octal, in quotes: "0770"."""


@dataclass(frozen=True, kw_only=True)
class BlockEntry:
    """A raw volume, linked as /dev/ebs/NAME."""

    owner: Owner | None = None
    """User that owns the device node."""
    group: Owner | None = None
    """Its group."""
    mode: NodeMode | None = None
    """Its mode, octal, in quotes: "0660"."""


@dataclass(frozen=True, kw_only=True)
class TuneEntry:
    """Settings of the kernel's block layer for the device."""

    read_ahead_bytes: ReadAheadBytes | None = field(default=None, metadata=written("read_ahead"))
    """How far to read ahead: 4MiB."""
    scheduler: Scheduler | None = None
    """I/O scheduler."""

    @property
    def wanted(self) -> WantedTuning:
        return WantedTuning(self.read_ahead_bytes, self.scheduler)


@dataclass(frozen=True, kw_only=True)
class SnapshotLock:
    """Keeps snapshots from being deleted."""

    mode: Literal["governance", "compliance"]
    """compliance cannot be lifted by anyone."""
    duration_s: Annotated[DurationSeconds, Check(_check_lock_duration)] = field(metadata=written("duration"))
    """Whole days: 30d."""


@dataclass(frozen=True, kw_only=True)
class SnapshotsEntry:
    """Snapshots taken on a schedule."""

    schedule: Cron
    """Five cron fields, in UTC: 0 */6 * * *"""
    keep: Annotated[int, Between(1, 1000)] | None = None
    """How many to keep; older ones that this entry made are deleted. Without it all are kept."""
    freeze: Flag = True
    """Freeze the filesystem while the snapshot begins, so that it is consistent."""
    fast_restore_zones: tuple[Zone, ...] = ()
    """Availability zones with fast snapshot restore, which costs by the hour, snapshot and zone."""
    fast_restore_count: Annotated[int, Between(1, 50)] = 1
    """How many of the newest completed snapshots are fast to restore."""
    lock: SnapshotLock | None = None
    """Lock each snapshot."""
    tags: Tags = field(default_factory=dict)
    """Tags of the snapshots."""


@dataclass(frozen=True, kw_only=True)
class VolumeEntry:
    """What is wanted of one volume: a filesystem mounted somewhere, or a raw device."""

    name: Name
    """Name of the entry, and of a raw volume's link below /dev/ebs."""
    match: Match | None = None
    """A volume that exists."""
    claim: Claim | None = None
    """A volume the agent makes."""
    filesystem: FilesystemEntry | None = None
    """The filesystem on it, with ``mount``."""
    mount: MountEntry | None = None
    """Where it is mounted, with ``filesystem``."""
    block: BlockEntry | None = None
    """Use it raw, in place of ``filesystem`` and ``mount``."""
    grow: Flag = False
    """Let partition and filesystem fill the volume when it gets bigger."""
    required: Flag = False
    """ebs-volumes.target waits for it."""
    tune: TuneEntry = field(default_factory=TuneEntry)
    """Settings of the block layer."""
    snapshots: SnapshotsEntry | None = None
    """Snapshots taken on a schedule."""

    @property
    def volume_id(self) -> VolumeId | None:
        """The one volume the entry can ever be for, where it says so."""
        return None if self.match is None else self.match.volume_id

    @property
    def instance_group(self) -> str | None:
        return None if self.match is None else self.match.instance_group
