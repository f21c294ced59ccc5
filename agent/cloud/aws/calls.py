"""Every call the agent may make to AWS.

This is the whole list: the worker refuses what is not here, ``permissions`` derives policies from it, and
tests check each against botocore's service model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, TypeAlias

from typing_extensions import override

from agent.cloud.aws import models, snapshot_models
from agent.cloud.aws.answer_fields import Unread
from agent.cloud.aws.call import Call, Change, SentAs
from agent.cloud.aws.models import CloudSnapshot, CloudVolume, ClusterNode, Modification, Tags
from agent.cloud.aws.request_syntax import Filters, filtered_by, write_filters, write_tags, write_tags_of
from agent.cloud.aws.snapshot_models import ZoneRefusal
from agent.core.model import VolumeId
from agent.core.replace import replace

_Filtered: TypeAlias = Annotated[Filters, SentAs("Filters", write_filters)]
_Volumes: TypeAlias = Annotated[tuple[VolumeId, ...], filtered_by("volume-id")]
_Instances: TypeAlias = Annotated[tuple[str, ...], filtered_by("instance-id")]
_Volume: TypeAlias = Annotated[VolumeId, SentAs("VolumeId")]
_Snapshot: TypeAlias = Annotated[str, SentAs("SnapshotId")]
_Source: TypeAlias = Annotated[str, SentAs("SourceSnapshotIds", lambda snapshot: [snapshot])]
_Zones: TypeAlias = Annotated[tuple[str, ...], SentAs("AvailabilityZones")]
_Instance: TypeAlias = Annotated[str, SentAs("InstanceId")]
_Node: TypeAlias = Annotated[str, SentAs("NodeId")]
_Cluster: TypeAlias = Annotated[str, SentAs("ClusterName")]
_Count: TypeAlias = "int | None"


# -- Asking --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DescribeVolumes(
    Call[tuple[CloudVolume | Unread, ...]], pages="Volumes", named_by="VolumeId", reads=models.parse_volume
):
    """Volumes by ``volume-id``, ``tag:…`` and other filters; filters never fail on an ID that is gone."""

    filters: _Filtered = ()


@dataclass(frozen=True)
class DescribeVolumesModifications(
    Call[tuple[Modification, ...]], pages="VolumesModifications", reads=models.parse_modification
):
    """The last modifications of volumes; one that never was modified has none."""

    volume_ids: _Volumes


@dataclass(frozen=True)
class DescribeSnapshots(
    Call[tuple[CloudSnapshot | Unread, ...]],
    pages="Snapshots",
    named_by="SnapshotId",
    reads=models.parse_snapshot,
):
    """Snapshots of this account only: everyone's public ones would be tens of thousands."""

    filters: _Filtered = ()
    owners: Annotated[tuple[str, ...], SentAs("OwnerIds")] = ("self",)


@dataclass(frozen=True)
class DescribeInstances(
    Call[tuple[tuple[tuple[str, str], ...], ...]], pages="Reservations", reads=models.parse_reservation
):
    """(instance ID, state name) of ordinary instances; HyperPod's are not in the account and never show."""

    instance_ids: _Instances


@dataclass(frozen=True)
class DescribeClusterNode(
    Call[ClusterNode], service="sagemaker", reads=lambda answer: models.parse_node(answer.get("NodeDetails"))
):
    """One node of a HyperPod cluster, its group and its zone."""

    cluster: _Cluster
    instance_id: _Node


@dataclass(frozen=True)
class ListClusterNodes(
    Call[tuple[ClusterNode, ...]],
    service="sagemaker",
    pages="ClusterNodeSummaries",
    reads=models.parse_node,
):
    """All nodes, every page: the absence of one is only told by the whole list."""

    cluster: _Cluster


@dataclass(frozen=True)
class GetCallerIdentity(Call[tuple[str, str]], service="sts", reads=models.parse_caller):
    """(account, ARN of the role) the node's credentials belong to. Needs no permission."""


# -- Attaching -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AttachClusterNodeVolume(
    Change[str],
    service="sagemaker",
    says="attach {volume_id} to {instance_id}",
    reads=models.read_text("Status"),
):
    """Attach to a HyperPod node; the answer is the attachment's status."""

    cluster_arn: Annotated[str, SentAs("ClusterArn")]
    instance_id: _Node
    volume_id: _Volume


@dataclass(frozen=True)
class DetachClusterNodeVolume(
    Change[str],
    service="sagemaker",
    says="detach {volume_id} from {instance_id}",
    reads=models.read_text("Status"),
):
    """Detach from a HyperPod node; EC2's own DetachVolume is refused there."""

    cluster_arn: Annotated[str, SentAs("ClusterArn")]
    instance_id: _Node
    volume_id: _Volume


@dataclass(frozen=True)
class AttachVolume(
    Change[str],
    says="attach {volume_id} to {instance_id} as {device}",
    reads=models.read_text("State"),
):
    """Attach to an ordinary instance, under a block device name that has to be free."""

    instance_id: _Instance
    volume_id: _Volume
    device: Annotated[str, SentAs("Device")]

    @property
    @override
    def purpose(self) -> Change[str]:
        """That the volume is attached; under which name is chosen anew each time."""
        return replace(self, device="")


