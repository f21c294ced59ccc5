"""The words of the agent: volumes, devices, what is on them, what is wanted of them.

Values only: frozen, comparable, free of I/O. Everything else in the agent passes these around.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, NewType, TypeAlias

from agent.errors import AgentError

VolumeId = NewType("VolumeId", str)

_VOLUME_ID = re.compile(r"vol-(?:[0-9a-f]{8}|[0-9a-f]{17})", re.ASCII)


def parse_volume_id(text: str) -> VolumeId:
    """Return ``text`` as a volume ID, or raise: ``vol-`` and 8 or 17 lower-case hexadecimal digits."""
    if not _VOLUME_ID.fullmatch(text):
        raise AgentError(
            f"{text!r} is not an EBS volume ID.",
            hint="An ID is vol- followed by 8 or 17 hexadecimal digits, as in vol-0123456789abcdef0.",
            retryable=False,
        )
    return VolumeId(text)


class Condition(str, Enum):
    """How a volume is, in one word."""

    PENDING = "Pending"
    PREPARING = "Preparing"
    READY = "Ready"
    DEGRADED = "Degraded"
    FAILED = "Failed"
    REFUSED = "Refused"
    UNMANAGED = "Unmanaged"
    LOST = "Lost"

    @property
    def is_usable(self) -> bool:
        return self in {Condition.READY, Condition.DEGRADED}

    def __str__(self) -> str:
        return self.value


class Reason(str, Enum):
    """Why a volume is in its condition: the word that alerts, dashboards and runbooks key on."""

    # Safety: nothing was touched.
    NOT_BLANK = "NotBlank"
    FORMAT_NOT_ALLOWED = "FormatNotAllowed"
    ALREADY_FORMATTED = "AlreadyFormatted"
    PROBE_FAILED = "ProbeFailed"
    FILESYSTEM_MISMATCH = "FilesystemMismatch"
    DEVICE_BUSY = "DeviceBusy"
    DUPLICATE_DEVICE = "DuplicateDevice"
    ROOT_DEVICE = "RootDevice"
    INSTANCE_STORE = "InstanceStore"
    NOT_EBS = "NotEbs"
    MANAGED_BY_CSI = "ManagedByCsi"
    FROM_SNAPSHOT = "FromSnapshot"
    MULTI_ATTACH = "MultiAttach"
    PARTITIONED = "Partitioned"
    PATH_NOT_ALLOWED = "PathNotAllowed"
    PATH_IN_USE = "PathInUse"
    SEVERAL_ENTRIES = "SeveralEntries"
    SEVERAL_VOLUMES = "SeveralVolumes"
    READ_ONLY_DEVICE = "ReadOnlyDevice"
    # Something is wrong with the volume or its filesystem.
    FILESYSTEM_ERRORS = "FilesystemErrors"
    READ_ONLY = "ReadOnly"
    STALLED = "Stalled"
    SHUT_DOWN = "ShutDown"
    IO_ERRORS = "IoErrors"
    NOT_GROWN = "NotGrown"
    NEARLY_FULL = "NearlyFull"
    FILES_FULL = "FilesFull"
    THROTTLED_BY_VOLUME = "ThrottledByVolume"
    THROTTLED_BY_INSTANCE = "ThrottledByInstance"
    WRONG_TIMEOUT = "WrongTimeout"
    STALE_MOUNT = "StaleMount"
    DEVICE_GONE = "DeviceGone"
    UNKNOWN_OWNER = "UnknownOwner"
    STEP_FAILED = "StepFailed"
    # Not known for now.
    UNREACHABLE = "Unreachable"
    TOO_SLOW = "TooSlow"
    # Waiting.
    NOT_ATTACHED = "NotAttached"
    WAITING_FOR_CLOUD = "WaitingForCloud"
    PERMISSION_DENIED = "PermissionDenied"
    ATTACHMENT_LIMIT = "AttachmentLimit"
    ATTACHED_ELSEWHERE = "AttachedElsewhere"
    WRONG_ZONE = "WrongZone"
    CLOUD_ERROR = "CloudError"
    NOT_IN_POLICY = "NotInPolicy"

    def __str__(self) -> str:
        return self.value


class FsType(str, Enum):
    """A filesystem the agent can make, check, grow and mount."""

    EXT4 = "ext4"
    XFS = "xfs"
    BTRFS = "btrfs"

    def __str__(self) -> str:
        return self.value


class FormatRule(str, Enum):
    """When a volume may be formatted."""

    NEVER = "never"
    IF_BLANK = "if-blank"

    def __str__(self) -> str:
        return self.value


class DeviceNumber(NamedTuple):
    """A dev_t: what the kernel, mountinfo and sysfs call a device by while it exists."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}:{self.minor}"


