"""What kubelet asks of a node, in the agent's own words: no protobuf, and every value checked.

The terms are those of the Container Storage Interface 1.12: a volume is staged once on a node, at a directory
of kubelet's, and published from there to each pod that uses it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Protocol

from msgspec import Struct, field

from agent.core.model import FsType, VolumeId


class AccessMode(str, Enum):
    """Who may use a volume at once, and how (CSI, VolumeCapability.AccessMode)."""

    SINGLE_NODE_WRITER = "SINGLE_NODE_WRITER"
    SINGLE_NODE_READER_ONLY = "SINGLE_NODE_READER_ONLY"
    MULTI_NODE_READER_ONLY = "MULTI_NODE_READER_ONLY"
    MULTI_NODE_SINGLE_WRITER = "MULTI_NODE_SINGLE_WRITER"
    MULTI_NODE_MULTI_WRITER = "MULTI_NODE_MULTI_WRITER"
    SINGLE_NODE_SINGLE_WRITER = "SINGLE_NODE_SINGLE_WRITER"
    """ReadWriteOncePod: one pod at a time."""
    SINGLE_NODE_MULTI_WRITER = "SINGLE_NODE_MULTI_WRITER"

    @property
    def is_read_only(self) -> bool:
        return self in {AccessMode.SINGLE_NODE_READER_ONLY, AccessMode.MULTI_NODE_READER_ONLY}

    def __str__(self) -> str:
        return self.value


class Capability(Struct, frozen=True):
    """How a volume is to be used: as a block device, or by a filesystem with flags of its mount."""

    access: AccessMode
    is_block: bool = False
    fs_type: FsType = FsType.EXT4
    """What it is formatted as where it is blank; meaningless for a block volume."""
    mount_flags: tuple[str, ...] = ()


class StageCall(Struct, frozen=True):
    """Make a volume usable on this node, at ``staging_path``, which is kubelet's and unresolved."""

    volume_id: VolumeId
    staging_path: str
    capability: Capability
    mkfs_options: tuple[str, ...] = ()
    partition: int | None = None
    """The partition whose filesystem is meant; None: the volume's only one, or the volume itself."""
    is_copy: bool = False
    """Its context says that it was made from a snapshot or another volume: it is never formatted."""
    is_format_allowed: bool = True


class PublishCall(Struct, frozen=True):
    """Show a staged volume to one pod, at ``target_path``: a directory, or for a block volume a file."""

    volume_id: VolumeId
    staging_path: str
    target_path: str
    capability: Capability
    is_read_only: bool = False


class ExpandCall(Struct, frozen=True):
    """Have the filesystem of a volume fill its device, which is to have ``required_bytes`` at least."""

    volume_id: VolumeId
    volume_path: str
    """Where it is staged or published."""
    required_bytes: int | None = None
    limit_bytes: int | None = None
    is_block: bool = False


class SpaceUsage(Struct, frozen=True):
    """How full a volume is: in bytes, and in inodes where it has a filesystem (None: a block device)."""

    total_bytes: int
    used_bytes: int | None = None
    available_bytes: int | None = None
    total_inodes: int | None = None
    used_inodes: int | None = None
    available_inodes: int | None = None


class NodeInfo(Struct, frozen=True):
    """What the scheduler and the attaching controller are told of this node."""

    node_id: str
    max_volumes: int | None = None
    """How many volumes of this driver can be attached at once; None: not known."""
    topology: Mapping[str, str] = field(default_factory=dict)


class NodeVolumes(Protocol):
    """What the agent does for kubelet. Each may be asked again at any time, and is then as good as once.

    All raise AgentError: its reason decides the code of the answer (``agent.csi.service.codes``).
    """

    async def stage(self, call: StageCall) -> None:
        """Return when the volume is mounted, or known to be a usable block device."""

    async def unstage(self, volume_id: VolumeId, staging_path: str) -> None:
        """Return when nothing of the volume is mounted any more and nobody holds its device."""

    async def publish(self, call: PublishCall) -> None:
        """Return when the staged volume is seen at the target."""

    async def unpublish(self, volume_id: VolumeId, target_path: str) -> None:
        """Return when nothing is at the target any more, nor the target itself."""

    async def expand(self, call: ExpandCall) -> int:
        """Return the size of the device in bytes, once the filesystem fills it."""

    async def measure(self, volume_id: VolumeId, volume_path: str) -> SpaceUsage:
        """Return how full the volume at this path is; never waits for a device that does not answer."""

    async def describe_node(self) -> NodeInfo:
        """Return who this node is and what it takes."""