@dataclass(frozen=True)
class DetachVolume(
    Change[str],
    says="detach {volume_id} from {instance_id}",
    reads=models.read_text("State"),
):
    """Detach from an ordinary instance; AWS waits for nobody who still uses it."""

    instance_id: _Instance
    volume_id: _Volume


# -- Volumes and snapshots -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModifyVolume(
    Change[Modification], reads=lambda answer: models.parse_modification(answer.get("VolumeModification"))
):
    """Change size, type, IOPS or throughput. One that changes nothing still counts against the quota."""

    volume_id: _Volume
    size_gib: Annotated[_Count, SentAs("Size")] = None
    type: Annotated[str | None, SentAs("VolumeType")] = None
    iops: Annotated[_Count, SentAs("Iops")] = None
    throughput: Annotated[_Count, SentAs("Throughput")] = None

    @override
    def describe(self) -> str:
        changes = (
            self.size_gib and f"{self.size_gib} GiB",
            self.type,
            self.iops and f"{self.iops} IOPS",
            self.throughput and f"{self.throughput} MiB/s",
        )
        return f"modify {self.volume_id} to {', '.join(change for change in changes if change)}"


@dataclass(frozen=True)
class DeleteVolume(Change[None], is_repeatable=True, says="delete {volume_id}"):
    """Delete a volume and what is on it; only ever one the agent made under ``on_delete: delete``."""

    volume_id: _Volume
    is_dry_run: Annotated[bool, SentAs("DryRun", lambda it: it or None)] = False
    """Have it checked and not made: fails with ``WOULD_SUCCEED`` where it would be made."""


@dataclass(frozen=True)
class CreateSnapshot(Change[CloudSnapshot], says="snapshot {volume_id}", reads=models.parse_snapshot):
    """Begin a snapshot; the moment it shows has passed when the answer is here."""

    volume_id: _Volume
    description: Annotated[str, SentAs("Description")]
    tags: Annotated[Tags, write_tags_of("snapshot")]
    is_dry_run: Annotated[bool, SentAs("DryRun", lambda it: it or None)] = False
    """Have it checked and not made: fails with ``WOULD_SUCCEED`` where it would be made."""


@dataclass(frozen=True)
class DeleteSnapshot(Change[None], is_repeatable=True, says="delete {snapshot_id}"):
    """Delete a snapshot; only ever one the agent made."""

    snapshot_id: _Snapshot


@dataclass(frozen=True)
class CreateTags(Change[None], is_repeatable=True):
    """Set tags of a volume or snapshot; others it has stay."""

    resource_id: Annotated[str, SentAs("Resources", lambda resource: [resource])]
    tags: Annotated[Tags, SentAs("Tags", write_tags)]

    @override
    def describe(self) -> str:
        return f"tag {self.resource_id} with {', '.join(key for key, _ in self.tags)}"


@dataclass(frozen=True)
class DeleteTags(Change[None], is_repeatable=True):
    """Take tags from a volume or snapshot; one that it has not is no error."""

    resource_id: Annotated[str, SentAs("Resources", lambda resource: [resource])]
    keys: Annotated[tuple[str, ...], SentAs("Tags", lambda keys: [{"Key": key} for key in keys])]

    @override
    def describe(self) -> str:
        return f"take {', '.join(self.keys)} from the tags of {self.resource_id}"


@dataclass(frozen=True)
class EnableFastSnapshotRestores(
    Change[tuple[ZoneRefusal, ...]], is_repeatable=True, reads=snapshot_models.parse_zone_refusals
):
    """Let volumes made from a snapshot be fast from the first read, in some zones, for money.

    AWS answers with success where it refuses some of the zones, or all: those are what the answer says.
    """

    snapshot_id: _Source
    zones: _Zones

    @override
    def describe(self) -> str:
        return f"make {self.snapshot_id} fast to restore in {', '.join(self.zones)}"


@dataclass(frozen=True)
class DisableFastSnapshotRestores(
    Change[tuple[ZoneRefusal, ...]], is_repeatable=True, reads=snapshot_models.parse_zone_refusals
):
    """End what ``EnableFastSnapshotRestores`` began, and its price; answers as that does."""

    snapshot_id: _Source
    zones: _Zones

    @override
    def describe(self) -> str:
        return f"end fast restores of {self.snapshot_id} in {', '.join(self.zones)}"


@dataclass(frozen=True)
class LockSnapshot(Change["str | None"], is_repeatable=True, reads=snapshot_models.parse_lock_end):
    """Protect a snapshot from deletion, for some days or until some time; ``compliance`` binds everyone.

    Answers when the lock ends, ISO 8601; None where AWS does not say.
    """

    snapshot_id: _Snapshot
    mode: Annotated[str, SentAs("LockMode")]
    duration_days: Annotated[_Count, SentAs("LockDuration")] = None
    expires_at: Annotated[str | None, SentAs("ExpirationDate")] = None
    """ISO 8601, in place of ``duration_days``."""
    cool_off_hours: Annotated[_Count, SentAs("CoolOffPeriod")] = None
    """For so long a lock of mode ``compliance`` can still be taken back."""

    @override
    def describe(self) -> str:
        end = f"for {self.duration_days} days" if self.expires_at is None else f"until {self.expires_at}"
        return f"lock {self.snapshot_id} {end} ({self.mode})"