@dataclass(frozen=True)
class Identity:
    """What a device says it is, asked by ioctl on an open descriptor."""

    volume_id: VolumeId
    model: str
    serial: str
    attach_name: str | None = None
    """Block device name chosen at attach, with ``/dev/``: ``/dev/sdf``. A hint for matching, no identity."""
    is_shared: bool = False
    """The namespace may be attached to several controllers: an io2 multi-attach volume."""


@dataclass(frozen=True)
class Partition:
    """One partition of a device, as the kernel has it."""

    number: int
    path: str
    device_number: DeviceNumber
    start_bytes: int
    size_bytes: int
    holders: tuple[str, ...] = ()


@dataclass(frozen=True)
class Device:
    """One appearance of a volume on this node. All of it may change at the next look but the identity."""

    path: str
    device_number: DeviceNumber
    identity: Identity
    size_bytes: int
    diskseq: int | None = None
    """The kernel's serial number of this appearance (BLKGETDISKSEQ, Linux 5.15 and later)."""
    is_read_only: bool = False
    partitions: tuple[Partition, ...] = ()
    holders: tuple[str, ...] = ()
    """Names under sysfs ``holders/``: device-mapper, md and the like built on the device."""

    @property
    def numbers(self) -> frozenset[DeviceNumber]:
        return frozenset({self.device_number, *(p.device_number for p in self.partitions)})


@dataclass(frozen=True)
class Seen:
    """A device path, and what it answered when asked which volume it is: ``identity`` or ``refusal``."""

    path: str
    identity: Identity | None = None
    size_bytes: int = 0
    refusal: str | None = None
    """Why it is no volume of ours, or why it did not say; a sentence."""
    diskseq: int | None = None
    """The kernel's number of this appearance of the disk; None from kernels that count none."""
    is_silent: bool = False
    """It did not say which volume it is; the one it was known to be may be there, stalled or cut off."""


# -- What is on a device ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Blank:
    """Proven: no signature, no partition, no holder, and every sampled read succeeded and was zero."""

    sampled_bytes: int
    is_whole: bool = False
    """Every byte was read, not a sample."""


@dataclass(frozen=True)
class Filesystem:
    """A filesystem of a type the agent knows, on the whole device or on its only partition."""

    type: FsType
    uuid: str
    label: str | None = None
    size_bytes: int | None = None
    """Bytes the filesystem spans, from its superblock; None where that could not be read."""
    partition: int | None = None
    has_errors: bool = False
    """The superblock itself records errors (ext4's error flag)."""
    is_pristine: bool | None = None
    """The superblock proves that it was never mounted since mkfs began; None where it cannot tell."""


@dataclass(frozen=True)
class Foreign:
    """Something is there that the agent must not touch. ``what`` completes "the volume holds …"."""

    what: str
    offset_bytes: int | None = None
    is_signed: bool = True
    """A known format was recognised; False for bytes that are merely not zero."""
    is_own_remains: bool = False
    """All that is there was shown to come from the interrupted format that the agent has a note of."""


@dataclass(frozen=True)
class Unknown:
    """The probe failed, so nothing is known. ``why`` is a clause. Never blank."""

    why: str


Content: TypeAlias = "Blank | Filesystem | Foreign | Unknown"


# -- What was observed --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mount:
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

    @property
    def is_read_only(self) -> bool:
        return "ro" in self.options or "ro" in self.super_options


@dataclass(frozen=True)
class Exclusion:
    """Why a device is not the agent's to touch."""

    reason: Reason
    message: str
    hint: str | None = None


@dataclass(frozen=True)
class Checked:
    """What a filesystem check found, in this look, on this descriptor."""

    is_clean: bool
    detail: str = ""


class FormatStage(str, Enum):
    """How far the agent's own formatting of a volume has come, as written down and synced."""

    INTENDED = "intended"
    DONE = "done"


@dataclass(frozen=True)
class FormatRecord:
    """The durable note about formatting one volume: written before mkfs, completed after it was observed."""

    volume_id: VolumeId
    uuid: str
    type: FsType
    size_bytes: int
    stage: FormatStage
    recorded_at: str
    """UTC, ISO 8601. For people; no decision depends on it."""


