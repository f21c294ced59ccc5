"""What Kubernetes asks of the controller, in the agent's own words: no protobuf, and every value checked.

The terms are those of the Container Storage Interface 1.12. What is asked for by a name is made once under
that name, however often it is asked for; all else is as good once as often.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from msgspec import Struct

from agent.cloud.aws.models import CloudSnapshot, CloudVolume, Tags
from agent.core.errors import AgentError, InvalidValueError, RefusedError
from agent.core.model import VolumeId

T = TypeVar("T")

Pairs = tuple[tuple[str, str], ...]
"""Keys with their values, sorted by key."""

GIB = 1 << 30


class DiffersError(RefusedError):
    """Under this name something else was made before, which is neither changed nor taken for it."""


class NoSuchThingError(AgentError):
    """What was named is not there, nor can be: a volume, a snapshot or a node."""


@dataclass(eq=False)
class SizeError(InvalidValueError):
    """No volume of the asked type, source or range can have such a size."""


class NodeId(Struct, frozen=True):
    """The node that a volume is attached to, as its CSINode has it."""

    instance_id: str
    cluster_id: str | None = None
    """Of the HyperPod cluster it belongs to; None: an instance of the account's own."""

    def __str__(self) -> str:
        prefix = "" if self.cluster_id is None else f"hyperpod-{self.cluster_id}-"
        return prefix + self.instance_id


class SizeRange(Struct, frozen=True):
    """How large a volume is to be, in bytes."""

    required_bytes: int | None = None
    limit_bytes: int | None = None


class Performance(Struct, frozen=True):
    """What a StorageClass or a VolumeAttributesClass asks of a volume; None: not said."""

    type: str | None = None
    iops: int | None = None
    iops_per_gib: int | None = None
    """In place of ``iops``."""
    may_raise_iops: bool = False
    """Fewer than the type has at least become that many, where ``iops_per_gib`` asks for fewer."""
    throughput_mib: int | None = None
    follows_size: bool | None = None
    """IOPS for each GiB become more when the volume grows."""


class CopySource(Struct, frozen=True):
    """What a new volume holds from its first moment: a snapshot's bytes, or another volume's."""

    snapshot_id: str | None = None
    volume_id: VolumeId | None = None


class CreateCall(Struct, frozen=True):
    """Make a volume, or find the one that was made under this name."""

    name: str
    """Of any length and script; the volume carries it as a tag."""
    size: SizeRange
    performance: Performance = Performance()
    requisite: tuple[Pairs, ...] = ()
    """Topologies of which one must have the volume; empty: any."""
    preferred: tuple[Pairs, ...] = ()
    """The same, in the order in which they are to be tried."""
    source: CopySource | None = None
    is_multi_attach: bool = False
    is_encrypted: bool | None = None
    """None: as the account has it by default."""
    kms_key_id: str | None = None
    initialization_rate_mib: int | None = None
    tags: Tags = ()
    """Those of the class, its templates filled in, and those that say for which claim the volume is made."""
    context: Pairs = ()
    """What the node is told of the volume each time it is staged."""


class MadeVolume(Struct, frozen=True):
    """A volume that can be attached, as the claim that asked for it is told of it."""

    volume: CloudVolume
    topology: Pairs
    """Where it can be used, by the keys that it was asked for with."""
    source: CopySource | None = None
    context: Pairs = ()


class AttachCall(Struct, frozen=True):
    """Have a node see a volume."""

    volume_id: VolumeId
    node: NodeId
    is_read_only: bool = False
    is_multi_node: bool = False
    """Several nodes may have it at once, which only a volume with multi-attach can."""
    is_initialized_first: bool = False
    """A copy is attached only when all of its content is there."""


class ExpandCall(Struct, frozen=True):
    """Make a volume larger; it never becomes smaller."""

    volume_id: VolumeId
    size: SizeRange
    is_block: bool = False


class ModifyCall(Struct, frozen=True):
    """Give a volume another class."""

    volume_id: VolumeId
    performance: Performance = Performance()
    tags: Tags = ()
    removed_tags: tuple[str, ...] = ()


class SnapshotLock(Struct, frozen=True):
    """How a snapshot is protected from being deleted (EC2, LockSnapshot)."""

    mode: str
    """governance | compliance"""
    duration_days: int | None = None
    expires_at: str | None = None
    """ISO 8601, in place of ``duration_days``."""
    cool_off_hours: int | None = None


class SnapshotCall(Struct, frozen=True):
    """Take a snapshot of a volume, or find the one that was taken under this name."""

    name: str
    volume_id: VolumeId
    tags: Tags = ()
    fast_restore_zones: tuple[str, ...] = ()
    lock: SnapshotLock | None = None


class PublishedVolume(Struct, frozen=True):
    """One volume that is listed, and the nodes that have it."""

    volume: CloudVolume
    nodes: tuple[NodeId, ...] = ()


class Page(Struct, Generic[T], frozen=True):
    """Some entries of a list, and what to ask for the next ones with; None: these were the last."""

    entries: tuple[T, ...]
    next_token: str | None = None


class SnapshotQuery(Struct, frozen=True):
    """Which snapshots are asked for; all of the cluster's where neither is said."""

    snapshot_id: str | None = None
    source_volume_id: str | None = None


class UseQuestion(Struct, frozen=True):
    """Whether a volume can be used so."""

    volume_id: VolumeId
    modes: tuple[tuple[str, bool], ...] = ()
    """(access mode as the interface names it, whether as a block device) of each use that is asked about."""


class Volumes(Protocol):
    """What the controller does with volumes. All raise AgentError, whose reason decides the answer's code."""

    async def create(self, call: CreateCall) -> MadeVolume:
        """Return the volume of this name once it can be attached; one that differs is refused."""

    async def delete(self, volume_id: VolumeId) -> None:
        """Return when the volume is deleted, or was before; one that a node has is refused."""

    async def attach(self, call: AttachCall) -> Pairs:
        """Return what the node is to be told, once AWS says that the volume is attached to it."""

    async def detach(self, volume_id: VolumeId, node: NodeId | None) -> None:
        """Return once AWS describes no attachment of the volume to the node; None: to any node."""

    async def expand(self, call: ExpandCall) -> int:
        """Return the volume's size in bytes once it can be used."""

    async def modify(self, call: ModifyCall) -> None:
        """Return once the volume is as asked for."""

    async def find(self, volume_id: VolumeId) -> PublishedVolume:
        """Return the volume and its nodes."""

    async def explain_misuse(self, question: UseQuestion) -> str | None:
        """Return why the volume cannot be used so; None: it can."""

    async def list_volumes(self, most: int | None, token: str | None) -> Page[PublishedVolume]:
        """Return the cluster's volumes, and all else that its nodes have attached."""


class Snapshots(Protocol):
    """What the controller does with snapshots. All raise AgentError."""

    async def take(self, call: SnapshotCall) -> CloudSnapshot:
        """Return the snapshot of this name as soon as it is begun; ``state`` says whether it is complete."""

    async def delete(self, snapshot_id: str) -> None:
        """Return when the snapshot is deleted, or was before."""

    async def list_snapshots(
        self, query: SnapshotQuery, most: int | None, token: str | None
    ) -> Page[CloudSnapshot]:
        """Return the snapshots that are asked for."""


def require_pairs(pairs: Sequence[tuple[str, str]]) -> Pairs:
    """Return the pairs as they are compared and kept: sorted by key."""
    return tuple(sorted(pairs))
