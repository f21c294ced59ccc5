"""What is wanted of a volume, whoever wants it."""

from __future__ import annotations

from enum import Enum

from msgspec import Struct, field

from agent.core.model.content import FsType
from agent.core.model.volume import VolumeId


class FormatRule(str, Enum):
    """When a volume may be formatted."""

    NEVER = "never"
    IF_BLANK = "if-blank"

    def __str__(self) -> str:
        return self.value


class WantedFilesystem(Struct, frozen=True):
    """The filesystem a volume is to hold, and whether it may be made."""

    type: FsType
    format: FormatRule = FormatRule.NEVER
    label: str | None = None
    mkfs_options: tuple[str, ...] = ()
    partition: int | None = None
    """The partition that is to hold it; None: the volume itself, or its only one."""


class WantedMount(Struct, frozen=True):
    """Where and how a filesystem is to be seen. ``mode`` is the permission bits of its root directory."""

    path: str
    options: tuple[str, ...] = ()
    owner: str | None = None
    group: str | None = None
    mode: int | None = None

    @property
    def is_read_only(self) -> bool:
        return "ro" in self.options


class WantedBlock(Struct, frozen=True):
    """A raw volume: who may use its device node."""

    owner: str | None = None
    group: str | None = None
    mode: int | None = None


class WantedTuning(Struct, frozen=True):
    """Block-layer settings to keep; None leaves one as it is."""

    read_ahead_bytes: int | None = None
    scheduler: str | None = None


class Wanted(Struct, frozen=True):
    """What the policy or kubelet wants of one volume."""

    volume_id: VolumeId
    name: str
    filesystem: WantedFilesystem | None = None
    mount: WantedMount | None = None
    block: WantedBlock | None = None
    grow: bool = False
    required: bool = False
    tune: WantedTuning = field(default_factory=WantedTuning)
    is_broad: bool = False
    """The volume is meant by what it is like (its size, its device name), and not named."""
    is_kubelets: bool = False
    """Kubelet wants it: at a directory of kubelet's, which kubelet has made, and shown to pods from there."""
    is_leaving: bool = False
    """It is about to be taken from where it is mounted, so that its filesystem is asked nothing."""


class WantedView(Struct, frozen=True):
    """Where a pod is to see a volume: the filesystem that is mounted on the node, or the device node."""

    path: str
    is_read_only: bool = False
    options: tuple[str, ...] = ()
    """Of this mount alone: ``nosuid``, ``noexec`` and their like."""


class Expected(Struct, frozen=True):
    """A volume that something is wanted of on this node, whether it is attached or not."""

    name: str
    volume_id: VolumeId | None
    """None: any volume that matches."""
    is_required: bool


class Released(Struct, frozen=True):
    """A volume that was taken away from what wants it: nothing is done with it until it is given back."""

    wanted: Wanted
    why: str = "was taken away by hand"
    """A clause about the volume."""