@dataclass(frozen=True)
class MountRecord:
    """The durable note that the agent mounted a volume; tells its stale mount from anyone else's."""

    volume_id: VolumeId
    path: str
    device_number: DeviceNumber
    boot_id: str
    diskseq: int | None = None
    options: tuple[str, ...] = ()
    """As last asked for; the kernel does not show every one of them."""


@dataclass(frozen=True)
class RootInode:
    """Owner, group and permission bits of the directory a filesystem is seen at."""

    uid: int
    gid: int
    mode: int


@dataclass(frozen=True)
class Process:
    """A process in the way of an unmount."""

    pid: int
    name: str
    user: str = "?"


@dataclass(frozen=True)
class Tuning:
    """Block-layer settings of a device, as sysfs shows them."""

    read_ahead_bytes: int | None = None
    scheduler: str | None = None


@dataclass(frozen=True)
class Origin:
    """What the cloud knows about a volume, where it was asked and answered."""

    snapshot_id: str | None = None
    tags: tuple[tuple[str, str], ...] = ()
    type: str | None = None
    is_multi_attach: bool = False
    is_made_by_agent: bool = False
    """Created empty by this agent for this claim, under a client token it holds the record of."""


@dataclass(frozen=True)
class NodeFacts:
    """Who this node is in its cluster; None is what is not known (yet), which no policy entry matches."""

    instance_name: str | None = None
    """``compute-nodes-1``: kept when HyperPod replaces the instance (Slurm)."""
    instance_group: str | None = None
    instance_id: str | None = None
    """``i-…``: another one after every replacement."""
    cluster_id: str | None = None
    """The twelve characters at the end of the cluster's ARN."""

    def or_else(self, other: NodeFacts) -> NodeFacts:
        """Return these facts, with those of ``other`` for what is not known here."""
        return NodeFacts(
            self.instance_name or other.instance_name,
            self.instance_group or other.instance_group,
            self.instance_id or other.instance_id,
            self.cluster_id or other.cluster_id,
        )


@dataclass(frozen=True)
class Ids:
    """Owner and group names of the policy resolved on this node; ``missing`` names one that is not there."""

    uid: int | None = None
    gid: int | None = None
    missing: str | None = None


@dataclass(frozen=True)
class Observed:
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
    was_lost: bool = False
    """It vanished while mounted and has not been ready since."""
    applied_options: tuple[str, ...] | None = None
    """The options the agent last asked for at the wanted path; None for a mount it did not make."""
    obstacle: str | None = None
    """What stands at the wanted mount path and is not this volume: ``another filesystem (/dev/sdb1)``."""
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
    tuning: Tuning = field(default_factory=Tuning)
    is_uuid_mounted_elsewhere: bool = False
    """Another mounted filesystem, or one that died mounted, has this UUID: xfs then needs ``nouuid``."""
    origin: Origin | None = None
    is_origin_awaited: bool = False
    """The cloud is being asked where the volume comes from, and has not answered yet."""


# -- What is wanted -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WantedFilesystem:
    """The filesystem a volume is to hold, and whether it may be made."""

    type: FsType
    format: FormatRule = FormatRule.NEVER
    label: str | None = None
    mkfs_options: tuple[str, ...] = ()


@dataclass(frozen=True)
class WantedMount:
    """Where and how a filesystem is to be seen. ``mode`` is the permission bits of its root directory."""

    path: str
    options: tuple[str, ...] = ()
    owner: str | None = None
    group: str | None = None
    mode: int | None = None

    @property
    def is_read_only(self) -> bool:
        return "ro" in self.options


@dataclass(frozen=True)
class WantedBlock:
    """A raw volume: who may use its device node."""

    owner: str | None = None
    group: str | None = None
    mode: int | None = None


@dataclass(frozen=True)
class WantedTuning:
    """Block-layer settings to keep; None leaves one as it is."""

    read_ahead_bytes: int | None = None
    scheduler: str | None = None


@dataclass(frozen=True)
class Wanted:
    """What someone (today the policy file, later a CSI service) wants of one volume."""

    volume_id: VolumeId
    name: str
    filesystem: WantedFilesystem | None = None
    mount: WantedMount | None = None
    block: WantedBlock | None = None
    grow: bool = False
    required: bool = False
    tune: WantedTuning = field(default_factory=WantedTuning)
